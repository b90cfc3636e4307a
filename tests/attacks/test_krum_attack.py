import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_dfl.attacks.krum_attack import KrumAttack
from flower_dfl.errors import ConfigurationError
from flower_dfl.strategies.krum import Krum
from flower_dfl.testing import aggregate, craft
from flower_dfl.types import AttackContext, AttackView, Update


def column(*values):
    return torch.tensor(values)[:, None]


# Models 1, 2, 3, two copies, base 0: s = 1. Krum accepts f = 1 of n = 5 and counts 2 neighbours. The bound is
# (1 + 3) / 1 = 4. A copy at -x scores 0 + (1 + x)^2, the model 2 scores 1 + 1 = 2: of 4, 2, 1, 1/2, 1/4 the first with
# (1 + x)^2 < 2 is 1/4.
def test_full_knowledge_goes_as_far_as_worked_by_hand():
    assert craft(KrumAttack(), column(1.0, 2.0, 3.0), column(7.0, 8.0), receiver=1).item() == -0.25


# The same models as Byzantine ones: with one copy, n = 4 and f = 0, it scores (1 + x)^2 + (2 + x)^2 >= 5 > 2 for every
# x; with two the game is the one above.
def test_partial_knowledge_adds_copies_until_krum_adopts_one():
    sent = craft(KrumAttack(knowledge_level="partial"), column(50.0, 60.0), column(1.0, 2.0, 3.0))

    assert sent.item() == -0.25


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(0, 4), st.integers(0, 10**6))
def test_krum_adopts_the_message_and_goes_backwards(f, more, seed):
    draw = torch.Generator().manual_seed(seed)
    base = torch.randn(40, generator=draw)
    honest = base + 0.02 + 0.1 * torch.randn(f + 3 + more, 40, generator=draw)

    sent = craft(KrumAttack(), honest, honest[:f], base=base)
    result = aggregate(Krum(), honest[0], torch.cat([honest[1:], sent.expand(f, -1)]), base=base, f=f)

    assert sum(weight for node, weight in result.weights.items() if node >= len(honest)) == 1
    assert torch.dot(result.vector - base, honest.mean(dim=0) - base) < 0


# Six honest models, three attackers of which some are away. Krum withstands three where it can: of eight models two.
# Counting on those who are away, the attack would go further than the copies that are there carry.
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 2), st.integers(0, 10**6))
def test_attackers_who_are_away_are_no_copies_but_count_for_the_budget(away, seed):
    draw = torch.Generator().manual_seed(seed)
    honest = 0.02 + 0.1 * torch.randn(6, 40, generator=draw)
    updates = [Update(node, 1, vector, torch.zeros(40)) for node, vector in enumerate([*honest, *honest[:3]])]
    around = {node: frozenset(range(9)) - {node} for node in range(9)}
    context = AttackContext(6, 1, 9, frozenset({6, 7, 8}), around, lr=0.1, seed=0)
    there = tuple(updates[6 : 9 - away])

    sent = KrumAttack().craft(AttackView(there[0], there, (), tuple(updates[:6])), 0, context)
    received = torch.cat([honest[1:], sent.expand(len(there), -1)])
    result = aggregate(Krum(), honest[0], received, f=min(3, (len(received) + 1 - 3) // 2))

    assert sum(weight for node, weight in result.weights.items() if node >= 6) == 1


def test_one_attacker_among_five_is_adopted_only_near_the_others():
    # n = 6, f = 1: three neighbours count, none of which is a copy
    draw = torch.Generator().manual_seed(3)
    honest = 0.02 * torch.randn(5, 40, generator=draw)

    sent = craft(KrumAttack(), honest, honest[:1])
    result = aggregate(Krum(), honest[0], torch.cat([honest[1:], sent[None]]), f=1)

    assert result.weights[5] == 1
    assert sent.norm() <= 2 * honest.norm(dim=1).max()


def test_a_majority_is_adopted_at_the_bound():
    # honest 1; c = 4 of n = 5: the bound is 0 + 1, and a copy scores 0 wherever it is
    assert craft(KrumAttack(), column(1.0), torch.zeros(4, 1)).item() == -1


def test_every_attacker_sends_the_same_point():
    honest, byzantine = torch.randn(8, 30, generator=torch.Generator().manual_seed(0)).split([5, 3])

    for level in ("full", "partial"):
        sent = [craft(KrumAttack(knowledge_level=level), honest, byzantine, attacker=a) for a in range(3)]
        assert torch.equal(sent[0], sent[1])
        assert torch.equal(sent[0], sent[2])


def test_where_nothing_is_adopted_the_smallest_displacement_is_sent():
    # honest 1 alone with one attacker: two mutual neighbours tie, and the receiver wins
    sent = craft(KrumAttack(threshold=0.1), column(1.0), torch.zeros(1, 1))

    assert sent.item() == -1 / 16  # 1, 1/2, 1/4, 1/8, and the first one below 0.1


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("inf"), float("nan")])
def test_a_threshold_that_is_not_positive_is_refused(threshold):
    with pytest.raises(ConfigurationError, match=r"^threshold must be positive and finite"):
        KrumAttack(threshold)


def test_an_unknown_level_is_refused():
    with pytest.raises(ConfigurationError, match="unknown knowledge_level 'local'"):
        KrumAttack(knowledge_level="local")
