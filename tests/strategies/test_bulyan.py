import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.errors import ByzantineBudgetError
from flower_dfl.strategies.bulyan import Bulyan
from flower_dfl.testing import aggregate


# n = 7, f = 1. Krum picks 3, 5, 9, 2, 10 in turn (worked in test_kernels); 0 and 100 are left out. The median of the
# five is 5, and the three values nearest to it are 5, 3 and 2.
def test_seven_members_give_the_mean_worked_by_hand():
    result = aggregate(Bulyan(), torch.tensor([0.0]), torch.tensor([[2.0], [3.0], [5.0], [9.0], [10.0], [100.0]]), f=1)

    assert result.vector.tolist() == pytest.approx([10 / 3])
    assert result.weights == pytest.approx({0: 0, 1: 1 / 3, 2: 1 / 3, 3: 1 / 3, 4: 0, 5: 0, 6: 0})


def reference(values, f):
    """Return Bulyan of numbers, by loops."""
    left, selected = list(values), []
    while len(selected) < len(values) - 2 * f:
        count = max(len(left) - f - 2, 1)

        def key(k, left=left, count=count):
            distances = sorted(abs(left[k] - other) for j, other in enumerate(left) if j != k)
            return sum(x * x for x in distances[:count]), distances

        selected.append(left.pop(min(range(len(left)), key=key)))
    ordered = sorted(selected)
    median = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    kept = sorted(ordered, key=lambda x: (abs(x - median), x))[: len(values) - 4 * f]
    return [sum(kept) / len(kept)]


@given(f=st.integers(1, 2), extra=st.integers(0, 4), seed=st.integers(0, 2**32))
def test_it_agrees_with_plain_loops(f, extra, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(-1000, 1000, (4 * f + 3 + extra, 1), generator=generator).float()

    result = aggregate(Bulyan(), rows[0], rows[1:], f=f)

    assert result.vector.tolist() == pytest.approx(reference(rows[:, 0].tolist(), f), abs=1e-4)


def test_a_model_that_is_far_in_one_coordinate_only_does_not_move_it():
    rows = torch.randn(11, 1000, generator=torch.Generator().manual_seed(0))
    rows[4] = rows.mean(dim=0)
    rows[4, 7] = 20.0  # nearer to everybody than anybody, but for one coordinate

    result = aggregate(Bulyan(), rows[0], rows[1:], f=2)

    honest = torch.cat([rows[:4], rows[5:]])[:, 7]
    assert honest.min() <= result.vector[7] <= honest.max()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_without_budget_it_is_the_mean(n):
    rows = torch.randn(n, 30, generator=torch.Generator().manual_seed(n))

    torch.testing.assert_close(aggregate(Bulyan(), rows[0], rows[1:]).vector, rows.mean(dim=0))


def test_too_small_a_neighbourhood_is_refused():
    with pytest.raises(ByzantineBudgetError, match=r"^Bulyan needs n >= 4f \+ 3, got n=6, f=1$"):
        aggregate(Bulyan(), torch.zeros(2), torch.zeros(5, 2), f=1)
