"""The contract checks must find what they are there to find: every violation below is planted."""

import itertools
from dataclasses import dataclass, field
from typing import Any, ClassVar

import networkx as nx
import pytest
import torch

from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import Attack, PeerStrategy
from flower_dfl.testing import (
    ContractViolation,
    aggregate,
    check_attack,
    check_schedule,
    check_strategy,
    check_topology,
    craft,
    linear_learner,
    small_data,
)
from flower_dfl.types import Aggregate, Knowledge, LabelledData, Need

COUNTER = itertools.count()


def members_of(inbox):
    return [inbox.own, *inbox.received]


def mean(inbox):
    return torch.stack([u.vector for u in members_of(inbox)]).double().mean(dim=0).float()


def answer(inbox, vector, state=None):
    return Aggregate(vector, state, {u.sender: 1 / len(inbox.members) for u in inbox.members})


@dataclass(frozen=True)
class Median(PeerStrategy[None]):
    """Keeps the contract: the coordinate-wise median, and the own model where nobody wrote."""

    needs: ClassVar[frozenset[Need]] = frozenset()

    def aggregate(self, inbox, state, ctx):
        vector = torch.stack([u.vector for u in inbox.members]).median(dim=0).values
        return answer(inbox, self.spoil(vector, inbox, ctx), state)

    def spoil(self, vector, inbox, ctx):
        return vector


class Aliasing(Median):
    def spoil(self, vector, inbox, ctx):
        return inbox.own.vector


class AliasingByView(Median):
    def spoil(self, vector, inbox, ctx):
        return inbox.received[0].vector.view(-1) if inbox.received else inbox.own.vector.clone()


class AliasingBase(Median):
    def spoil(self, vector, inbox, ctx):
        return ctx.base[:] if inbox.received else inbox.own.vector.clone()


class InPlaceOnOwn(Median):
    def spoil(self, vector, inbox, ctx):
        inbox.own.vector.add_(0.001)
        return vector


class InPlaceOnReceived(Median):
    def spoil(self, vector, inbox, ctx):
        for update in inbox.received:
            update.vector.mul_(1.001)
        return vector


class InPlaceOnBase(Median):
    def spoil(self, vector, inbox, ctx):
        ctx.base.zero_()
        return vector


class WrongShape(Median):
    def spoil(self, vector, inbox, ctx):
        return vector[None]


class WrongDtype(Median):
    def spoil(self, vector, inbox, ctx):
        return vector.double()


class NotFinite(Median):
    def spoil(self, vector, inbox, ctx):
        return vector / 0


class Unrepeatable(Median):
    def spoil(self, vector, inbox, ctx):
        return vector + next(COUNTER) * 1e-4


class BelievesTheFirst(Median):
    def spoil(self, vector, inbox, ctx):
        return (vector + inbox.received[0].vector) / 2 if inbox.received else vector


class ForgetsItselfAlone(Median):
    def spoil(self, vector, inbox, ctx):
        return vector if inbox.received else ctx.base.clone()


class SumsInsteadOfAveraging(Median):
    def spoil(self, vector, inbox, ctx):
        return vector * len(inbox.members) if inbox.received else vector


class IgnoresNobody(Median):
    def spoil(self, vector, inbox, ctx):
        return mean(inbox)


class BelievesTheLast(Median):
    """Robust against every liar but the last neighbour, by a hair's breadth of weight."""

    def spoil(self, vector, inbox, ctx):
        return vector + 1e-6 * (inbox.received[-1].vector - vector) if inbox.received else vector


class BelievesTheFirstALittle(Median):
    def spoil(self, vector, inbox, ctx):
        return vector + 1e-6 * (inbox.received[0].vector - vector) if inbox.received else vector


@dataclass(frozen=True)
class MissingWeights(Median):
    def aggregate(self, inbox, state, ctx):
        return Aggregate(mean(inbox), state, {u.sender: 1.0 for u in inbox.received})


@dataclass(frozen=True)
class StrangeWeights(Median):
    def aggregate(self, inbox, state, ctx):
        return Aggregate(mean(inbox), state, dict.fromkeys(range(50), 0.02))


@dataclass(frozen=True)
class ForgetsItsState(Median):
    """The state is a number whose type does not survive: a true that is no bool."""

    def init(self, own):
        return _Odd(1)

    def aggregate(self, inbox, state, ctx):
        vector = torch.stack([u.vector for u in inbox.members]).median(dim=0).values
        return answer(inbox, vector + (0.01 if ctx.round > 1 and isinstance(state, _Odd) else 0.0), state)


class _Odd(int):
    pass


@dataclass(frozen=True)
class LosesItsParameter(Median):
    share: float = 0.5

    def __reduce__(self):
        return LosesItsParameter, (0.0,)

    def spoil(self, vector, inbox, ctx):
        return vector + self.share * (inbox.own.vector - vector)


