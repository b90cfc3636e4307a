from dataclasses import dataclass
from typing import Any, ClassVar

import networkx as nx
import pytest
import torch

from flower_dfl import registry
from flower_dfl.attacks.label_flip import LabelFlip
from flower_dfl.attacks.rule_in_the_loop import RuleInTheLoop
from flower_dfl.attacks.scaling import Scaling
from flower_dfl.errors import ByzantineBudgetError, ConfigurationError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.average import Average
from flower_dfl.strategies.dfl_dual import DflDual
from flower_dfl.strategies.krum import Krum
from flower_dfl.testing import aggregate, craft, linear_learner
from flower_dfl.training import one_thread
from flower_dfl.types import Aggregate, Knowledge, Need
from tests.attacks.small_images import context, images


@pytest.fixture(autouse=True)
def alone():
    with one_thread():
        yield


@dataclass(frozen=True, slots=True)
class Within(PeerStrategy[None]):
    """Takes everybody within a radius of the own half-step, and tells what it saw."""

    needs: ClassVar[frozenset[Need]] = frozenset(Need)
    radius: float
    seen: Any = None
    budget: int = 99

    def aggregate(self, inbox, state, ctx):
        if self.seen is not None:
            self.seen.append((inbox, ctx))
        if ctx.budget > self.budget:
            raise ByzantineBudgetError(f"too many: {ctx.budget}")
        near = {u.sender: float((u.vector - inbox.own.vector).norm() <= self.radius) for u in inbox.members}
        return Aggregate(inbox.own.vector.clone(), state, near)


def test_it_goes_as_far_as_the_rule_allows_worked_by_hand():
    # receiver at (0, 0), the other honest node at (2, 0): mean (1, 0). The inner attack sends (9, 0). Taken within 5 of
    # the receiver: 1 + rho * 8 = 5, rho = 1/2
    honest, half_step = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([9.0, 0.0])

    sent = craft(RuleInTheLoop(Within(5.001), LabelFlip(), steps=14), honest, [half_step])

    assert sent.tolist() == pytest.approx([5, 0], abs=0.002)


def test_every_receiver_is_told_something_else():
    # receiver 1 at (2, 0): the same mean, taken up to (7, 0)
    honest, half_step = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([9.0, 0.0])

    sent = craft(RuleInTheLoop(Within(5.001), LabelFlip(), steps=14), honest, [half_step], receiver=1)

    assert sent.tolist() == pytest.approx([7, 0], abs=0.002)


def neighbourhood(dimension=12, colluders=2):
    draw = torch.Generator().manual_seed(3)
    base = torch.randn(dimension, generator=draw)
    honest = base + 0.1 * torch.randn(6, dimension, generator=draw)
    return base, honest, base + 0.1 * torch.randn(colluders, dimension, generator=draw)


@pytest.mark.parametrize("rule", [Krum(), DflDual(iterations=5, per_class=2)], ids=lambda rule: type(rule).__name__)
def test_the_receivers_own_rule_takes_it_and_would_not_take_a_slightly_larger_step(rule):
    base, honest, colluders = neighbourhood()
    model = linear_learner(12)
    attack = RuleInTheLoop(rule, Scaling(gamma=50), steps=18)

    sent = craft(attack, honest, colluders, base=base, learner=model)

    mean = honest.mean(dim=0)
    weight = {}
    for step in (1.0, 1.01):
        received = torch.cat([honest[1:], (mean + step * (sent - mean)).expand(2, -1)])
        needed = model if Need.LEARNER in rule.needs else None
        result = aggregate(rule, honest[0], received, base=base, f=2, learner=needed)
        weight[step] = result.weights[6] + result.weights[7]
    assert weight[1.0] > 0
    assert weight[1.01] == 0


def test_all_colluders_send_the_same_to_a_receiver():
    base, honest, colluders = neighbourhood(colluders=3)
    attack = RuleInTheLoop(Krum(), Scaling(gamma=50))

    sent = [craft(attack, honest, colluders, base=base, attacker=k) for k in range(3)]

    assert torch.equal(sent[0], sent[1])
    assert torch.equal(sent[0], sent[2])


def test_a_rule_that_takes_everything_gets_the_inner_attacks_vector():
    base, honest, colluders = neighbourhood()
    inner = Scaling(gamma=50)

    sent = craft(RuleInTheLoop(Average(), inner), honest, colluders, base=base)

    assert torch.equal(sent, craft(inner, honest, colluders, base=base))


def test_a_rule_that_takes_nothing_gets_the_honest_mean():
    base, honest, colluders = neighbourhood()

    sent = craft(RuleInTheLoop(Within(-1.0)), honest, colluders, base=base)

    assert torch.allclose(sent, honest.mean(dim=0), atol=1e-6)


