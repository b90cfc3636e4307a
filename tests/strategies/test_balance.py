import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.errors import ConfigurationError
from flower_dfl.strategies.balance import Balance
from flower_dfl.testing import aggregate

OWN = torch.tensor([3.0, 4.0])  # of norm 5


def test_it_averages_whoever_is_within_the_bound():
    received = OWN + torch.tensor([[1.0, 0.0], [0.0, 1.3], [0.0, 1.4]])

    # Bound in round 1 of 10: 0.3 * exp(-0.1) * 5 = 1.357; the third is out.
    result = aggregate(Balance(), OWN, received, round=1, num_rounds=10)

    torch.testing.assert_close(result.vector, OWN + 0.5 * torch.tensor([0.5, 0.65]))
    assert result.weights == {0: 0.5, 1: 0.25, 2: 0.25, 3: 0.0}
    assert result.scores["bound"][1] == pytest.approx(1.5 * math.exp(-0.1))


def test_the_bound_shrinks_from_round_to_round():
    received = OWN + torch.tensor([[0.0, 1.3]])

    late = aggregate(Balance(), OWN, received, round=2, num_rounds=10)  # 0.3 * exp(-0.2) * 5 = 1.228
    fixed = aggregate(Balance(kappa=0.0), OWN, received, round=2, num_rounds=10)

    assert late.weights == {0: 1.0, 1: 0.0}
    assert fixed.weights == {0: 0.5, 1: 0.5}


def test_with_nobody_accepted_the_node_keeps_its_own_model():
    result = aggregate(Balance(), OWN, OWN + torch.tensor([[2.0, 0.0], [0.0, 3.0]]))

    assert torch.equal(result.vector, OWN)


def test_an_unlimited_bound_is_alpha_averaging():
    received = 1e6 * torch.randn(4, 2)

    result = aggregate(Balance(gamma=math.inf, alpha=0.2), OWN, received)

    torch.testing.assert_close(result.vector, 0.2 * OWN + 0.8 * received.mean(dim=0))


@given(seed=st.integers(0, 2**20), scale=st.floats(0.01, 1e6), alpha=st.floats(0, 1), round=st.integers(1, 10))
def test_nobody_moves_the_node_further_than_the_bound(seed, scale, alpha, round):
    received = OWN + scale * torch.randn(6, 2, generator=torch.Generator().manual_seed(seed))

    moved = (aggregate(Balance(alpha=alpha), OWN, received, round=round).vector - OWN).norm()

    assert float(moved) <= (1 - alpha) * 1.5 * math.exp(-round / 10) * (1 + 1e-5) + 1e-5


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"gamma": 0.0}, "gamma must be positive, got 0.0"),
        ({"kappa": -0.1}, "kappa must be non-negative and finite, got -0.1"),
        ({"alpha": 1.5}, r"alpha must be in \[0, 1\], got 1.5"),
    ],
)
def test_parameters_out_of_range_are_refused(params, message):
    with pytest.raises(ConfigurationError, match=message):
        Balance(**params)
