import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.errors import ByzantineBudgetError
from flower_dfl.strategies.average import Average
from flower_dfl.strategies.ios import Ios
from flower_dfl.testing import aggregate


# Weights 1/5: the mean of 0, 1, 2, 10, 30 is 8.6, and 30 is farthest. The mean of the rest is 3.25, and 10 is farthest.
# (0 + 1 + 2) / 3 = 1. Dropping the two farthest from the first mean would have dropped 1.
def test_the_mean_is_taken_anew_after_each_drop():
    result = aggregate(Ios(), torch.tensor([0.0]), torch.tensor([[1.0], [2.0], [10.0], [30.0]]), f=2)

    assert result.vector.tolist() == pytest.approx([1.0])
    assert result.weights == pytest.approx({0: 1 / 3, 1: 1 / 3, 2: 1 / 3, 3: 0.0, 4: 0.0})
    assert result.scores["distance"] == pytest.approx({0: 1.0, 1: 0.0, 2: 1.0, 3: 9.0, 4: 29.0})


# Own weight 0.4. The mean of 0, 10, 1, 2 is 4 + 0.1 + 0.2 = 4.3, and 10 is farthest: 0.3 / 0.6.
def test_mixing_weights_decide_what_is_far():
    received = torch.tensor([[10.0], [1.0], [2.0]])

    result = aggregate(Ios(), torch.tensor([0.0]), received, weights=[0.4, 0.1, 0.1], f=1)

    assert result.vector.tolist() == pytest.approx([0.5])


@given(m=st.integers(0, 6), seed=st.integers(0, 2**32))
def test_without_budget_it_is_metropolis_averaging(m, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(m + 1, 10, generator=generator)
    weights = torch.rand(m, generator=generator, dtype=torch.float64) / (m + 1)

    result = aggregate(Ios(), rows[0], rows[1:], weights=weights)

    torch.testing.assert_close(
        result.vector, aggregate(Average("metropolis"), rows[0], rows[1:], weights=weights).vector
    )


def test_the_node_itself_is_never_dropped():
    result = aggregate(Ios(), torch.tensor([50.0]), torch.tensor([[0.0], [1.0], [2.0], [3.0]]), f=2)

    assert result.weights[0] > 0


def test_without_an_honest_majority_it_refuses():
    with pytest.raises(ByzantineBudgetError, match=r"^IOS needs n >= 2f \+ 1, got n=4, f=2$"):
        aggregate(Ios(), torch.zeros(2), torch.zeros(3, 2), f=2)
