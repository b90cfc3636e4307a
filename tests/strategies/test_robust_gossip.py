import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.errors import ConfigurationError
from flower_dfl.strategies.average import Average
from flower_dfl.strategies.cs_plus import CsPlus, quantile_radius
from flower_dfl.strategies.gts import Gts
from flower_dfl.testing import aggregate


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def column(*values):
    return torch.tensor(values)[:, None]


def test_cs_plus_clips_to_the_distance_beyond_which_twice_the_byzantine_weight_lies():
    result = aggregate(CsPlus(), torch.zeros(1), column(10.0, 1.0, 3.0, 2.0), f=1)

    # Weights 1/5, b = 1/5, T = 3/5: own, 1 and 2 weigh exactly that, so tau = 2 and the result is (1 + 2 + 2 + 2) / 5.
    torch.testing.assert_close(result.vector, torch.tensor([1.4]))
    assert result.weights == pytest.approx({0: 1 - 0.2 * (2 / 10 + 1 + 2 / 3 + 1), 1: 0.04, 2: 0.2, 3: 0.4 / 3, 4: 0.2})


@pytest.mark.parametrize(
    ("byzantine_weight", "boundary", "radius"),
    [
        # Cumulated weights: own 0.3, 0.4 (distance 1), 0.9 (distance 2), 1.0 (distance 10).
        (0.0, "below", math.inf),
        (0.05, "below", 2.0),  # T = 0.9 is met exactly
        (0.05, "at", 2.0),
        (0.1, "below", 1.0),  # T = 0.8 lies inside the third: one step back, or there
        (0.1, "at", 2.0),
        (0.35, "below", 0.0),  # T = 0.3 is the own weight
        (0.5, "at", 0.0),  # T = 0
        (0.6, "below", 0.0),  # T < 0
    ],
)
def test_the_radius_of_cs_plus(byzantine_weight, boundary, radius):
    distances, weights = numbers(10.0, 1.0, 2.0), numbers(0.1, 0.1, 0.5)

    assert quantile_radius(distances, weights, byzantine_weight, boundary) == radius


def test_gts_drops_the_farthest_byzantine_weight():
    result = aggregate(Gts(), torch.zeros(1), column(2.0, 1.0, 50.0), weights=[0.2, 0.3, 0.1], f=1)

    # b = 0.3: all of 0.1 at 50 and all of 0.2 at 2 go; 0.3 at 1 stays.
    torch.testing.assert_close(result.vector, torch.tensor([0.3]))
    assert result.weights == pytest.approx({0: 0.7, 1: 0, 2: 0.3, 3: 0})
    assert result.weights[1] == result.weights[3] == 0


def test_gts_keeps_a_part_of_the_neighbour_on_the_boundary():
    result = aggregate(Gts(), torch.zeros(1), column(2.0, 1.0, 50.0), weights=[0.3, 0.2, 0.1], f=1)

    # b = 0.3: all of 0.1 at 50 and 0.2 of 0.3 at 2 go.
    torch.testing.assert_close(result.vector, torch.tensor([0.2 + 0.1 * 2]))


@pytest.mark.parametrize("rule", [CsPlus(), CsPlus(boundary="at"), Gts()])
def test_without_byzantine_weight_it_is_gossip_with_the_mixing_weights(rule):
    own, received, weights = torch.randn(6), torch.randn(4, 6), [0.1, 0.25, 0.3, 0.05]

    gossip = aggregate(Average("metropolis"), own, received, weights=weights)
    result = aggregate(rule, own, received, weights=weights, f=0)

    torch.testing.assert_close(result.vector, gossip.vector)
    assert result.weights == pytest.approx(gossip.weights)


@pytest.mark.parametrize(("rule", "f"), [(CsPlus(), 3), (CsPlus(boundary="at"), 3), (Gts(), 5), (Gts(), 6)])
def test_where_the_byzantine_weight_is_too_large_the_node_stays_alone(rule, f):
    own, received = torch.randn(6), torch.randn(5, 6)

    result = aggregate(rule, own, received, f=f)

    assert torch.equal(result.vector, own)
    assert result.weights == {0: 1.0} | dict.fromkeys(range(1, 6), 0.0)


@given(
    seed=st.integers(0, 2**20),
    weights=st.lists(st.floats(0.01, 1), min_size=2, max_size=9),
    own_weight=st.floats(0.01, 1),
    equal=st.booleans(),
    data=st.data(),
)
def test_the_error_stays_within_the_published_bound_whoever_is_byzantine(seed, weights, own_weight, equal, data):
    m = len(weights)
    w = torch.full((m,), 1 / (m + 1)) if equal else numbers(*weights) / (sum(weights) + own_weight)
    f = data.draw(st.integers(1, m - 1))
    liars = data.draw(st.lists(st.integers(0, m - 1), min_size=1, max_size=f, unique=True))
    honest = [j for j in range(m) if j not in liars]
    offsets = torch.randn(m, 3, generator=torch.Generator().manual_seed(seed))
    offsets[liars] *= 10 ** data.draw(st.floats(-2, 3))
    b = float(w.sort(descending=True).values[:f].sum())
    truth = sum(float(w[j]) * offsets[j] for j in honest)
    spread = sum(float(w[j]) * float(offsets[j].square().sum()) for j in honest)

    for rule, rho in ((CsPlus(boundary="at"), 2), (Gts(), 4), *([(CsPlus(), 2)] if equal else [])):
        moved = aggregate(rule, torch.zeros(3), offsets, weights=w, f=f).vector
        assert float((moved - truth).square().sum()) <= rho * b * spread * (1 + 1e-4) + 1e-6


def test_with_unequal_weights_the_released_boundary_clips_more_than_the_bound_allows_for():
    distances, weights, b = numbers(0.0, 1.0, 10.0), numbers(0.1, 0.5, 0.1), 0.1  # the last one lies

    tau = quantile_radius(distances, weights, b, "below")

    # The honest neighbour of weight 0.5 is clipped to 0: the squared error is 0.25, the bound 2 * 0.1 * 0.5.
    assert tau == 0
    assert (0.5 * (1 - tau)) ** 2 > 2 * b * 0.5


def test_an_unknown_boundary_is_refused():
    with pytest.raises(ConfigurationError, match="boundary must be 'below' or 'at', got 'above'"):
        CsPlus(boundary="above")
