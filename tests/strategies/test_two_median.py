import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.strategies.two_median import two_median

numbers = st.lists(st.integers(-50, 50).map(lambda k: k / 4), max_size=9)
"""Quarters: every sum and median below is exact, so that ties are ties."""


def cost(values):
    return sum(abs(value - statistics.median(values)) for value in values) if values else 0.0


def brute_force(values):
    """The sorted near cluster of every best cut between distinct values, with the widest gap and then the fewest."""
    ordered = sorted(values)
    cuts = [k for k in range(1, len(ordered)) if ordered[k] > ordered[k - 1]]
    if not cuts:
        return ordered
    cut = min(cuts, key=lambda k: (cost(ordered[:k]) + cost(ordered[k:]), ordered[k - 1] - ordered[k], k))
    return ordered[:cut]


@pytest.mark.parametrize(
    ("values", "near", "far"),
    [
        ([1, 1.1, 5, 5.2, 5.1], (0, 1), (2, 3, 4)),
        ([3, 3, 3], (0, 1, 2), ()),
        ([0, 1], (0,), (1,)),
        ([1, 2, 3, 10], (0, 1, 2), (3,)),
        ([0, 0, 0, 7], (0, 1, 2), (3,)),
        ([1, 2, 4, 8, 16], (0, 1, 2, 3), (4,)),  # costs of the four cuts: 18, 13, 11, 9
        ([], (), ()),
        ([5], (0,), ()),
        ([2, 1], (1,), (0,)),
        ([0, 0], (0, 1), ()),
        ([10, 1, 11, 2, 12], (1, 3), (0, 2, 4)),
        ([-5, -4, 5], (0, 1), (2,)),
        # the medians of {0, 2} and {3} cost 2, of {0} and {2, 3} cost 1
        ([0, 2, 3], (0,), (1, 2)),
    ],
)
def test_worked_examples(values, near, far):
    assert two_median(values) == (near, far)


def test_of_two_cuts_with_equal_cost_the_wider_gap_is_taken():
    # 0 0 | 1 1 3 costs 0 + 2 with a gap of 1, 0 0 1 1 | 3 costs 2 + 0 with a gap of 2
    assert two_median([0, 0, 1, 1, 3]) == ((0, 1, 2, 3), (4,))


def test_of_two_cuts_with_equal_cost_and_gap_the_one_with_fewer_near_members_is_taken():
    # 0 | 4 5 9 costs 5, 0 4 5 | 9 costs 5, both with a gap of 4; 0 4 | 5 9 costs 8
    assert two_median([0, 4, 5, 9]) == ((0,), (1, 2, 3))


@given(numbers)
def test_the_split_is_the_best_of_all_cuts(values):
    near, far = two_median(values)

    assert sorted(values[k] for k in near) == brute_force(values)
    assert sorted(near + far) == list(range(len(values)))


@given(numbers)
def test_indices_are_ascending_and_every_near_value_is_below_every_far_one(values):
    near, far = two_median(values)

    assert list(near) == sorted(near)
    assert list(far) == sorted(far)
    assert not far or max(values[k] for k in near) < min(values[k] for k in far)


@given(numbers, st.randoms(use_true_random=False))
def test_the_order_of_the_values_does_not_matter(values, shuffle):
    order = list(range(len(values)))
    shuffle.shuffle(order)

    near, _ = two_median(values)
    again, _ = two_median([values[k] for k in order])

    assert sorted(order[k] for k in again) == list(near)


@given(numbers, st.integers(1, 40), st.integers(-100, 100))
def test_scale_and_origin_do_not_matter(values, scale, shift):
    assert two_median([scale * value + shift for value in values]) == two_median(values)


def test_equal_up_to_rounding_is_equal():
    assert two_median([0.1 + 0.2, 0.3, 0.3]) == ((0, 1, 2), ())
    assert two_median([1.0, 1.0 + 1e-8]) == ((0,), (1,))


def test_equal_values_beside_a_far_one_stay_together():
    near, far = two_median([0.1 + 0.2, 0.3, 7.0, 7.0 * (1 + 1e-12), 0.3])

    assert (near, far) == ((0, 1, 4), (2, 3))


def test_arrays_are_welcome_and_unchanged():
    values = np.array([5.0, 1.0, 5.1])

    assert two_median(values) == ((1,), (0, 2))
    assert values.tolist() == [5.0, 1.0, 5.1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match=r"^expected finite values, got "):
        two_median([1.0, bad, 2.0])
