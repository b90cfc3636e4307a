import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.errors import ByzantineBudgetError
from flower_dfl.strategies.bridge_m import BridgeM
from flower_dfl.strategies.median import Median
from flower_dfl.testing import aggregate

RULES = [Median(), BridgeM()]


# Coordinate 0: 1, 5, 2, 100 has the middle values 2 and 5. Coordinate 1: 4, 3, 8, -1 has 3 and 4. Of these four values
# node 0 supplied the 4, node 1 the 5 and the 3, node 2 the 2.
@pytest.mark.parametrize("rule", RULES)
def test_an_even_number_gives_the_mean_of_the_middle_values(rule):
    received = torch.tensor([[5.0, 3.0], [2.0, 8.0], [100.0, -1.0]])

    result = aggregate(rule, torch.tensor([1.0, 4.0]), received, f=1)

    assert result.vector.tolist() == [3.5, 3.5]
    assert result.weights == {0: 0.25, 1: 0.5, 2: 0.25, 3: 0.0}


@pytest.mark.parametrize("rule", RULES)
def test_an_odd_number_gives_the_middle_value(rule):
    assert aggregate(rule, torch.tensor([7.0]), torch.tensor([[1.0], [9.0]]), f=1).vector.tolist() == [7.0]


@pytest.mark.parametrize("rule", RULES)
@given(
    f=st.integers(0, 4), extra=st.integers(0, 3), seed=st.integers(0, 2**32), lie=st.floats(width=32, allow_nan=False)
)
def test_a_minority_cannot_leave_the_honest_range(rule, f, extra, seed, lie):
    honest = torch.randn(f + 1 + extra, 5, generator=torch.Generator().manual_seed(seed))
    liars = torch.full((f, 5), lie)

    vector = aggregate(rule, honest[0], torch.cat([honest[1:], liars]), f=f).vector

    assert (honest.min(dim=0).values <= vector).all()
    assert (vector <= honest.max(dim=0).values).all()


def test_without_an_honest_majority_the_median_refuses():
    with pytest.raises(ByzantineBudgetError, match=r"^the median needs n >= 2f \+ 1, got n=4, f=2$"):
        aggregate(Median(), torch.zeros(2), torch.zeros(3, 2), f=2)


def test_without_an_honest_majority_bridge_m_goes_on():
    assert aggregate(BridgeM(), torch.zeros(1), torch.ones(3, 1), f=3).vector.tolist() == [1.0]
