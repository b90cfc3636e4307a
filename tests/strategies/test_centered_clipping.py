import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.errors import ConfigurationError
from flower_dfl.strategies.centered_clipping import CenteredClipping
from flower_dfl.testing import aggregate

OWN, RECEIVED = torch.tensor([1.0]), torch.tensor([[2.0], [10.0]])


# From 0 with radius 3: (1 + 2 + 3) / 3 = 2. From 2: offsets -1, 0 and 8, clipped to 3: 2 + 2 / 3. The radius "auto" is
# the middle one of the distances 1, 2, 10: (1 + 2 + 2) / 3. From the own model: 1 + (0 + 1 + 3) / 3.
@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (CenteredClipping(tau=3.0), 2.0),
        (CenteredClipping(tau=3.0, iterations=2), 8 / 3),
        (CenteredClipping(), 5 / 3),
        (CenteredClipping(tau=3.0, start="own"), 7 / 3),
    ],
)
def test_offsets_are_clipped_as_worked_by_hand(rule, expected):
    assert aggregate(rule, OWN, RECEIVED).vector.tolist() == pytest.approx([expected])


# The far neighbour's offset of 10 is clipped to 3: it keeps 3/10 of its third. The rest of 1 belongs to the start.
def test_weights_are_the_members_parts_of_the_result():
    result = aggregate(CenteredClipping(tau=3.0), OWN, RECEIVED)

    assert result.weights == pytest.approx({0: 1 / 3, 1: 1 / 3, 2: 0.1})
    assert result.scores["distance"] == pytest.approx({0: 1.0, 1: 2.0, 2: 10.0})


@pytest.mark.parametrize("start", ["base", "own"])
def test_an_infinite_radius_is_the_mean(start):
    rows = torch.randn(5, 30, generator=torch.Generator().manual_seed(0))

    result = aggregate(CenteredClipping(tau=float("inf"), start=start), rows[0], rows[1:], base=rows[1] + 3)

    torch.testing.assert_close(result.vector, rows.mean(dim=0))


@given(tau=st.floats(0.01, 10.0), iterations=st.integers(1, 4), far=st.floats(1.0, 1e38), seed=st.integers(0, 2**32))
def test_no_member_moves_the_result_further_than_its_share_of_the_radius(tau, iterations, far, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(5, 6, generator=generator)
    rows[4] = far * torch.randn(6, generator=generator).clamp(-1, 1)

    moved = aggregate(CenteredClipping(tau=tau, iterations=iterations), rows[0], rows[1:]).vector.norm()

    assert moved <= tau * iterations + 1e-5


def test_it_agrees_with_the_definition_on_the_vectors():
    generator = torch.Generator().manual_seed(1)
    rows, base = torch.randn(7, 40, generator=generator), torch.randn(40, generator=generator)
    v = base.clone()
    for _ in range(3):
        offsets = rows - v
        v = v + (offsets * (4.0 / offsets.norm(dim=1, keepdim=True)).clamp(max=1)).mean(dim=0)

    result = aggregate(CenteredClipping(tau=4.0, iterations=3), rows[0], rows[1:], base=base)

    torch.testing.assert_close(result.vector, v)


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan")])
def test_the_radius_must_be_positive(tau):
    with pytest.raises(ConfigurationError, match='tau must be "auto" or positive'):
        CenteredClipping(tau=tau)


def test_at_least_one_iteration_is_needed():
    with pytest.raises(ConfigurationError, match="iterations must be at least 1, got 0"):
        CenteredClipping(iterations=0)


def test_the_start_must_be_known():
    with pytest.raises(ConfigurationError, match="start must be base or own, got 'zero'"):
        CenteredClipping(start="zero")
