import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.errors import ConfigurationError
from flower_dfl.strategies.dfl_trust import DflTrust
from flower_dfl.testing import aggregate

BASE = torch.tensor([1.0, 1.0])


def with_updates(rule, own, *updates):
    return aggregate(rule, BASE + torch.tensor(own), BASE + torch.tensor(updates), base=BASE)


def test_updates_are_rescaled_to_the_own_length_and_weighed_by_their_cosine():
    result = with_updates(DflTrust(), [2.0, 0.0], [30.0, 40.0], [-1.0, 0.0], [0.0, 5.0])

    # (30, 40): cosine 0.6, rescaled (1.2, 1.6). The others have cosine -1 and 0.
    # ((2, 0) + 0.6 * (1.2, 1.6)) / 1.6 = (1.7, 0.6).
    torch.testing.assert_close(result.vector, BASE + torch.tensor([1.7, 0.6]))
    assert result.weights == pytest.approx({0: 1 / 1.6, 1: 0.6 / 1.6, 2: 0, 3: 0})
    assert result.scores["cosine"] == pytest.approx({0: 1.0, 1: 0.6, 2: -1.0, 3: 0.0})


def test_without_the_root_only_neighbours_are_in_the_sum():
    result = with_updates(DflTrust(include_root=False), [2.0, 0.0], [30.0, 40.0], [-1.0, 0.0])

    torch.testing.assert_close(result.vector, BASE + torch.tensor([1.2, 1.6]))
    assert result.weights == {0: 0.0, 1: 1.0, 2: 0.0}


def test_the_step_size_scales_the_mean_update():
    result = with_updates(DflTrust(alpha=0.5), [2.0, 0.0], [30.0, 40.0])

    torch.testing.assert_close(result.vector, BASE + torch.tensor([0.85, 0.3]))


@given(factor=st.floats(1e-3, 1e3))
def test_an_update_along_the_own_one_has_trust_one_and_one_against_it_zero(factor):
    result = with_updates(DflTrust(), [3.0, -1.0], [3 * factor, -factor], [-3 * factor, factor])

    assert result.weights == pytest.approx({0: 0.5, 1: 0.5, 2: 0}, abs=1e-5)
    torch.testing.assert_close(result.vector, BASE + torch.tensor([3.0, -1.0]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("length", [1.0, 1e-10, 1e-16, 1e-30, 1e-40])
def test_an_update_may_be_as_short_as_it_likes(length):
    # where the base is 0, float32 has updates that short; beside coefficients that large a coordinate of the base would
    # be lost. Own (0.1, 0.1), theirs (l, 0): trust 1 and 1 / sqrt(2), and their step is 0.1 sqrt(2)
    base, own, theirs = torch.tensor([0.0, 0.7]), torch.tensor([0.1, 0.8]), torch.tensor([length, 0.7])

    result = aggregate(DflTrust(), own, theirs[None], base=base)

    trust = 2**-0.5
    moved = torch.tensor([0.1 + trust * 0.1 * 2**0.5, 0.1]) / (1 + trust)
    torch.testing.assert_close(result.vector, base + moved)


@given(seed=st.integers(0, 2**20), factor=st.floats(0.01, 100), root=st.booleans())
def test_the_length_of_a_neighbours_update_does_not_matter(seed, factor, root):
    own, *others = torch.randn(5, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scaled = [factor * others[0], *others[1:]]
    zero = torch.zeros(2, dtype=torch.float64)

    first, second = (
        aggregate(DflTrust(include_root=root), own, torch.stack(rows), base=zero).vector for rows in (others, scaled)
    )

    torch.testing.assert_close(first, second)
    assert float(first.norm()) <= float(own.norm()) * (1 + 1e-9)  # nobody adds more than the own length


@pytest.mark.parametrize("rule", [DflTrust(include_root=False), DflTrust()])
def test_without_any_trust_the_node_stays_at_its_half_step(rule):
    result = with_updates(rule, [2.0, 0.0], [-1.0, 0.5], [0.0, 0.0])

    torch.testing.assert_close(result.vector, BASE + torch.tensor([2.0, 0.0]))
    assert result.weights == {0: 1.0, 1: 0.0, 2: 0.0}


@pytest.mark.parametrize("rule", [DflTrust(include_root=False), DflTrust()])
def test_a_node_that_did_not_move_trusts_nobody(rule):
    result = with_updates(rule, [0.0, 0.0], [1.0, 0.5])

    assert torch.equal(result.vector, BASE)


def test_an_empty_inbox_ignores_the_step_size():
    own = torch.tensor([3.0, 1.0])

    assert torch.equal(aggregate(DflTrust(alpha=0.5), own, [], base=BASE).vector, own)


def test_in_model_space_whole_models_are_compared():
    own, received = torch.tensor([3.0, 4.0]), torch.tensor([[4.0, 3.0], [-3.0, -4.0]])

    result = aggregate(DflTrust(space="model"), own, received, base=BASE)
    half = aggregate(DflTrust(space="model", alpha=0.5), own, received, base=BASE)

    # Cosine 24/25 and -1, equal lengths: ((3, 4) + 0.96 * (4, 3)) / 1.96.
    expected = torch.tensor([6.84, 6.88]) / 1.96
    torch.testing.assert_close(result.vector, expected)
    torch.testing.assert_close(half.vector, (BASE + expected) / 2)


def test_parameters_out_of_range_are_refused():
    with pytest.raises(ConfigurationError, match="alpha must be positive and finite, got 0"):
        DflTrust(alpha=0.0)
    with pytest.raises(ConfigurationError, match="space must be 'update' or 'model', got 'gradient'"):
        DflTrust(space="gradient")


def test_a_step_beyond_float32_ends_at_its_largest_number():
    # The own update has norm 3e38 * sqrt(20); all of it along one axis is more than float32 holds.
    result = aggregate(DflTrust(), torch.full((20,), 3e38), torch.eye(20)[:1])

    assert torch.isfinite(result.vector).all()
    assert float(result.vector[0]) == torch.finfo(torch.float32).max
