import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.errors import ByzantineBudgetError
from flower_dfl.strategies.nna import NearestNeighbourAveraging
from flower_dfl.testing import aggregate


def test_it_averages_the_models_nearest_to_the_own_one():
    own, received = torch.zeros(2), torch.tensor([[3.0, 4.0], [0.0, 1.0], [90.0, 0.0], [2.0, 0.0]])

    result = aggregate(NearestNeighbourAveraging(), own, received, f=2)

    # n - f = 3: own, (0, 1) and (2, 0).
    torch.testing.assert_close(result.vector, torch.tensor([2 / 3, 1 / 3]))
    assert result.weights == pytest.approx({0: 1 / 3, 1: 0, 2: 1 / 3, 3: 0, 4: 1 / 3})


def test_without_a_budget_it_is_the_plain_mean():
    own, received = torch.randn(5), torch.randn(3, 5)

    result = aggregate(NearestNeighbourAveraging(), own, received, f=0)

    torch.testing.assert_close(result.vector, torch.cat([own[None], received]).mean(dim=0))


@given(seed=st.integers(0, 2**20), f=st.integers(1, 4), more=st.integers(1, 4), scale=st.floats(0, 1e5))
def test_no_kept_model_is_farther_than_the_farthest_honest_one(seed, f, more, scale):
    generator = torch.Generator().manual_seed(seed)
    own, honest = torch.randn(3, generator=generator), torch.randn(f + more - 1, 3, generator=generator)
    liars = scale * torch.randn(f, 3, generator=generator)

    result = aggregate(NearestNeighbourAveraging(), own, torch.cat([honest, liars]), f=f)

    farthest = float((honest - own).norm(dim=1).max()) if len(honest) else 0.0
    assert float((result.vector - own).norm()) <= farthest * (1 + 1e-5) + 1e-5


def test_a_neighbourhood_without_honest_majority_is_an_error():
    with pytest.raises(ByzantineBudgetError, match="NNA needs n > 2f, got n=4, f=3"):
        aggregate(NearestNeighbourAveraging(), torch.zeros(2), torch.ones(3, 2), f=3)
    with pytest.raises(ByzantineBudgetError, match="got n=4, f=2"):
        aggregate(NearestNeighbourAveraging(), torch.zeros(2), torch.ones(3, 2), f=2)