class KeepsASet(Median):
    def init(self, own):
        return {1, 2}


STRATEGIES = [
    (Aliasing, "does not alias an input"),
    (AliasingByView, "does not alias an input"),
    (AliasingBase, "does not alias an input"),
    (InPlaceOnOwn, "inputs are unchanged"),
    (InPlaceOnReceived, "inputs are unchanged"),
    (InPlaceOnBase, "inputs are unchanged"),
    (WrongShape, "the shape of the own vector"),
    (WrongDtype, "the dtype of the own vector"),
    (NotFinite, "finite inputs give a finite result"),
    (Unrepeatable, "the same inputs give the same bits"),
    (BelievesTheFirst, "the order of neighbours does not matter"),
    (ForgetsItselfAlone, "an empty inbox leaves the node at its half-step"),
    (SumsInsteadOfAveraging, "equal inputs are a fixed point"),
    (MissingWeights, "weights cover the closed neighbourhood"),
    (StrangeWeights, "weights cover the closed neighbourhood"),
    (ForgetsItsState, "its state survives being stored"),
    (LosesItsParameter, "it survives pickling"),
    (IgnoresNobody, r"a huge liar cannot win \(neighbour 1 "),
    (BelievesTheFirstALittle, r"a huge liar cannot win \(neighbour 1 "),
    (BelievesTheLast, r"a huge liar cannot win \(neighbour 10 "),
]


def test_a_rule_that_keeps_the_contract_passes():
    check_strategy(Median())


@pytest.mark.parametrize(("rule", "violation"), STRATEGIES, ids=lambda value: getattr(value, "__name__", None))
def test_every_planted_violation_of_a_rule_is_found(rule, violation):
    with pytest.raises(ContractViolation, match=f"^broken: .*{violation}"):
        check_strategy(rule())


def test_a_rule_that_does_not_claim_to_be_robust_need_not_be():
    check_strategy(IgnoresNobody(), robust=False)


def test_a_state_that_cannot_be_stored_is_found():
    with pytest.raises(ContractViolation, match=r"its state can be stored .*got set"):
        check_strategy(KeepsASet())


@dataclass(frozen=True)
class Doubles(Attack):
    """Keeps the contract: poisons half of the labels, sends the doubled half-step."""

    knowledge: ClassVar[Knowledge] = Knowledge.OMNISCIENT

    def poison(self, data, ctx):
        return LabelledData(data.inputs.clone(), data.labels.flip(0), data.num_classes, data.input_range)

    def craft(self, view, receiver, ctx):
        return 2 * view.own.vector


class CraftsWrongShape(Doubles):
    def craft(self, view, receiver, ctx):
        return view.own.vector[:-1].clone()


class CraftsDoubles(Doubles):
    def craft(self, view, receiver, ctx):
        return view.own.vector.double()


class CraftsAtRandom(Doubles):
    def craft(self, view, receiver, ctx):
        return view.own.vector + next(COUNTER)


class ChangesHonest(Doubles):
    def craft(self, view, receiver, ctx):
        view.honest[0].vector.zero_()
        return view.own.vector.clone()


class ChangesItsOwn(Doubles):
    def craft(self, view, receiver, ctx):
        view.own.vector.zero_()
        return torch.zeros_like(view.own.vector)


class ChangesBase(Doubles):
    def craft(self, view, receiver, ctx):
        view.own.base.zero_()
        return view.own.vector.clone()


class PoisonsInputsInPlace(Doubles):
    def poison(self, data, ctx):
        data.inputs.zero_()
        return data


class PoisonsLabelsInPlace(Doubles):
    def poison(self, data, ctx):
        data.labels.zero_()
        return data


class PoisonsShape(Doubles):
    def poison(self, data, ctx):
        return LabelledData(data.inputs.flatten(1), data.labels, 10, data.input_range)


class PoisonsCount(Doubles):
    def poison(self, data, ctx):
        return LabelledData(data.inputs[:-1], data.labels, 10, data.input_range)


class PoisonsWithNoLabel(Doubles):
    def poison(self, data, ctx):
        return LabelledData(data.inputs, data.labels + 1, 10, data.input_range)


class PoisonsBeyondTheRange(Doubles):
    def poison(self, data, ctx):
        return LabelledData(data.inputs * 1.5, data.labels, 10, data.input_range)


class PoisonsBelowTheRange(Doubles):
    def poison(self, data, ctx):
        return LabelledData(data.inputs - 0.1, data.labels, 10, data.input_range)


class PoisonsAtRandom(Doubles):
    def poison(self, data, ctx):
        return LabelledData(data.inputs * (next(COUNTER) % 7 / 7), data.labels, 10, data.input_range)


