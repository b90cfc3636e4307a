"""Sybil, equivocate and scheduled: attacks around another attack."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import networkx as nx
import pytest
import torch

from flower_dfl.attacks.equivocate import Equivocate
from flower_dfl.attacks.gaussian import Gaussian
from flower_dfl.attacks.ipm import InnerProductManipulation
from flower_dfl.attacks.label_flip import LabelFlip
from flower_dfl.attacks.mimic import Mimic
from flower_dfl.attacks.rule_in_the_loop import RuleInTheLoop
from flower_dfl.attacks.scaling import Scaling
from flower_dfl.attacks.scheduled import Scheduled
from flower_dfl.attacks.sign_flip import SignFlip
from flower_dfl.attacks.sybil import Sybil
from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import Attack
from flower_dfl.strategies.average import Average
from flower_dfl.testing import craft, small_data
from flower_dfl.types import AttackContext, AttackView, Knowledge, Update

HONEST = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
BYZANTINE = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
WRAPPERS = [Sybil, Equivocate, Scheduled]


def context(round=1, seed=0):
    around = {i: frozenset(range(9)) - {i} for i in range(9)}
    return AttackContext(6, round, 10, frozenset({6, 7, 8}), around, lr=0.1, seed=seed)


@dataclass(frozen=True, slots=True)
class Watcher(Attack):
    """Remembers what it was shown."""

    knowledge: ClassVar[Knowledge] = Knowledge.LOCAL
    seen: list = field(default_factory=list)

    def craft(self, view, receiver, ctx):
        self.seen.append((view.own.sender, [u.sender for u in view.byzantine], len(view.byzantine_data), ctx.node))
        return view.own.vector


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_trigger_and_poisoning_are_the_inner_attacks(wrapper):
    data = small_data()

    attack = wrapper(Scaling(target=3))

    assert attack.trigger == Scaling(target=3).trigger
    assert torch.equal(wrapper(LabelFlip()).poison(data, context()).labels, 1 - data.labels)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("inner", [SignFlip(), SignFlip(knowledge_level="partial"), Mimic()])
def test_knowledge_is_the_inner_attacks_and_sybils_collude(wrapper, inner):
    least = Knowledge.COLLUDING if wrapper is Sybil else Knowledge.LOCAL

    assert wrapper(inner).knowledge is max(inner.knowledge, least)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_only_an_attack_can_be_wrapped(wrapper):
    with pytest.raises(ConfigurationError, match=r"^attack must be an attack, got 'alie'$"):
        wrapper("alie")


@pytest.mark.parametrize("inner", [Gaussian(), SignFlip(), Mimic()])
def test_sybils_all_send_what_the_first_would(inner):
    for receiver in (0, 3):
        sent = [craft(Sybil(inner), HONEST, BYZANTINE, attacker=a, receiver=receiver) for a in range(3)]

        expected = craft(inner, HONEST, BYZANTINE, attacker=0, receiver=receiver)
        assert all(torch.equal(vector, expected) for vector in sent)


def test_a_local_attack_in_a_sybil_sees_the_first_node_only():
    inner = Watcher()

    craft(Sybil(inner), HONEST, BYZANTINE, attacker=2)

    assert inner.seen == [(6, [6], 1, 6)]


@dataclass(frozen=True, slots=True)
class Shown(Attack):
    """Remembers the views themselves; it may know as much as it is told."""

    knowledge: Knowledge
    views: list = field(default_factory=list)

    def craft(self, view, receiver, ctx):
        self.views.append(view)
        return view.own.vector


@pytest.mark.parametrize(
    ("wrapper", "inner", "byzantine", "honest"),
    [
        (Sybil, Knowledge.LOCAL, 1, 0),
        (Sybil, Knowledge.COLLUDING, 3, 0),
        (Sybil, Knowledge.OMNISCIENT, 3, 6),
        (partial(RuleInTheLoop, Average()), Knowledge.LOCAL, 3, 6),
    ],
)
def test_an_inner_attack_sees_what_it_may_and_one_view_for_all_receivers(wrapper, inner, byzantine, honest):
    updates = [Update(node, 1, vector, torch.zeros(5)) for node, vector in enumerate([*HONEST, *BYZANTINE])]
    told = replace(context(), node=7)
    view = AttackView(updates[7], tuple(updates[6:]), (small_data(),) * 3, tuple(updates[:6]))
    attack = wrapper(shown := Shown(inner))

    for receiver in (0, 3):
        attack.craft(view, receiver, told)

    first, second = shown.views
    assert first is second  # an attack that trains for its message finds what it trained before
    assert (len(first.byzantine), len(first.byzantine_data), len(first.honest)) == (byzantine, byzantine, honest)
    assert first.own is updates[6]


def test_noise_tells_sybils_apart_by_little():
    sent = [craft(Sybil(Mimic(target=1), sigma=1e-3), HONEST, BYZANTINE, attacker=a) for a in range(3)]

    assert len({tuple(vector.tolist()) for vector in sent}) == 3
    assert all(0 < (vector - HONEST[1]).norm() < 0.01 for vector in sent)


@pytest.mark.parametrize("sigma", [-1.0, float("inf"), float("nan")])
def test_noise_of_a_sybil_must_be_finite(sigma):
    with pytest.raises(ConfigurationError, match=r"^sigma must not be negative"):
        Sybil(Mimic(), sigma)


def lies(attack, truth, **keys):
    """Return what each receiver's message adds to the truth (6, 5)."""
    return torch.stack([craft(attack, HONEST, BYZANTINE, receiver=i, **keys) - truth for i in range(6)])


