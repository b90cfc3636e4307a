import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_dfl.attacks.min_max import MinMax
from flower_dfl.attacks.min_sum import MinSum
from flower_dfl.errors import ConfigurationError
from flower_dfl.testing import craft

DIRECTIONS = st.sampled_from(["unit", "std", "sign"])


def column(*values):
    return torch.tensor(values)[:, None]


def squared(rows):
    return (rows[:, None].double() - rows[None].double()).square().sum(dim=2)


def to_all(sent, rows):
    return (sent.double() - rows.double()).square().sum(dim=1)


@st.composite
def neighbourhoods(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    rows = torch.randn(draw(st.integers(2, 7)), draw(st.integers(1, 30)), generator=generator)
    return rows, torch.randn(rows.shape[1], generator=generator)


# Updates 0, 1, 5 (base 0), mean 2. Min-max: the largest distance between two is 5, so the message must stay within 5
# of the update 5: 0. Min-sum: summed squared distances are 26, 17 and 41, and 14 + 3 (x - 2)^2 for a message x:
# bounded by 41 it reaches 2 - 3, bounded by 17 only 2 - 1.
@pytest.mark.parametrize(("attack", "value"), [(MinMax(), 0.0), (MinSum(), -1.0), (MinSum(bound="min"), 1.0)])
@pytest.mark.parametrize("direction", ["unit", "std", "sign"])
def test_one_coordinate_goes_as_far_as_worked_by_hand(attack, value, direction):
    bounded = {"bound": attack.bound} if isinstance(attack, MinSum) else {}

    sent = craft(type(attack)(direction=direction, **bounded), column(0.0, 1.0, 5.0), column(7.0))

    assert sent.item() == pytest.approx(value, abs=1e-6)


@settings(deadline=None)
@given(neighbourhoods(), DIRECTIONS)
def test_min_max_meets_its_bound_exactly(neighbourhood, direction):
    rows, base = neighbourhood

    sent = craft(MinMax(direction), rows, rows[:1], base=base)

    assert to_all(sent, rows).max().item() == pytest.approx(squared(rows).max().item(), rel=1e-4)


@settings(deadline=None)
@given(neighbourhoods(), DIRECTIONS, st.sampled_from(["max", "min"]))
def test_min_sum_meets_its_bound_exactly(neighbourhood, direction, bound):
    rows, base = neighbourhood
    sums = squared(rows).sum(dim=1)

    sent = craft(MinSum(direction, bound=bound), rows, rows[:1], base=base)

    expected = sums.max() if bound == "max" else sums.min()
    assert to_all(sent, rows).sum().item() == pytest.approx(expected.item(), rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(neighbourhoods(), st.sampled_from([MinMax, MinSum]))
def test_both_go_against_the_mean_update(neighbourhood, attack):
    rows, base = neighbourhood
    mean = rows.mean(dim=0)

    for direction in ("unit", "sign"):
        assert torch.dot(craft(attack(direction), rows, rows[:1], base=base) - mean, mean - base) <= 1e-4


def test_a_direction_of_deviations_lowers_every_coordinate():
    rows = torch.randn(5, 10, generator=torch.Generator().manual_seed(0))

    assert (craft(MinMax("std"), rows, rows[:1]) < rows.mean(dim=0)).all()


def test_partial_knowledge_works_from_the_byzantine_updates():
    sent = craft(MinMax(knowledge_level="partial"), column(9.0), column(0.0, 1.0, 5.0))

    assert sent.item() == pytest.approx(0, abs=1e-6)


def test_the_bound_holds_near_consensus():
    rows = 1 + 1e-5 * torch.randn(6, 5_000, generator=torch.Generator().manual_seed(0))

    sent = craft(MinMax("std"), rows, rows[:1], base=torch.ones(5_000))

    assert to_all(sent, rows).max().item() == pytest.approx(squared(rows).max().item(), rel=0.01)


@pytest.mark.parametrize("attack", [MinMax, MinSum])
def test_models_that_agree_leave_no_room(attack):
    assert craft(attack(), torch.ones(4, 3), torch.zeros(1, 3)).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("attack", "params", "message"),
    [
        (MinMax, {"direction": "down"}, "unknown direction 'down'"),
        (MinSum, {"direction": "down"}, "unknown direction 'down'"),
        (MinMax, {"knowledge_level": "local"}, "unknown knowledge_level 'local'"),
        (MinSum, {"knowledge_level": "local"}, "unknown knowledge_level 'local'"),
        (MinSum, {"bound": "mean"}, "unknown bound 'mean'"),
    ],
)
def test_parameters_out_of_range_are_refused(attack, params, message):
    with pytest.raises(ConfigurationError, match=message):
        attack(**params)
