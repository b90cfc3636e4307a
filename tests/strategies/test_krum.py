import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.errors import ByzantineBudgetError
from flower_dfl.strategies.krum import Krum
from flower_dfl.testing import aggregate


def column(*values):
    return torch.tensor(values)[:, None]


@st.composite
def neighbourhoods(draw):
    """Return own (d,), received (m, d) and a budget that Krum accepts."""
    f = draw(st.integers(0, 3))
    n = draw(st.integers(2 * f + 3, 2 * f + 8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    rows = torch.randint(-50, 50, (n, draw(st.integers(1, 5))), generator=generator).float()
    return rows[0], rows[1:], f


# n = 5, f = 1: the 2 nearest others count. Scores: 0: 1 + 6.25 = 7.25; 1: 1 + 2.25 = 3.25; 2.5: 2.25 + 2.25 = 4.5;
# 4: 2.25 + 9 = 11.25; 100: 96^2 + 97.5^2 = 18722.25. With a third neighbour (ByzFL) 2.5 wins: 10.75 against 12.25.
def test_two_of_five_members_score_as_worked_by_hand():
    result = aggregate(Krum(), torch.tensor([0.0]), column(1.0, 2.5, 4.0, 100.0), f=1)

    assert result.vector.tolist() == [1.0]
    assert result.scores["krum"] == pytest.approx({0: 7.25, 1: 3.25, 2: 4.5, 3: 11.25, 4: 18722.25})
    assert result.weights == {0: 0.0, 1: 1.0, 2: 0.0, 3: 0.0, 4: 0.0}


@given(neighbourhoods())
def test_the_result_is_one_of_the_inputs(neighbourhood):
    own, received, f = neighbourhood

    result = aggregate(Krum(), own, received, f=f)

    (winner,) = [node for node, weight in result.weights.items() if weight]
    assert torch.equal(result.vector, [own, *received][winner])
    assert result.scores["krum"][winner] == min(result.scores["krum"].values())


@given(neighbourhoods(), st.integers(-100, 100))
def test_moving_every_member_moves_the_result(neighbourhood, shift):
    own, received, f = neighbourhood

    moved = aggregate(Krum(), own + shift, received + shift, f=f)

    assert torch.equal(moved.vector, aggregate(Krum(), own, received, f=f).vector + shift)


@given(neighbourhoods(), st.integers(0, 2**32))
def test_no_order_of_the_members_changes_the_score_that_wins(neighbourhood, seed):
    own, received, f = neighbourhood
    rows = torch.cat([own[None], received])
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]

    shuffled = aggregate(Krum(), rows[0], rows[1:], f=f).scores["krum"]

    assert min(shuffled.values()) == pytest.approx(min(aggregate(Krum(), own, received, f=f).scores["krum"].values()))


# Scores of three, f = 0, one neighbour: 0 and 1 are each other's nearest and tie at 1; 1 is nearer to 5.
def test_of_two_mutual_nearest_the_one_nearer_to_the_rest_wins():
    result = aggregate(Krum(), torch.tensor([0.0]), column(1.0, 5.0))

    assert result.vector.tolist() == [1.0]


def test_a_single_neighbour_without_budget_leaves_the_node_where_it_is():
    result = aggregate(Krum(), torch.tensor([3.0]), column(1.0))

    assert result.vector.tolist() == [3.0]


@pytest.mark.parametrize("magnitude", [1e-5, 1e5])
def test_the_right_model_wins_when_models_nearly_agree(magnitude):
    generator = torch.Generator().manual_seed(0)
    rows = magnitude + 1e-5 * magnitude * torch.randn(8, 20_000, generator=generator)
    rows[5] = rows.mean(dim=0)  # nearest to everybody

    result = aggregate(Krum(), rows[0], rows[1:], f=2)

    assert torch.equal(result.vector, rows[5])


@pytest.mark.parametrize(("n", "f"), [(4, 1), (6, 2), (1, 1)])
def test_too_small_a_neighbourhood_is_refused(n, f):
    with pytest.raises(ByzantineBudgetError, match=rf"^Krum needs n >= 2f \+ 3, got n={n}, f={f}$"):
        aggregate(Krum(), torch.zeros(2), torch.zeros(n - 1, 2), f=f)


def test_the_smallest_neighbourhood_is_accepted():
    assert aggregate(Krum(), torch.zeros(2), torch.zeros(4, 2), f=1).vector.tolist() == [0.0, 0.0]