@dataclass(frozen=True)
class KeepsNoParameter(Doubles):
    unique: Any = field(default_factory=object)


@dataclass(frozen=True)
class KnowsANumber(Doubles):
    knowledge: ClassVar[int] = 2


ATTACKS = [
    (CraftsWrongShape, "a float32 vector of the model's shape"),
    (CraftsDoubles, "a float32 vector of the model's shape"),
    (CraftsAtRandom, "the same inputs give the same bits"),
    (ChangesHonest, "views are unchanged"),
    (ChangesItsOwn, "views are unchanged"),
    (ChangesBase, "views are unchanged"),
    (PoisonsInputsInPlace, "clean data are unchanged"),
    (PoisonsLabelsInPlace, "clean data are unchanged"),
    (PoisonsShape, "the shape of clean ones"),
    (PoisonsCount, "every poisoned input has a label"),
    (PoisonsWithNoLabel, "poisoned labels are labels"),
    (PoisonsBeyondTheRange, "stay in the input range"),
    (PoisonsBelowTheRange, "stay in the input range"),
    (PoisonsAtRandom, "poisoning is reproducible"),
    (KeepsNoParameter, "it survives pickling"),
    (KnowsANumber, "knowledge is a level of flower_dfl.types.Knowledge"),
]


def test_an_attack_that_keeps_the_contract_passes():
    check_attack(Doubles())


@pytest.mark.parametrize(("attack", "violation"), ATTACKS, ids=lambda value: getattr(value, "__name__", None))
def test_every_planted_violation_of_an_attack_is_found(attack, violation):
    with pytest.raises(ContractViolation, match=f"^broken: .*{violation}"):
        check_attack(attack())


def ring(num_nodes, num_byzantine, seed):
    return nx.cycle_graph(num_nodes)


def unseeded(num_nodes, num_byzantine, seed):
    graph = nx.path_graph(num_nodes)
    graph.add_edge(0, 2 + next(COUNTER) % (num_nodes - 2))
    return graph


@pytest.mark.parametrize(
    ("draw", "violation"),
    [
        (nx.empty_graph, "connected"),
        (lambda n: nx.path_graph(n + 1), "not allowed 10"),
        (lambda n: nx.path_graph(n - 1), "missing 9"),
        (lambda n: nx.relabel_nodes(nx.path_graph(n), str), "not allowed '0'"),
        (lambda n: nx.DiGraph(nx.path_graph(n)), "undirected"),
        (lambda n: nx.Graph([*nx.path_graph(n).edges, (0, 0)]), "own neighbour"),
        (lambda n: None, "must return a networkx.Graph, got NoneType"),
    ],
)
def test_every_planted_violation_of_a_topology_is_found(draw, violation):
    with pytest.raises(ContractViolation, match=violation):
        check_topology(lambda num_nodes, num_byzantine, seed: draw(num_nodes))


def test_a_topology_must_draw_the_same_graph_for_the_same_seed():
    with pytest.raises(ContractViolation, match="the same seed draws the same graph"):
        check_topology(unseeded)


def test_a_topology_that_keeps_the_contract_passes():
    check_topology(ring)


def thinned(graph, round, seed):
    return without(graph, (round + seed) % len(graph))


def without(graph, node):
    rest = graph.copy()
    rest.remove_edges_from(list(graph.edges(node)))
    return rest


def greedy(graph):
    graph.remove_edge(*next(iter(graph.edges)))
    return graph.copy()


@pytest.mark.parametrize(
    ("change", "violation"),
    [
        (lambda graph: graph.edges, "must return a networkx.Graph, got EdgeView"),
        (lambda graph: graph.subgraph(range(6)), "missing 6, 7"),
        (lambda graph: graph.to_directed(), "undirected"),
        (lambda graph: nx.path_graph(9), "not allowed 8"),
        (lambda graph: nx.Graph([*graph.edges, (0, 0)]), "own neighbour"),
        (greedy, "the base graph is unchanged"),
        (lambda graph: without(graph, next(COUNTER) % 8), "the same round and seed give the same graph"),
    ],
)
def test_every_planted_violation_of_a_schedule_is_found(change, violation):
    def schedule(graph, round, seed):
        return change(graph)

    with pytest.raises(ContractViolation, match=violation):
        check_schedule(schedule)


def test_a_schedule_that_keeps_the_contract_passes():
    check_schedule(thinned)
    check_schedule(thinned, graph=nx.path_graph(3))


@dataclass(frozen=True)
class Spy(PeerStrategy[str]):
    asks: frozenset[Need] = frozenset()
    seen: list = field(default_factory=list)

    @property
    def needs(self):
        return self.asks

    def init(self, own):
        return "fresh"

    def aggregate(self, inbox, state, ctx):
        self.seen.append((inbox, state, ctx))
        return answer(inbox, mean(inbox), state)