def test_the_rule_sees_exactly_what_the_receiver_will_get():
    # honest 0, 1, 2, Byzantine 3, 4, 5; the receiver 0 has 1, 3 and 4
    graph = nx.Graph([(0, 1), (0, 3), (0, 4), (1, 2), (3, 4), (4, 5), (2, 5)])
    seen = []
    base, honest, colluders = torch.zeros(2), torch.ones(3, 2), torch.full((3, 2), 5.0)
    attack = RuleInTheLoop(Within(1.0, seen), LabelFlip())

    craft(attack, honest, colluders, base=base, neighbours=graph, learner=linear_learner(2), attacker=1, round=4)

    inbox, told = seen[0]
    assert inbox.own.sender == 0
    assert [u.sender for u in inbox.received] == [1, 3, 4]
    assert [u.vector.tolist() for u in inbox.received] == [[1, 1], [5, 5], [5, 5]]
    # Metropolis: 1 / (1 + max degree), degrees 3, 2, 2, 3 of nodes 0, 1, 3, 4
    assert inbox.mixing_weights.tolist() == pytest.approx([1 / 4, 1 / 4, 1 / 4])
    assert (told.node, told.round, told.num_rounds, told.budget, told.num_steps) == (0, 4, 10, 2, 2.0)
    assert told.honest == {0, 1, 2}
    assert torch.equal(told.base, base)
    assert told.data is not None
    assert told.learner is not None
    assert all(u.base is not None for u in inbox.members)
    assert all(u.digest is None for u in inbox.members)


@dataclass(frozen=True, slots=True)
class Started(Within):
    """Remembers where it starts."""

    def init(self, own):
        return own

    def aggregate(self, inbox, state, ctx):
        assert torch.equal(state, ctx.base)
        return Within.aggregate(self, inbox, state, ctx)


def test_the_rules_memory_starts_where_the_receiver_does():
    honest, base = torch.ones(3, 2), torch.full((2,), 0.5)

    sent = craft(RuleInTheLoop(Started(100.0), LabelFlip()), honest, torch.full((1, 2), 5.0), base=base)

    assert sent.tolist() == [5, 5]


@dataclass(frozen=True, slots=True)
class Digesting(Within):
    """Digests every message, and counts."""

    digested: Any = None

    def digest(self, update, ctx):
        self.digested.append((update.sender, tuple(update.vector.tolist()), ctx.round, ctx.learner is not None))
        return update.vector + ctx.round


def test_what_honest_nodes_send_is_digested_once_and_every_lie_anew():
    # candidates: the whole step, then halvings; honest 0 and 1, one attacker 2
    seen, digested = [], []
    honest, half_step = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([9.0, 0.0])
    rule = Digesting(5.001, seen, digested=digested)

    craft(RuleInTheLoop(rule, LabelFlip(), steps=6), honest, [half_step], learner=linear_learner(2), round=4)

    senders = [sender for sender, *_ in digested]
    assert (senders.count(0), senders.count(1), senders.count(2)) == (1, 1, 7)
    assert all((moment, has_learner) == (4, True) for *_, moment, has_learner in digested)
    assert all(torch.equal(u.digest, u.vector + 4) for inbox, _ in seen for u in inbox.members)


def test_a_budget_that_the_rule_cannot_carry_is_lowered_as_the_engine_does():
    seen = []
    base, honest, colluders = neighbourhood()

    craft(RuleInTheLoop(Within(1e9, seen, budget=0), LabelFlip()), honest, colluders, base=base)

    assert [told.budget for _, told in seen] == [2, 1, 0]


def test_a_rule_that_cannot_carry_any_budget_says_so():
    base, honest, colluders = neighbourhood()

    with pytest.raises(ByzantineBudgetError, match="too many: 0"):
        craft(RuleInTheLoop(Within(1.0, budget=-1)), honest, colluders, base=base)


def test_a_receiver_that_has_diverged_is_sent_the_inner_message():
    base, honest, colluders = neighbourhood()
    honest[0] = float("nan")

    assert torch.equal(craft(RuleInTheLoop(Krum(), LabelFlip()), honest, colluders, base=base), colluders[0])


def test_a_message_that_is_not_finite_is_never_sent_to_a_rule():
    base, honest, colluders = neighbourhood()
    colluders[0] = float("inf")
    seen = []

    craft(RuleInTheLoop(Within(1.0, seen), LabelFlip()), honest, colluders, base=base)

    assert all(torch.isfinite(u.vector).all() for inbox, _ in seen for u in inbox.members)


def test_it_poisons_as_the_inner_attack_does():
    inner = Scaling(target=2)
    attack = RuleInTheLoop(Krum(), inner)

    ours, theirs = (a.poison(images(), context()) for a in (attack, inner))

    assert torch.equal(ours.inputs, theirs.inputs)
    assert attack.trigger == inner.trigger
    assert RuleInTheLoop.knowledge is Knowledge.OMNISCIENT


def test_rule_and_inner_attack_are_built_from_names_or_tables():
    params = {"rule": "krum", "attack": {"name": "scaling", "params": {"gamma": 3}}}

    assert registry.build("attack", "rule-in-the-loop", params) == RuleInTheLoop(Krum(), Scaling(gamma=3.0))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"rule": "krum"}, "^rule must be a strategy, got 'krum'$"),
        ({"rule": Krum(), "attack": "scaling"}, "^attack must be an attack, got 'scaling'$"),
        ({"rule": Krum(), "steps": 0}, "^steps must be at least 1, got 0$"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_at_construction(params, message):
    with pytest.raises(ConfigurationError, match=message):
        RuleInTheLoop(**params)


def test_a_colluder_that_has_diverged_leads_nobody():
    honest = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    lost, sound = torch.tensor([torch.nan, 0.0]), torch.tensor([9.0, 0.0])

    led = craft(RuleInTheLoop(Within(5.0), LabelFlip()), honest, torch.stack([lost, sound]), attacker=1)
    alone = craft(RuleInTheLoop(Within(5.0), LabelFlip()), honest, torch.stack([lost, lost]), attacker=1)

    assert torch.allclose(led, torch.tensor([5.0, 0.0]), atol=0.01)
    assert alone.tolist() == [1.0, 0.0]  # the honest mean
