import pytest
import torch

from flower_dfl.attacks.same_value import SameValue
from flower_dfl.errors import ConfigurationError
from flower_dfl.testing import craft
from flower_dfl.types import AttackContext, AttackView, Update


@pytest.mark.parametrize(
    ("attack", "sent"),
    [
        (SameValue(), [0.0, 0.0]),
        (SameValue(3.0), [3.0, 3.0]),
        (SameValue(0.0, "update"), [1.0, -1.0]),
        (SameValue(3.0, "update"), [4.0, 2.0]),
    ],
)
def test_every_coordinate_is_the_value_or_moves_by_it(attack, sent):
    assert craft(attack, torch.ones(2, 2), torch.full((1, 2), 9.0), base=torch.tensor([1.0, -1.0])).tolist() == sent


def test_moving_by_a_value_needs_the_start():
    own = Update(1, 1, torch.zeros(2))

    with pytest.raises(ConfigurationError, match="start-of-round model"):
        SameValue(1.0, "update").craft(
            AttackView(own, (own,), ()), 0, AttackContext(1, 1, 1, frozenset({1}), {}, lr=0.1, seed=0)
        )


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_value_that_is_not_finite_is_refused(value):
    with pytest.raises(ConfigurationError, match=r"^value must be finite"):
        SameValue(value)


def test_an_unknown_space_is_refused():
    with pytest.raises(ConfigurationError, match="unknown space 'weights'"):
        SameValue(space="weights")
