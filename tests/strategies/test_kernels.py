import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.strategies import kernels

WIDE = 70_001
"""More than two blocks of columns, and no multiple of anything."""


def random_rows(n, d, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(d, generator=generator) + spread * torch.randn(n, d, generator=generator))


def matrix(values):
    """Return the distances between numbers."""
    x = torch.tensor(values, dtype=torch.float64)
    return (x[:, None] - x[None, :]).abs()


stacks = st.builds(random_rows, st.integers(1, 40), st.integers(1, 20), st.integers(0, 2**32))


@pytest.mark.parametrize("spread", [1.0, 1e-5])
def test_distances_are_those_of_exact_differences(spread):
    rows = random_rows(6, WIDE, spread=spread)

    distances = kernels.pairwise_distances(rows, own=2)

    exact = torch.stack([torch.stack([(a.double() - b.double()).norm() for b in rows]) for a in rows])
    torch.testing.assert_close(distances, exact, rtol=1e-9, atol=0)
    assert torch.equal(distances, distances.T)


@pytest.mark.parametrize("value", [3e38, torch.inf, torch.nan])
def test_an_absurd_row_spoils_only_its_own_distances(value):
    rows = random_rows(5, 100)
    expected = kernels.pairwise_distances(rows, own=0)
    rows[3] = torch.full((100,), value)

    distances = kernels.pairwise_distances(rows, own=0)

    others = [0, 1, 2, 4]
    torch.testing.assert_close(distances[others][:, others], expected[others][:, others])
    assert (distances[3, others] > 1e38).all()


def test_distances_to_a_mix_of_rows_need_only_inner_products():
    rows = random_rows(5, 1000)
    weights = torch.tensor([0.1, 0.4, 0.0, 0.2, 0.3], dtype=torch.float64)

    distances = kernels.distances_to_point(kernels.gram(rows, rows[1]), 7 * weights)

    point = (weights[:, None] * torch.stack(rows).double()).sum(dim=0)
    torch.testing.assert_close(distances, (torch.stack(rows).double() - point).norm(dim=1))


def test_distances_to_the_mean_are_those_of_the_stack():
    rows = random_rows(4, WIDE)

    stack = torch.stack(rows).double()
    torch.testing.assert_close(kernels.distances_to_mean(rows), (stack - stack.mean(dim=0)).norm(dim=1))


def test_cosines_are_those_of_the_stack():
    rows, origin = random_rows(4, WIDE), torch.ones(WIDE)

    offsets = torch.stack(rows).double() - 1
    expected = torch.nn.functional.cosine_similarity(offsets, offsets[1:2])
    torch.testing.assert_close(kernels.cosines(rows, 1, origin), expected)


def test_a_row_of_norm_zero_has_cosine_zero():
    assert kernels.cosines([torch.ones(3), torch.zeros(3)], 0).tolist() == [1.0, 0.0]


def test_rows_of_weight_zero_are_not_read():
    rows = [torch.tensor([1.0]), torch.tensor([torch.nan]), torch.tensor([4.0])]

    assert kernels.weighted_mean(rows, [2.0, 0.0, 1.0]).tolist() == [2.0]


def test_equal_rows_have_themselves_as_a_mean_to_the_last_bit():
    row = random_rows(1, 1000)[0]

    for n in (3, 7, 10):
        assert torch.equal(kernels.weighted_mean([row] * n, [0.1] * n), row)
        assert torch.equal(kernels.trimmed_mean([row] * n, 1), row)


@given(stacks)
def test_the_median_is_numpys(rows):
    assert np.array_equal(kernels.coordinate_median(rows).numpy(), np.median(np.stack(rows), axis=0))


