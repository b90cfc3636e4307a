from dataclasses import replace

import pytest
import torch

from flower_dfl.attacks.observation import (
    columns,
    combine,
    craft_columns,
    mixing_weights,
    observe,
    senders,
    update_columns,
)
from flower_dfl.errors import ConfigurationError
from flower_dfl.types import AttackContext, AttackView, Update

# Path 0 - 1 - 2 of honest nodes; Byzantine 3 and 4 next to 0 and to each other.
AROUND = {
    0: frozenset({1, 3, 4}),
    1: frozenset({0, 2}),
    2: frozenset({1}),
    3: frozenset({0, 4}),
    4: frozenset({0, 3}),
}
CONTEXT = AttackContext(3, 1, 10, frozenset({3, 4}), AROUND, lr=0.1, seed=0)


def update(node, half_step, base):
    return Update(node, 1, torch.tensor([float(half_step)]), None if base is None else torch.tensor([float(base)]))


def view(*, bases=(10, 20, 30, 40, 60), half_steps=(1, 2, 3, 4, 5)):
    updates = [update(i, h, b) for i, (h, b) in enumerate(zip(half_steps, bases, strict=True))]
    return AttackView(updates[3], tuple(updates[3:]), (), tuple(updates[:3]))


@pytest.mark.parametrize(
    ("level", "receiver", "senders", "origin"),
    [
        ("full", 0, (0, 1), 10),  # the receiver's start
        ("full", 1, (0, 1, 2), 20),
        ("full", 3, (0,), 10),  # a Byzantine receiver: the mean start of the honest ones
        ("partial", 0, (3, 4), 50),  # the mean start of the Byzantine nodes
        ("local", 0, (3,), 40),  # the own one
    ],
)
def test_a_level_decides_whose_models_are_seen_and_where_updates_start(level, receiver, senders, origin):
    seen = observe(view(), receiver, CONTEXT, level)

    assert seen.senders == senders
    assert [row.item() for row in seen.rows] == [node + 1 for node in senders]
    assert seen.origin.item() == origin


def test_models_that_are_not_finite_are_not_seen():
    half_steps = (1, float("nan"), 3, float("inf"), 5)

    assert observe(view(half_steps=half_steps), 1, CONTEXT, "full").senders == (0, 2)
    assert observe(view(half_steps=half_steps), 1, CONTEXT, "partial").senders == (4,)
    assert observe(view(half_steps=half_steps), 1, CONTEXT, "local") is None


def test_a_missing_start_is_refused():
    with pytest.raises(ConfigurationError, match="needs the start-of-round models"):
        observe(view(bases=(10, 20, 30, None, 60)), 0, CONTEXT, "partial")


def test_gossip_weights_are_those_of_the_receiver():
    # degrees: 0 has 3, 1 has 2, 2 has 1, 3 and 4 have 2
    everybody = senders(view())
    assert mixing_weights(CONTEXT, 0, "metropolis", everybody) == {1: 1 / 4, 3: 1 / 4, 4: 1 / 4}
    assert mixing_weights(CONTEXT, 1, "metropolis", everybody) == {0: 1 / 4, 2: 1 / 3}
    assert mixing_weights(CONTEXT, 1, "uniform", everybody) == {0: 1 / 3, 2: 1 / 3}


def test_who_is_away_or_has_diverged_has_no_weight():
    # 4 is away, 1 has diverged: 0 hears from 3 alone, and its plain mean is over two models
    everybody = view(half_steps=(1, float("nan"), 3, 4, 5))
    present = senders(replace(everybody, byzantine=everybody.byzantine[:1]))

    assert present == {0, 2, 3}
    assert mixing_weights(CONTEXT, 0, "metropolis", present) == {3: 1 / 4}
    assert mixing_weights(CONTEXT, 0, "uniform", present) == {3: 1 / 2}


def test_an_attacker_who_has_diverged_still_sends():
    assert senders(view(half_steps=(1, 2, 3, float("inf"), 5))) == {0, 1, 2, 3, 4}


def test_columns_cover_every_size_once():
    for size in (1, 32_768, 32_769, 100_000):
        covered = [i for part in columns(size) for i in range(size)[part]]
        assert covered == list(range(size))


def test_blocks_give_the_same_as_the_whole():
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 70_000, generator=draw)
    start = torch.randn(70_000, generator=draw)
    updates = [Update(i, 1, row, start) for i, row in enumerate(rows)]
    everyone = {i: frozenset({0, 1, 2}) - {i} for i in range(3)}
    context = AttackContext(0, 1, 10, frozenset({0, 1, 2}), everyone, lr=0.1, seed=0)
    seen = observe(AttackView(updates[0], tuple(updates), ()), 0, context, "partial")

    whole = torch.cat([block for _, block in update_columns(seen)], dim=1)
    crafted = craft_columns(seen, lambda block, _: 2 * block[1])

    assert torch.equal(whole, rows.double() - start.double())
    torch.testing.assert_close(crafted, start + 2 * (rows[1] - start))
    torch.testing.assert_close(combine(list(rows), [1.0, -2.0, 0.5]), rows[0] - 2 * rows[1] + 0.5 * rows[2])
    assert crafted.dtype == torch.float32
