import pytest
import torch

from flower_dfl import registry
from flower_dfl.testing import aggregate, check_strategy

RULES = [
    "bridge-b",
    "bridge-k",
    "bridge-m",
    "bridge-t",
    "bulyan",
    "centered-clipping",
    "geometric-median",
    "ios",
    "krum",
    "median",
    "multi-krum",
    "trimmed-mean",
]


@pytest.mark.parametrize("f", [1, 2])
@pytest.mark.parametrize("name", RULES)
def test_the_contract_holds(name, f):
    check_strategy(registry.build("strategy", name), f=f)


@pytest.mark.parametrize("lie", [torch.inf, -torch.inf, 3.4e38, -3.4e38])
@pytest.mark.parametrize("name", RULES)
def test_no_liar_gets_through_wherever_it_sits(name, lie):
    honest = torch.randn(11, 6, generator=torch.Generator().manual_seed(0))
    rule = registry.build("strategy", name)

    for position in range(1, 12):
        rows = torch.cat([honest[:position], torch.full((1, 6), lie), honest[position:]])
        result = aggregate(rule, rows[0], rows[1:], f=1)

        assert (result.vector - honest.mean(dim=0)).norm() <= 2 * (honest - honest.mean(dim=0)).norm(dim=1).max()
        assert result.weights[position] < 1e-6


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("m", range(6))
def test_without_budget_every_neighbourhood_is_accepted(name, m):
    rows = torch.randn(m + 1, 6, generator=torch.Generator().manual_seed(m))

    result = aggregate(registry.build("strategy", name), rows[0], rows[1:], f=0)

    assert torch.isfinite(result.vector).all()
    assert (rows.min(dim=0).values.clamp(max=0) - 1e-6 <= result.vector).all()
    assert (result.vector <= rows.max(dim=0).values.clamp(min=0) + 1e-6).all()


@pytest.mark.parametrize("name", sorted(set(RULES) - {"centered-clipping"}))
def test_weights_add_up_to_one(name):
    rows = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))

    result = aggregate(registry.build("strategy", name), rows[0], rows[1:], f=2)

    assert sum(result.weights.values()) == pytest.approx(1)
    assert min(result.weights.values()) >= 0


@pytest.mark.parametrize("name", sorted(set(RULES) - {"bulyan", "bridge-b", "bridge-k", "krum", "multi-krum"}))
def test_moving_every_model_moves_the_result(name):
    rows = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
    shift = torch.randn(6, generator=torch.Generator().manual_seed(1))
    rule = registry.build("strategy", name)

    moved = aggregate(rule, rows[0] + shift, rows[1:] + shift, base=shift, f=2).vector

    torch.testing.assert_close(moved, aggregate(rule, rows[0], rows[1:], f=2).vector + shift)