@given(stacks, st.data())
def test_the_trimmed_mean_is_that_of_the_sorted_stack(rows, data):
    trim = data.draw(st.integers(0, (len(rows) - 1) // 2))

    expected = torch.stack(rows).double().sort(dim=0).values[trim : len(rows) - trim].mean(dim=0)
    torch.testing.assert_close(kernels.trimmed_mean(rows, trim), expected.float())


@given(stacks, st.data())
def test_the_mean_around_the_median_is_that_of_the_nearest_values(rows, data):
    count = data.draw(st.integers(1, len(rows)))
    stack = torch.stack(rows).double().sort(dim=0).values
    median = (stack[(len(rows) - 1) // 2] + stack[len(rows) // 2]) / 2
    nearest = (stack - median).abs().sort(dim=0, stable=True).indices[:count]

    torch.testing.assert_close(kernels.mean_around_median(rows, count), stack.gather(0, nearest).mean(dim=0).float())


@given(stacks)
def test_sorting_coordinates_is_sorting_the_stack_to_the_bit(rows):
    ordered = kernels.sort_coordinates(rows)

    assert np.array_equal(torch.stack(ordered).numpy(), np.sort(np.stack(rows), axis=0))


def test_blocks_join_without_a_seam():
    rows = random_rows(7, WIDE)

    assert np.array_equal(kernels.coordinate_median(rows).numpy(), np.median(np.stack(rows), axis=0))


# Sorted coordinates: 0 1 2 and 0 5 9. Without the ends, node 2 supplies the 1 and node 1 the 5.
def test_shares_count_whose_values_were_kept():
    rows = [torch.tensor([0.0, 9.0]), torch.tensor([2.0, 5.0]), torch.tensor([1.0, 0.0])]

    _, shares = kernels.trimmed_mean_and_shares(rows, 1)

    assert shares.tolist() == [0.0, 0.5, 0.5]


def test_a_huge_value_leaves_no_trace_around_the_median():
    rows = [torch.tensor([value]) for value in (1.0, 2.0, 4.0, 3e38, -3e38)]

    assert kernels.mean_around_median(rows, 3).tolist() == pytest.approx([7 / 3])


# 0, 2, 3, 5, 9, 10, 100 with f = 1; 100 is always worst. Four nearest of 0, 2, 3, 5, 9, 10: 119, 63, 50, 54, 102, 139
# picks 3. Three of 0, 2, 5, 9, 10: 110, 62, 50, 66, 90 picks 5. Two of 0, 2, 9, 10: 85, 53, 50, 65 picks 9. One of
# 0, 2, 10: 4, 4, 64 ties, and 2 is nearer to 10. One of 0, 10: 100, 100 ties, and 10 is nearer to 100.
def test_repeated_krum_picks_as_worked_by_hand():
    values = [0.0, 2.0, 3.0, 5.0, 9.0, 10.0, 100.0]

    picked = kernels.repeated_krum(matrix(values), f=1, count=5)

    assert [values[k] for k in picked] == [3.0, 5.0, 9.0, 2.0, 10.0]


# The nearest others of 0, 0.25, 1 are at 0.25, 0.25 and 0.75.
@pytest.mark.parametrize("asked", [-1, 0, 1])
def test_at_least_one_neighbour_counts_and_never_the_row_itself(asked):
    assert kernels.krum_scores(matrix([0.0, 0.25, 1.0]), asked).tolist() == [0.0625, 0.0625, 0.5625]


def test_ties_go_to_the_own_row_then_to_the_lower_index():
    distances = matrix([0.0, 1.0, 2.0, 3.0])  # 1 and 2 mirror each other, and so do 0 and 3

    assert kernels.krum_order(distances, 2) == [1, 2, 0, 3]
    assert kernels.krum_order(distances, 2, own=2) == [2, 1, 0, 3]


@given(st.integers(1, 24), st.integers(0, 2**32))
def test_the_geometric_median_has_no_downhill_direction(n, seed):
    rows = random_rows(n, 6, seed)

    z = kernels.geometric_median(rows, iterations=1000).double()

    offsets = torch.stack(rows).double() - z
    norms = offsets.norm(dim=1).clamp(min=1e-6)
    assert (offsets / norms[:, None]).sum(dim=0).norm() <= 1 + 1e-2  # at most 1 on a row, 0 off the rows


def test_distances_are_those_of_the_differences_however_far_the_vectors_are_from_zero():
    origin = torch.full((70_000,), 1000.0)
    row = origin.clone()
    row[[0, 69_999]] += torch.tensor([3.0, 4.0])

    assert kernels.distances_to(origin, [row, origin]).tolist() == [5.0, 0.0]
    assert kernels.distances_to(origin, []).shape == (0,)


@pytest.mark.parametrize(
    "kernel",
    [
        lambda rows: kernels.pairwise_distances(rows, 0),
        kernels.distances_to_mean,
        lambda rows: kernels.distances_to(rows[0], rows[1:]),
        lambda rows: kernels.distances_to(rows[0], rows[1:2]),
        lambda rows: kernels.cosines(rows, 0),
        lambda rows: kernels.weighted_mean(rows, [0.3] * len(rows)),
        kernels.coordinate_median,
        lambda rows: kernels.trimmed_mean(rows, 2),
        lambda rows: kernels.mean_around_median(rows, 5),
        kernels.geometric_median,
    ],
)
@pytest.mark.parametrize("width", [900, WIDE])
def test_the_number_of_threads_changes_no_bit(kernel, width):
    rows = random_rows(12, width)
    before = torch.get_num_threads()

    try:
        results = []
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results.append(kernel(rows))
    finally:
        torch.set_num_threads(before)

    assert all(torch.equal(results[0], result) for result in results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_are_neither_changed_nor_aliased(dtype):
    rows = [row.to(dtype) for row in random_rows(1, 50)]
    before = rows[0].clone()

    for kernel in (kernels.coordinate_median, kernels.geometric_median, lambda r: kernels.weighted_mean(r, [1.0])):
        kernel(rows).add_(1)

    assert torch.equal(rows[0], before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same_results():
    rows = random_rows(9, WIDE)
    there = [row.cuda() for row in rows]

    for kernel in (kernels.coordinate_median, lambda r: kernels.mean_around_median(r, 4), kernels.geometric_median):
        torch.testing.assert_close(kernel(there).cpu(), kernel(rows))
    torch.testing.assert_close(kernels.pairwise_distances(there, 0).cpu(), kernels.pairwise_distances(rows, 0))


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e12, 1e20])
def test_distances_between_others_do_not_depend_on_where_the_own_row_is(scale):
    rows = random_rows(4, 500)
    near = torch.stack([rows[1], rows[1] + 0.01 * rows[2], rows[3]])

    distances = kernels.pairwise_distances([rows[0] * scale, *near], 0)

    torch.testing.assert_close(distances[1:, 1:], torch.cdist(near.double(), near.double()), rtol=1e-4, atol=1e-9)
