import pytest
import torch

from flower_dfl.attacks.ipm import InnerProductManipulation
from flower_dfl.attacks.sign_flip import SignFlip
from flower_dfl.errors import ConfigurationError
from flower_dfl.testing import craft

HONEST, BYZANTINE, BASE = torch.tensor([[2.0], [4.0]]), torch.tensor([[3.0], [7.0]]), torch.tensor([1.0])


@pytest.mark.parametrize(
    ("params", "value"),
    [
        ({}, -1.0),  # 1 - (3 - 1)
        ({"kappa": 2.0}, -3.0),  # 1 - 2 (3 - 1)
        ({"knowledge_level": "partial"}, -3.0),  # mean 5: 1 - (5 - 1)
        ({"knowledge_level": "full"}, -1.0),  # mean 3: 1 - (3 - 1)
        ({"space": "model"}, -3.0),
        ({"space": "model", "kappa": 2.0, "knowledge_level": "partial"}, -10.0),
    ],
)
def test_the_sign_changes_as_worked_by_hand(params, value):
    assert craft(SignFlip(**params), HONEST, BYZANTINE, base=BASE).item() == value


def test_with_full_knowledge_it_is_inner_product_manipulation():
    flipped = craft(SignFlip(0.7, knowledge_level="full"), HONEST, BYZANTINE, base=BASE)

    assert torch.equal(flipped, craft(InnerProductManipulation(0.7), HONEST, BYZANTINE, base=BASE))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"kappa": 0.0}, r"^kappa must be positive and finite, got 0\.0$"),
        ({"space": "weights"}, "unknown space 'weights'"),
        ({"knowledge_level": "all"}, "unknown knowledge_level 'all'"),
    ],
)
def test_parameters_out_of_range_are_refused(params, message):
    with pytest.raises(ConfigurationError, match=message):
        SignFlip(**params)
