import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.errors import ByzantineBudgetError
from flower_dfl.strategies.bridge_b import BridgeB
from flower_dfl.strategies.bridge_k import BridgeK
from flower_dfl.strategies.bridge_t import BridgeT
from flower_dfl.testing import aggregate


def column(*values):
    return torch.tensor(values)[:, None]


# Of the neighbours 0, 1, 2, 3, 100 the first and the last are trimmed, whatever the node's own value: (7 + 6) / 4.
def test_bridge_t_trims_neighbours_and_keeps_the_own_value():
    result = aggregate(BridgeT(), torch.tensor([7.0]), column(0.0, 1.0, 2.0, 3.0, 100.0), f=1)

    assert result.vector.tolist() == [3.25]
    assert result.weights == pytest.approx({0: 0.25, 1: 0.0, 2: 0.25, 3: 0.25, 4: 0.25, 5: 0.0})


# Scores with 5 - 1 - 2 = 2 neighbours, as in test_krum: 1 wins with 3.25. With the own 2.4 as a witness 2.5 would win.
def test_bridge_k_adopts_a_neighbour_judged_by_neighbours():
    result = aggregate(BridgeK(), torch.tensor([2.4]), column(0.0, 1.0, 2.5, 4.0, 100.0), f=1)

    assert result.vector.tolist() == [1.0]
    assert result.scores["krum"] == pytest.approx({1: 7.25, 2: 3.25, 3: 4.5, 4: 11.25, 5: 18722.25})
    assert result.weights == {0: 0.0, 1: 0.0, 2: 1.0, 3: 0.0, 4: 0.0, 5: 0.0}


# Repeated Krum keeps 2, 3, 5, 9, 10 (worked in test_kernels); trimmed, 3 + 5 + 9 are left: (7 + 17) / 4.
def test_bridge_b_trims_what_repeated_krum_selects():
    result = aggregate(BridgeB(), torch.tensor([7.0]), column(0.0, 2.0, 3.0, 5.0, 9.0, 10.0, 100.0), f=1)

    assert result.vector.tolist() == [6.0]
    assert result.weights == pytest.approx({0: 0.25, 1: 0, 2: 0, 3: 0.25, 4: 0.25, 5: 0.25, 6: 0, 7: 0})


def test_bridge_b_with_the_fewest_neighbours_has_only_the_own_model_left():
    result = aggregate(BridgeB(), torch.tensor([7.0]), torch.randn(8, 1), f=2)

    assert result.vector.tolist() == [7.0]
    assert result.weights == {0: 1.0} | dict.fromkeys(range(1, 9), 0.0)


@pytest.mark.parametrize("rule", [BridgeT(), BridgeB()])
@pytest.mark.parametrize("m", [0, 1, 2, 6])
def test_without_budget_it_is_the_mean(rule, m):
    rows = torch.randn(m + 1, 30, generator=torch.Generator().manual_seed(m))

    result = aggregate(rule, rows[0], rows[1:])

    torch.testing.assert_close(result.vector, rows.mean(dim=0))
    assert result.weights == pytest.approx(dict.fromkeys(range(m + 1), 1 / (m + 1)))


@pytest.mark.parametrize("rule", [BridgeT(), BridgeB()])
@given(b=st.integers(1, 2), extra=st.integers(0, 3), seed=st.integers(0, 2**32), lie=st.floats(-1e38, 1e38))
def test_the_result_stays_in_the_honest_range(rule, b, extra, seed, lie):
    honest = torch.randn(1 + 3 * b + 2 + extra, 5, generator=torch.Generator().manual_seed(seed))

    vector = aggregate(rule, honest[0], torch.cat([honest[1:], torch.full((b, 5), lie)]), f=b).vector

    assert (honest.min(dim=0).values - 1e-6 <= vector).all()
    assert (vector <= honest.max(dim=0).values + 1e-6).all()


@pytest.mark.parametrize(
    ("rule", "m", "b", "message"),
    [
        (BridgeT(), 4, 2, r"^BRIDGE-T needs \|N\| >= 2b \+ 1, got \|N\|=4, b=2$"),
        (BridgeK(), 3, 1, r"^BRIDGE-K needs \|N\| >= b \+ 3, got \|N\|=3, b=1$"),
        (BridgeB(), 4, 1, r"^BRIDGE-B needs \|N\| >= max\(4b, 3b \+ 2\), got \|N\|=4, b=1$"),
        (BridgeB(), 11, 3, r"^BRIDGE-B needs \|N\| >= max\(4b, 3b \+ 2\), got \|N\|=11, b=3$"),
    ],
)
def test_too_few_neighbours_are_refused(rule, m, b, message):
    with pytest.raises(ByzantineBudgetError, match=message):
        aggregate(rule, torch.zeros(2), torch.zeros(m, 2), f=b)


@pytest.mark.parametrize(("rule", "m", "b"), [(BridgeT(), 5, 2), (BridgeK(), 4, 1), (BridgeB(), 5, 1)])
def test_the_fewest_neighbours_are_accepted(rule, m, b):
    assert aggregate(rule, torch.zeros(2), torch.zeros(m, 2), f=b).vector.tolist() == [0.0, 0.0]
