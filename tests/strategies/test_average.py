import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.strategies.average import Average
from flower_dfl.testing import aggregate

OWN = torch.tensor([0.0, 1.0])
RECEIVED = torch.tensor([[3.0, 1.0], [6.0, 4.0]])


def test_the_uniform_mean_is_worked_by_hand():
    # (0 + 3 + 6) / 3 = 3, (1 + 1 + 4) / 3 = 2; mixing weights play no part
    result = aggregate(Average(), OWN, RECEIVED, weights=[0.1, 0.5])

    assert result.vector.tolist() == pytest.approx([3, 2])
    assert result.weights == pytest.approx({0: 1 / 3, 1: 1 / 3, 2: 1 / 3})


def test_the_metropolis_mean_is_worked_by_hand():
    # own weight 1 - 0.25 - 0.5 = 0.25: 0.25 * (0, 1) + 0.25 * (3, 1) + 0.5 * (6, 4) = (3.75, 2.5)
    result = aggregate(Average("metropolis"), OWN, RECEIVED, weights=[0.25, 0.5])

    assert result.vector.tolist() == pytest.approx([3.75, 2.5])
    assert result.weights == pytest.approx({0: 0.25, 1: 0.25, 2: 0.5})


def test_the_weight_of_a_missing_neighbour_falls_to_the_node_itself():
    result = aggregate(Average("metropolis"), OWN, RECEIVED[:1], weights=[0.25])

    assert result.vector.tolist() == pytest.approx([0.75, 1.0])
    assert result.weights == pytest.approx({0: 0.75, 1: 0.25})


@pytest.mark.parametrize("weights", ["uniform", "metropolis"])
def test_alone_the_node_stays_where_it_is(weights):
    result = aggregate(Average(weights), OWN, RECEIVED[:0])

    assert torch.equal(result.vector, OWN)
    assert result.weights == {0: 1.0}


@given(st.integers(1, 8), st.integers(0, 10**6))
def test_with_equal_mixing_weights_both_are_the_same(count, seed):
    models = torch.randn(count + 1, 5, generator=torch.Generator().manual_seed(seed))

    uniform, metropolis = (aggregate(Average(w), models[0], models[1:]).vector for w in ("uniform", "metropolis"))

    assert torch.allclose(uniform, metropolis, atol=1e-6)
    assert torch.allclose(uniform, models.mean(dim=0), atol=1e-6)


def test_it_is_not_robust_and_leaves_nobody_out():
    result = aggregate(Average(), OWN, torch.tensor([[3e6, 0.0]]))

    assert result.vector[0] == 1.5e6
    assert result.flags == ()
