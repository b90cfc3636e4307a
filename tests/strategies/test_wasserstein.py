import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from flower_dfl.strategies.wasserstein import pairwise_wasserstein, wasserstein


def dummy_set(seed, shape=(3, 5, 4)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_scipy(first, second):
    """Eq. 6, class by class and feature by feature."""
    return sum(
        wasserstein_distance(first[c, :, d], second[c, :, d])
        for c in range(first.shape[0])
        for d in range(first.shape[2])
    )


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [
        ([0.0, 1, 3], [5.0, 6, 8], 5.0),  # every sorted pair is 5 apart
        ([0.0, 1], [1.0, 0], 0.0),  # the same values in another order
        ([0.0, 0], [1.0, 3], 2.0),  # (1 + 3) / 2
        ([2.0], [-1.0], 3.0),
    ],
)
def test_worked_examples(first, second, distance):
    assert wasserstein(torch.tensor(first), torch.tensor(second)) == distance


def test_classes_and_features_are_summed_and_samples_averaged():
    # two classes, two samples, three features: each of the 6 marginals moves by 1, whatever S is
    assert wasserstein(torch.zeros(2, 2, 3), torch.ones(2, 2, 3)) == 6.0
    assert wasserstein(torch.zeros(2, 9, 3), torch.ones(2, 9, 3)) == 6.0


@given(st.integers(0, 10**6), st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 4)))
def test_it_is_scipys_distance_summed_over_classes_and_features(seed, shape):
    first, second = dummy_set(seed, shape), dummy_set(seed + 1, shape)

    assert wasserstein(first, second) == pytest.approx(by_scipy(first, second), rel=1e-5)


@given(st.integers(0, 10**6), st.permutations(range(5)))
def test_the_order_of_samples_within_a_class_does_not_matter(seed, order):
    first, second = dummy_set(seed), dummy_set(seed + 1)

    assert wasserstein(first[:, order], second) == wasserstein(first, second)


def test_the_class_of_a_sample_does_matter():
    first = dummy_set(0)

    assert wasserstein(first, first.flip(0)) > 1


@given(st.integers(0, 10**6))
def test_it_is_a_metric(seed):
    a, b, c = (dummy_set(seed + k) for k in range(3))

    assert wasserstein(a, a) == 0
    assert wasserstein(a, b) == wasserstein(b, a)
    assert wasserstein(a, c) <= wasserstein(a, b) + wasserstein(b, c) + 1e-4


def test_all_pairs_at_once_are_the_same_as_one_by_one():
    sets = [dummy_set(k) for k in range(4)]

    distances = pairwise_wasserstein(sets)

    assert distances.dtype == torch.float64
    assert distances.shape == (4, 4)
    assert all(distances[j, k] == wasserstein(sets[j], sets[k]) for j in range(4) for k in range(4))


def test_nobody_and_one_alone_have_no_distances():
    assert pairwise_wasserstein([]).shape == (0, 0)
    assert pairwise_wasserstein([dummy_set(0)]).tolist() == [[0]]


def test_inputs_are_unchanged():
    sets = [dummy_set(0), dummy_set(1)]

    pairwise_wasserstein(sets)

    assert all(torch.equal(s, dummy_set(k)) for k, s in enumerate(sets))


def test_clamped_values_at_the_bound_give_a_finite_distance():
    assert wasserstein(torch.full((10, 10, 784), 1e6), torch.full((10, 10, 784), -1e6)) == pytest.approx(1.568e10)


def test_sets_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"^expected dummy sets of one shape, got \[\(3, 4, 4\), \(3, 5, 4\)\]$"):
        pairwise_wasserstein([dummy_set(0), dummy_set(1, (3, 4, 4))])
