import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.errors import ByzantineBudgetError
from flower_dfl.strategies.trimmed_mean import TrimmedMean
from flower_dfl.testing import aggregate


# 0 and 100 are trimmed: (1 + 2 + 6) / 3.
def test_one_value_is_dropped_at_each_end():
    result = aggregate(TrimmedMean(), torch.tensor([0.0]), torch.tensor([[2.0], [100.0], [6.0], [1.0]]), f=1)

    assert result.vector.tolist() == [3.0]
    assert result.weights == pytest.approx({0: 0.0, 1: 1 / 3, 2: 0.0, 3: 1 / 3, 4: 1 / 3})


@pytest.mark.parametrize("n", [1, 2, 6])
def test_without_budget_it_is_the_mean(n):
    rows = torch.randn(n, 30, generator=torch.Generator().manual_seed(n))

    result = aggregate(TrimmedMean(), rows[0], rows[1:])

    torch.testing.assert_close(result.vector, rows.mean(dim=0))
    assert result.weights == pytest.approx(dict.fromkeys(range(n), 1 / n))


@given(
    f=st.integers(0, 4), extra=st.integers(0, 3), seed=st.integers(0, 2**32), lie=st.floats(width=32, allow_nan=False)
)
def test_a_minority_cannot_leave_the_honest_range(f, extra, seed, lie):
    honest = torch.randn(f + 1 + extra, 5, generator=torch.Generator().manual_seed(seed))

    vector = aggregate(TrimmedMean(), honest[0], torch.cat([honest[1:], torch.full((f, 5), lie)]), f=f).vector

    assert (honest.min(dim=0).values - 1e-6 <= vector).all()
    assert (vector <= honest.max(dim=0).values + 1e-6).all()


def test_without_an_honest_majority_it_refuses():
    with pytest.raises(ByzantineBudgetError, match=r"^the trimmed mean needs n >= 2f \+ 1, got n=4, f=2$"):
        aggregate(TrimmedMean(), torch.zeros(2), torch.zeros(3, 2), f=2)
