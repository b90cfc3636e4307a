import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.errors import ByzantineBudgetError, ConfigurationError
from flower_dfl.strategies.geometric_median import GeometricMedian
from flower_dfl.testing import aggregate


# In a convex quadrilateral the diagonals' crossing has the smallest sum of distances: (0,0)-(3,3) and (2,0)-(0,2) cross
# in (1, 1), while the mean is (1.25, 1.25). The distances are sqrt(2) and 2 sqrt(2); sqrt(2) and sqrt(2).
def test_four_corners_meet_where_the_diagonals_cross():
    result = aggregate(GeometricMedian(), torch.zeros(2), torch.tensor([[3.0, 3.0], [2.0, 0.0], [0.0, 2.0]]), f=1)

    torch.testing.assert_close(result.vector, torch.ones(2))
    assert result.scores["distance"] == pytest.approx({0: 2**0.5, 1: 8**0.5, 2: 2**0.5, 3: 2**0.5}, rel=1e-6)
    assert result.weights == pytest.approx({0: 2 / 7, 1: 1 / 7, 2: 2 / 7, 3: 2 / 7}, rel=1e-6)


def test_three_of_five_equal_models_have_their_way():
    rows = torch.tensor([[2.0, 1.0], [2.0, 1.0], [9.0, -4.0], [2.0, 1.0], [1e30, 1e30]])

    result = aggregate(GeometricMedian(), rows[0], rows[1:], f=2)

    torch.testing.assert_close(result.vector, rows[0], rtol=0, atol=1e-5)


def test_an_infinite_smoothing_is_the_mean():
    rows = torch.randn(6, 30, generator=torch.Generator().manual_seed(0))

    result = aggregate(GeometricMedian(smoothing=1e9), rows[0], rows[1:])

    torch.testing.assert_close(result.vector, rows.mean(dim=0))


@given(f=st.integers(0, 3), extra=st.integers(0, 3), seed=st.integers(0, 2**32), far=st.floats(1.0, 1e37))
def test_no_other_point_has_a_smaller_sum_of_distances(f, extra, seed, far):
    generator = torch.Generator().manual_seed(seed)
    honest = torch.randn(f + 2 + extra, 4, generator=generator)
    rows = torch.cat([honest, far * torch.randn(f, 4, generator=generator)]).float()

    vector = aggregate(GeometricMedian(), rows[0], rows[1:], f=f).vector

    # Relative to the sum at the first honest model, so that far rows do not hide a difference.
    def gain(point):
        here, there = ((rows.double() - centre.double()).norm(dim=1) for centre in (point, honest[0]))
        return float((here - there).sum())

    nearby = [vector + step for step in 0.1 * torch.randn(20, 4, generator=generator)]
    assert gain(vector) <= min(map(gain, nearby)) + 1e-3 + 1e-14 * far


def test_without_an_honest_majority_it_refuses():
    with pytest.raises(ByzantineBudgetError, match=r"^the geometric median needs n >= 2f \+ 1, got n=4, f=2$"):
        aggregate(GeometricMedian(), torch.zeros(2), torch.zeros(3, 2), f=2)


@pytest.mark.parametrize("smoothing", [0.0, -1.0, float("inf"), float("nan")])
def test_smoothing_must_be_positive_and_finite(smoothing):
    with pytest.raises(ConfigurationError, match="smoothing must be positive and finite"):
        GeometricMedian(smoothing=smoothing)


def test_at_least_one_iteration_is_needed():
    with pytest.raises(ConfigurationError, match="iterations must be at least 1, got 0"):
        GeometricMedian(iterations=0)
