"""FLTrust's aggregation by hand, and as a Flower strategy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.errors import ConfigurationError
from flower_dfl.integrations import FLTrust
from flower_dfl.strategies.fltrust import fltrust_update
from tests.integrations.conftest import failure, play, record, replies, reply, vector_of

BASE = torch.tensor([1.0, 1.0])


def towards(*step):
    """Return what a server does that goes by this step."""
    return lambda arrays, server_round: record(vector_of(arrays) + torch.tensor(step))


# Root update (2, 0). (30, 40): cosine 0.6, to length 2: (1.2, 1.6). (0, 5): cosine 0. (-1, 0): cosine -1.
# (7, 0): cosine 1, to length 2: (2, 0). Sum: (0.6 * (1.2, 1.6) + (2, 0)) / 1.6 = (1.7, 0.6).
def test_updates_are_scaled_to_the_root_updates_length_and_weighed_by_their_cosine():
    updates = torch.tensor([[30.0, 40.0], [0.0, 5.0], [-1.0, 0.0], [7.0, 0.0]])

    step, trust = fltrust_update(torch.tensor([2.0, 0.0]), list(updates))

    torch.testing.assert_close(step, torch.tensor([1.7, 0.6]))
    assert trust.tolist() == pytest.approx([0.6, 0.0, 0.0, 1.0])


@pytest.mark.parametrize("length", [1e-44, 1e-39, 1e-20, 1e20, 1e38])
def test_the_length_of_an_update_does_not_matter(length):
    step, _ = fltrust_update(torch.ones(8), [torch.full((8,), length), torch.ones(8)])

    torch.testing.assert_close(step, torch.ones(8))


@pytest.mark.parametrize(
    ("root", "updates"),
    [
        ([2.0, 0.0], [[-1.0, 0.0], [0.0, 3.0]]),
        ([2.0, 0.0], [[0.0, 0.0]]),
        ([2.0, 0.0], []),
        ([0.0, 0.0], [[1.0, 0.0]]),
    ],
    ids=["against", "no length", "nobody", "no root update"],
)
def test_without_any_trust_nothing_moves(root, updates):
    step, trust = fltrust_update(torch.tensor(root), [torch.tensor(update) for update in updates])

    assert step.tolist() == [0.0, 0.0]
    assert trust.tolist() == [0.0] * len(updates)


@given(seed=st.integers(0, 2**20), factor=st.floats(1e-3, 1e30))
def test_the_length_of_an_update_does_not_matter_and_the_result_is_no_longer_than_the_root(seed, factor):
    root, *updates = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    step, _ = fltrust_update(root, updates)
    scaled, _ = fltrust_update(root, [factor * updates[0], *updates[1:]])

    torch.testing.assert_close(step, scaled)
    assert float(step.norm()) <= float(root.norm()) * (1 + 1e-9)


def test_the_global_model_goes_the_trusted_way():
    strategy = FLTrust(towards(2.0, 0.0))
    rows = BASE + torch.tensor([[30.0, 40.0], [0.0, 5.0], [-1.0, 0.0], [7.0, 0.0]])

    arrays, metrics = play(strategy, BASE, replies(rows))

    torch.testing.assert_close(vector_of(arrays), BASE + torch.tensor([1.7, 0.6]))
    assert strategy.trust == pytest.approx({1: 0.6, 2: 0.0, 3: 0.0, 4: 1.0})
    assert metrics["flower-dfl-kept"] == 2


def test_the_servers_step_size_scales_the_update():
    arrays, _ = play(FLTrust(towards(2.0, 0.0), alpha=0.5), BASE, replies(BASE + torch.tensor([[30.0, 40.0]])))

    torch.testing.assert_close(vector_of(arrays), BASE + torch.tensor([0.6, 0.8]))


def test_without_trust_the_model_stays_to_the_last_bit():
    base = torch.tensor([0.1, -0.3])

    arrays, metrics = play(FLTrust(towards(2.0, 0.0)), base, replies([[-5.0, -0.3], [0.1, -0.3]]))

    assert torch.equal(vector_of(arrays), base)
    assert metrics["flower-dfl-kept"] == 0


def test_a_majority_that_goes_the_other_way_is_ignored():
    rows = [[2.0, 1.0], [-1e30, 1.0], [-3e38, 1.0], [-1.0, 1.0]]

    arrays, _ = play(FLTrust(towards(0.5, 0.0)), BASE, replies(rows))

    torch.testing.assert_close(vector_of(arrays), torch.tensor([1.5, 1.0]))


def test_the_server_trains_from_the_global_model_of_every_round():
    seen = []

    def train_root(arrays, server_round):
        seen.append((server_round, vector_of(arrays).tolist()))
        return record(vector_of(arrays) + 1)

    strategy = FLTrust(train_root)
    first, _ = play(strategy, BASE, replies([[2.0, 2.0], [3.0, 3.0]]), server_round=1)
    play(strategy, first, replies([[2.0, 2.0]]), server_round=2)

    assert seen == [(1, [1.0, 1.0]), (2, pytest.approx([2.0, 2.0]))]


def test_malformed_replies_are_dropped_and_counted():
    answers = [reply(1, [np.nan, 1.0]), reply(2, [1.0]), failure(3), reply(4, [5.0, 1.0])]

    arrays, metrics = play(FLTrust(towards(2.0, 0.0)), BASE, answers)

    torch.testing.assert_close(vector_of(arrays), torch.tensor([3.0, 1.0]))
    assert metrics["flower-dfl-rejected"] == 3


@pytest.mark.parametrize("trained", [record([1.0]), record([np.nan, 1.0])], ids=["shape", "nan"])
def test_a_root_model_that_is_malformed_is_the_servers_own_fault(trained):
    with pytest.raises(ConfigurationError, match="the server's own arrays are malformed"):
        play(FLTrust(lambda arrays, server_round: trained), BASE, replies([[2.0, 2.0]]))


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigurationError, match="alpha must be positive and finite, got 0"):
        FLTrust(towards(0.0, 0.0), alpha=0)
    with pytest.raises(ConfigurationError, match="call start or configure_train first"):
        FLTrust(towards(0.0, 0.0)).aggregate_train(1, replies([[1.0, 1.0]]))
