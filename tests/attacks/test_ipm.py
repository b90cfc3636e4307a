import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_dfl.attacks.ipm import InnerProductManipulation
from flower_dfl.errors import ConfigurationError
from flower_dfl.strategies.average import Average
from flower_dfl.testing import aggregate, craft


def test_the_mean_update_is_turned_as_worked_by_hand():
    # base 1, honest 2 and 4: mean update 2; 1 - 0.5 * 2 = 0
    sent = craft(InnerProductManipulation(), torch.tensor([[2.0], [4.0]]), torch.zeros(1, 1), base=torch.ones(1))

    assert sent.item() == 0


def test_partial_knowledge_turns_the_byzantine_mean_update():
    # base 1, Byzantine 3 and 5: mean update 3; 1 - 2 * 3 = -5
    attack = InnerProductManipulation(epsilon=2, knowledge_level="partial")

    sent = craft(attack, torch.tensor([[2.0]]), torch.tensor([[3.0], [5.0]]), base=torch.ones(1))

    assert sent.item() == -5


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 100))
def test_the_inner_product_with_the_honest_update_is_negative(seed, epsilon):
    draw = torch.Generator().manual_seed(seed)
    honest, base = torch.randn(5, 20, generator=draw), torch.randn(20, generator=draw)

    sent = craft(InnerProductManipulation(epsilon), honest, honest[:2], base=base)

    honest_update = honest.mean(dim=0) - base
    assert torch.dot(sent - base, honest_update) == pytest.approx(
        -epsilon * float(honest_update.square().sum()), rel=1e-3
    )


@pytest.mark.parametrize(("epsilon", "turned"), [(2.1, True), (1.9, False)])
def test_plain_averaging_turns_round_above_the_honest_share(epsilon, turned):
    # 4 honest, 2 Byzantine: the mean update changes its sign at epsilon = 4 / 2
    honest = 1 + 0.1 * torch.randn(4, 30, generator=torch.Generator().manual_seed(0))

    sent = craft(InnerProductManipulation(epsilon), honest, honest[:2])
    result = aggregate(Average(), honest[0], torch.cat([honest[1:], sent.expand(2, -1)])).vector

    assert bool(torch.dot(result, honest.mean(dim=0)) < 0) is turned


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("inf"), float("nan")])
def test_a_factor_that_is_not_positive_and_finite_is_refused(epsilon):
    with pytest.raises(ConfigurationError, match=r"^epsilon must be positive and finite, got"):
        InnerProductManipulation(epsilon)