def test_half_of_the_honest_nodes_hear_the_opposite_lie():
    inner = InnerProductManipulation(2.0)
    plain = torch.stack([craft(inner, HONEST, BYZANTINE, receiver=i) for i in range(6)]) - BYZANTINE[0]

    told = lies(Equivocate(inner), BYZANTINE[0])

    signs = [float(torch.dot(a, b).sign()) for a, b in zip(told, plain, strict=True)]
    assert sorted(signs) == [-1, -1, -1, 1, 1, 1]
    torch.testing.assert_close(told, torch.tensor(signs)[:, None] * plain)


def test_who_hears_which_lie_changes_by_round_and_not_by_attacker():
    signs = {
        (t, a): tuple(lies(Equivocate(SignFlip()), BYZANTINE[a], round=t, attacker=a)[:, 0].sign().tolist())
        for t in range(1, 6)
        for a in range(3)
    }

    assert len({signs[t, 0] for t in range(1, 6)}) > 1
    for t in range(1, 6):
        assert signs[t, 1] in (signs[t, 0], tuple(-s for s in signs[t, 0]))


def test_scaled_lies_differ_within_the_spread():
    plain = craft(SignFlip(), HONEST, BYZANTINE) - BYZANTINE[0]

    told = lies(Equivocate(SignFlip(), "scale", 0.5), BYZANTINE[0])

    factors = (told / plain).mean(dim=1)
    torch.testing.assert_close(told, factors[:, None] * plain)
    assert len(set(factors.tolist())) == 6
    assert factors.min() >= 0.5
    assert factors.max() <= 1.5


def test_noisy_lies_are_off_by_the_spread():
    plain = craft(SignFlip(), HONEST, BYZANTINE) - BYZANTINE[0]

    told = lies(Equivocate(SignFlip(), "noise", 0.5), BYZANTINE[0])

    torch.testing.assert_close((told - plain).norm(dim=1), (0.5 * plain.norm()).expand(6))
    assert len({tuple(lie.tolist()) for lie in told}) == 6


@pytest.mark.parametrize("mode", ["scale", "noise"])
def test_without_spread_the_inner_attack_is_left(mode):
    sent = craft(Equivocate(SignFlip(), mode, 0.0), HONEST, BYZANTINE)

    torch.testing.assert_close(sent, craft(SignFlip(), HONEST, BYZANTINE))


def test_measured_from_the_start_a_poisoned_training_is_a_lie_too():
    base = torch.full((5,), 2.0)

    told = lies(Equivocate(LabelFlip(), truth="base"), base, base=base)

    signs = (told / (BYZANTINE[0] - base)).mean(dim=1)
    assert sorted(round(s) for s in signs.tolist()) == [-1, -1, -1, 1, 1, 1]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"mode": "whisper"}, "unknown mode 'whisper'"),
        ({"truth": "none"}, "unknown truth 'none'"),
        ({"spread": -1.0}, "^spread must not be negative"),
        ({"spread": float("nan")}, "^spread must not be negative"),
    ],
)
def test_parameters_of_equivocation_out_of_range_are_refused(params, message):
    with pytest.raises(ConfigurationError, match=message):
        Equivocate(SignFlip(), **params)


def test_before_start_and_after_stop_the_protocol_is_followed():
    attack, data = Scheduled(SignFlip(), start=3, stop=5), small_data()
    flipped = Scheduled(LabelFlip(), start=3, stop=5)

    for t in range(1, 9):
        sent = craft(attack, HONEST, BYZANTINE, round=t)
        labels = flipped.poison(data, context(round=t)).labels

        active = 3 <= t <= 5
        assert torch.equal(sent, -BYZANTINE[0] if active else BYZANTINE[0])
        assert torch.equal(labels, 1 - data.labels if active else data.labels)


def test_by_default_every_round_is_attacked():
    assert all(Scheduled(SignFlip()).is_active(t, seed=0) for t in range(1, 200))


def test_the_share_of_rounds_is_drawn_alike_for_all_attackers():
    attack = Scheduled(SignFlip(), share=0.3)
    active = [attack.is_active(t, seed=0) for t in range(1, 1001)]

    assert 250 < sum(active) < 350
    assert active != [attack.is_active(t, seed=1) for t in range(1, 1001)]
    for t in range(1, 10):
        changed = [
            bool((craft(attack, HONEST, BYZANTINE, round=t, attacker=a) != BYZANTINE[a]).any()) for a in range(3)
        ]
        assert changed == [active[t - 1]] * 3


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"start": 0}, "^start must be at least 1, got 0$"),
        ({"start": 4, "stop": 3}, "^stop must not be before start, got start=4, stop=3$"),
        ({"share": 0.0}, r"^share must be in \(0, 1\], got 0\.0$"),
        ({"share": 1.5}, r"^share must be in \(0, 1\]"),
    ],
)
def test_schedules_out_of_range_are_refused(params, message):
    with pytest.raises(ConfigurationError, match=message):
        Scheduled(SignFlip(), **params)


def test_a_receiver_that_is_byzantine_hears_the_lie_as_it_is():
    sent = craft(Equivocate(SignFlip()), HONEST, BYZANTINE, receiver=7, neighbours=nx.complete_graph(9))

    torch.testing.assert_close(sent, -BYZANTINE[0])


def test_a_sybil_that_has_diverged_leads_nobody():
    lost = torch.full((1, 5), torch.nan)
    watcher = Watcher()

    sent = craft(Sybil(watcher), HONEST, torch.cat([lost, BYZANTINE]), attacker=3)

    assert torch.equal(sent, BYZANTINE[0])
    assert watcher.seen == [(7, [7], 1, 7)]
