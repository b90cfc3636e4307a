import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.errors import ConfigurationError
from flower_dfl.strategies.average import Average
from flower_dfl.strategies.self_centered_clipping import SelfCenteredClipping
from flower_dfl.testing import aggregate


def test_offsets_are_clipped_and_weighted():
    own = torch.zeros(2)
    received = torch.tensor([[3.0, 4.0], [1.0, 0.0]])

    result = aggregate(SelfCenteredClipping(tau=1.0), own, received, weights=[0.25, 0.25])

    # (3, 4) is 5 away and becomes (0.6, 0.8): 0.25 * (0.6, 0.8) + 0.25 * (1, 0).
    torch.testing.assert_close(result.vector, torch.tensor([0.4, 0.2]))
    assert result.weights == pytest.approx({0: 0.7, 1: 0.05, 2: 0.25})
    assert result.scores["distance"] == {0: 0.0, 1: 5.0, 2: 1.0}


def test_the_adaptive_radius_comes_from_the_nearest_members():
    own, received = torch.zeros(1), torch.tensor([[1.0], [10.0], [2.0]])

    result = aggregate(SelfCenteredClipping(), own, received, f=1)

    # delta = 1/4; the nearest of weight 3/4 are own, 1 and 2: tau = sqrt((1/4 + 4/4) / (1/4)) = sqrt(5).
    torch.testing.assert_close(result.vector, torch.tensor([(1 + 2 + math.sqrt(5)) / 4]))


def test_the_adaptive_radius_counts_a_part_of_the_neighbour_on_the_boundary():
    own, received = torch.zeros(1), torch.tensor([[1.0], [2.0], [3.0]])

    result = aggregate(SelfCenteredClipping(), own, received, weights=[0.2, 0.5, 0.2], f=1)

    # delta = 0.5, so 0.2 at 1 and 0.2 of the 0.5 at 2 are kept: tau = sqrt((0.2 + 0.8) / 0.5) = sqrt(2).
    torch.testing.assert_close(result.vector, torch.tensor([0.2 + 0.7 * math.sqrt(2)]))


@pytest.mark.parametrize(("rule", "f"), [(SelfCenteredClipping(tau=math.inf), 2), (SelfCenteredClipping(), 0)])
def test_an_infinite_radius_and_no_budget_are_gossip(rule, f):
    own, received, weights = torch.randn(7), torch.randn(4, 7), [0.1, 0.2, 0.3, 0.05]

    gossip = aggregate(Average("metropolis"), own, received, weights=weights)
    result = aggregate(rule, own, received, weights=weights, f=f)

    torch.testing.assert_close(result.vector, gossip.vector)
    assert result.weights == pytest.approx(gossip.weights)


@pytest.mark.parametrize(("rule", "f"), [(SelfCenteredClipping(tau=1e-9), 0), (SelfCenteredClipping(), 4)])
def test_a_vanishing_radius_and_a_budget_of_everybody_are_the_own_model(rule, f):
    own, received = torch.randn(7), torch.randn(4, 7)

    torch.testing.assert_close(aggregate(rule, own, received, f=f).vector, own)


@given(seed=st.integers(0, 2**20), m=st.integers(1, 8), tau=st.floats(0.01, 10), scale=st.floats(0.1, 1e6))
def test_no_neighbour_pulls_further_than_its_weight_times_tau(seed, m, tau, scale):
    generator = torch.Generator().manual_seed(seed)
    own, received = torch.randn(5, generator=generator), scale * torch.randn(m, 5, generator=generator)

    moved = (aggregate(SelfCenteredClipping(tau=tau), own, received).vector - own).norm()

    assert moved <= m / (m + 1) * tau * (1 + 1e-5) + 1e-5


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan])
def test_a_radius_that_is_not_positive_is_refused(tau):
    with pytest.raises(ConfigurationError, match="tau must be positive, got"):
        SelfCenteredClipping(tau=tau)
