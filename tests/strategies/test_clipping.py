import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.strategies.clipping import clip_factors, largest_weights, nearest_weights


def test_clipping_shortens_only_what_is_longer_than_the_radius():
    distances = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64)

    assert clip_factors(distances, 2.0).tolist() == [1.0, 1.0, 0.5]
    assert clip_factors(distances, float("inf")).tolist() == [1.0, 1.0, 1.0]
    assert clip_factors(distances, 0.0).tolist() == [1.0, 0.0, 0.0]


def test_the_neighbour_on_the_boundary_keeps_what_fits_of_its_weight():
    distances = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
    weights = torch.tensor([0.5, 0.2, 0.1], dtype=torch.float64)

    # Nearest first: 0.2, then 0.1, then 0.15 of 0.5.
    assert nearest_weights(distances, weights, 0.45).tolist() == pytest.approx([0.15, 0.2, 0.1])
    assert nearest_weights(distances, weights, 0.0).tolist() == [0, 0, 0]
    assert nearest_weights(distances, weights, -1.0).tolist() == [0, 0, 0]


@given(m=st.integers(1, 30), dropped=st.data())
def test_rounding_leaves_no_weight_to_those_who_are_dropped_whole(m, dropped):
    f = dropped.draw(st.integers(0, m))
    weights = torch.full((m,), 1 / (m + 1), dtype=torch.float64)

    kept = nearest_weights(torch.arange(m).double(), weights, float(weights.sum()) - largest_weights(weights, f))

    assert kept.tolist() == [1 / (m + 1)] * (m - f) + [0.0] * f


def test_the_largest_weights_are_all_of_them_where_the_budget_is_larger():
    weights = torch.tensor([0.1, 0.3, 0.2], dtype=torch.float64)

    assert largest_weights(weights, 2) == 0.5
    assert largest_weights(weights, 5) == pytest.approx(0.6)
    assert largest_weights(weights, 0) == 0