def test_aggregate_runs_a_rule_on_plain_tensors():
    result = aggregate(Spy(), torch.tensor([0.0, 3.0]), torch.tensor([[2.0, 3.0], [4.0, 0.0]]))

    assert result.vector.tolist() == [2, 2]
    assert result.weights == pytest.approx({0: 1 / 3, 1: 1 / 3, 2: 1 / 3})


def test_aggregate_fills_in_what_is_not_given():
    rule = Spy()

    aggregate(rule, torch.ones(4), torch.zeros(3, 4))

    inbox, state, context = rule.seen[0]
    assert inbox.own.sender == 0
    assert [u.sender for u in inbox.received] == [1, 2, 3]
    assert inbox.mixing_weights.tolist() == [0.25] * 3
    assert context.base.tolist() == [0] * 4
    assert (context.budget, context.round, context.num_rounds, context.seed) == (0, 1, 10, 0)
    assert state == "fresh"


def test_aggregate_hands_on_what_is_given():
    rule = Spy(frozenset(Need))
    learner, data, base = linear_learner(4), small_data(2), torch.full((4,), 5.0)

    aggregate(
        rule, torch.ones(4), torch.zeros(3, 4), base=base, bases=torch.eye(4)[:3], weights=[0.1, 0.2, 0.3], f=2,
        round=4, num_rounds=6, learner=learner, data=data, state="kept", seed=9,
    )  # fmt: skip

    inbox, state, context = rule.seen[0]
    assert torch.equal(inbox.own.base, base)
    assert [u.base.argmax().item() for u in inbox.received] == [0, 1, 2]
    assert inbox.mixing_weights.tolist() == [0.1, 0.2, 0.3]
    assert (context.budget, context.round, context.num_rounds, context.seed) == (2, 4, 6, 9)
    assert context.learner is learner
    assert context.data is data
    assert context.honest == frozenset({0, 1})  # the last two of three neighbours are Byzantine
    assert state == "kept"


def test_aggregate_withholds_what_a_rule_does_not_name():
    rule = Spy()

    aggregate(rule, torch.ones(4), torch.zeros(3, 4), learner=linear_learner(4), data=small_data(2))

    inbox, _, context = rule.seen[0]
    assert inbox.own.base is inbox.received[0].base is None
    assert context.learner is context.data is context.honest is None


@dataclass(frozen=True)
class Recorder(Attack):
    level: Knowledge
    calls: list = field(default_factory=list)

    @property
    def knowledge(self):
        return self.level

    def craft(self, view, receiver, ctx):
        self.calls.append((view, receiver, ctx))
        return view.own.vector


@pytest.mark.parametrize(
    ("knowledge", "byzantine", "honest"),
    [(Knowledge.LOCAL, [3], []), (Knowledge.COLLUDING, [2, 3], []), (Knowledge.OMNISCIENT, [2, 3], [0, 1])],
)
def test_craft_shows_an_attack_what_its_knowledge_allows(knowledge, byzantine, honest):
    attack = Recorder(knowledge)

    sent = craft(attack, torch.zeros(2, 3), torch.tensor([[1.0] * 3, [2.0] * 3]), receiver=1, attacker=1, round=4)

    assert sent.tolist() == [2, 2, 2]
    ((view, receiver, context),) = attack.calls
    assert [u.sender for u in view.byzantine] == byzantine
    assert len(view.byzantine_data) == len(byzantine)
    assert [u.sender for u in view.honest] == honest
    assert receiver == 1
    assert (context.node, context.round) == (3, 4)
    assert context.byzantine == frozenset({2, 3})
    assert context.neighbours[0] == frozenset({1, 2, 3})


def test_craft_needs_an_attacker():
    with pytest.raises(ConfigurationError, match="at least one Byzantine half-step"):
        craft(Doubles(), torch.zeros(2, 3), [])


def test_the_linear_learner_has_the_dimension_that_was_asked_for():
    learner = linear_learner(12, 3)

    # no weights, no preference: the loss is log 3
    assert learner.loss(torch.zeros(12), torch.ones(5, 4), torch.zeros(5, dtype=torch.int64)).item() == pytest.approx(
        1.0986123
    )
    assert (learner.input_shape, learner.num_classes) == ((4,), 3)
    with pytest.raises(ConfigurationError, match="3 classes divide, got 10"):
        linear_learner(10, 3)


def test_the_small_data_are_balanced_reproducible_and_in_range():
    data = small_data(4, 5, 20)

    assert data.labels.bincount().tolist() == [4] * 5
    assert torch.equal(data.inputs, small_data(4, 5, 20).inputs)
    assert data.inputs.abs().max() <= 2
    assert data.input_range == (-2.0, 2.0)
