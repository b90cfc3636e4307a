import pytest
import torch

from flower_dfl.errors import ByzantineBudgetError, ConfigurationError
from flower_dfl.strategies.krum import Krum
from flower_dfl.strategies.multi_krum import MultiKrum
from flower_dfl.testing import aggregate

OWN, RECEIVED = torch.tensor([0.0]), torch.tensor([[1.0], [2.5], [4.0], [100.0]])


# Scores as in test_krum: 7.25, 3.25, 4.5, 11.25, 18722.25. The default m is 5 - 1: (0 + 1 + 2.5 + 4) / 4 = 1.875;
# m = 2 keeps 1 and 2.5.
@pytest.mark.parametrize(("m", "mean", "kept"), [(None, 1.875, {0, 1, 2, 3}), (2, 1.75, {1, 2})])
def test_the_members_of_the_smallest_scores_are_averaged(m, mean, kept):
    result = aggregate(MultiKrum(m), OWN, RECEIVED, f=1)

    assert result.vector.tolist() == [mean]
    assert result.weights == {node: (node in kept) / len(kept) for node in range(5)}


def test_one_model_is_krum():
    result = aggregate(MultiKrum(1), OWN, RECEIVED, f=1)

    assert torch.equal(result.vector, aggregate(Krum(), OWN, RECEIVED, f=1).vector)
    assert result.scores == aggregate(Krum(), OWN, RECEIVED, f=1).scores


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_without_budget_it_is_the_mean(n):
    rows = torch.randn(n, 30, generator=torch.Generator().manual_seed(n))

    result = aggregate(MultiKrum(), rows[0], rows[1:], f=0)

    torch.testing.assert_close(result.vector, rows.mean(dim=0))


# n = 4, f = 0, 2 neighbours: scores of 0, 1, 3, 10 are 10, 5, 13, 130.
def test_members_are_ranked_once():
    result = aggregate(MultiKrum(2), torch.tensor([0.0]), torch.tensor([[1.0], [3.0], [10.0]]))

    assert result.vector.tolist() == [0.5]


def test_a_neighbourhood_smaller_than_m_is_averaged_whole_without_budget():
    assert aggregate(MultiKrum(9), torch.tensor([0.0]), torch.tensor([[2.0]])).vector.tolist() == [1.0]


def test_too_small_a_neighbourhood_is_refused():
    with pytest.raises(ByzantineBudgetError, match=r"^Multi-Krum needs n >= 2f \+ 3, got n=4, f=1$"):
        aggregate(MultiKrum(), OWN, RECEIVED[:3], f=1)


def test_more_models_than_can_be_trusted_are_refused():
    with pytest.raises(ByzantineBudgetError, match=r"^Multi-Krum needs m <= n - f, got m=5, n=5, f=1$"):
        aggregate(MultiKrum(5), OWN, RECEIVED, f=1)


def test_no_models_are_refused():
    with pytest.raises(ConfigurationError, match="m must be at least 1, got 0"):
        MultiKrum(0)
