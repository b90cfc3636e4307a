import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl import codec
from flower_dfl.errors import ConfigurationError
from flower_dfl.strategies.dfl_detector import DflDetector, has_two_clusters, hessian_vector_product, two_means
from flower_dfl.testing import aggregate

DIMENSION = 6


def positive_definite(seed=0):
    root = torch.randn(DIMENSION, DIMENSION, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T + torch.eye(DIMENSION, dtype=torch.float64)


def walk(steps):
    """Return the points of a walk, the first one at zero."""
    return list(torch.cat([torch.zeros(1, steps.shape[1], dtype=torch.float64), steps.double().cumsum(0)]))


def test_on_a_quadratic_the_product_is_exact_after_as_many_conjugate_steps_as_dimensions():
    hessian = positive_definite()
    points = walk(torch.linalg.eigh(hessian).eigenvectors.T)
    v = torch.randn(DIMENSION, dtype=torch.float64)

    product = hessian_vector_product(points, [hessian @ point + 3.0 for point in points], v)

    torch.testing.assert_close(product, hessian @ v)


@given(seed=st.integers(0, 2**20), pairs=st.integers(1, 10))
def test_the_newest_step_is_always_explained(seed, pairs):
    hessian = positive_definite(seed)
    points = walk(torch.randn(pairs, DIMENSION, generator=torch.Generator().manual_seed(seed + 1)))
    newest = points[-1] - points[-2]

    product = hessian_vector_product(points, [hessian @ point for point in points], newest)

    torch.testing.assert_close(product, hessian @ newest, rtol=1e-4, atol=1e-4)


def test_one_pair_in_one_dimension_is_the_difference_quotient():
    points, gradients = [torch.tensor([1.0]), torch.tensor([3.0])], [torch.tensor([5.0]), torch.tensor([11.0])]

    assert float(hessian_vector_product(points, gradients, torch.tensor([10.0]))) == pytest.approx(30.0)


def test_without_movement_the_hessian_is_zero_and_repeated_steps_do_no_harm():
    point = torch.ones(3)

    still = hessian_vector_product([point, point], [point, 2 * point], torch.ones(3))
    repeated = hessian_vector_product(
        [0 * point, point, 2 * point, 2 * point], [k * point for k in (0, 2, 4, 4)], point
    )

    assert still.tolist() == [0, 0, 0]
    torch.testing.assert_close(repeated, 2 * point.double())


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=9))
def test_the_split_is_the_best_of_all_splits(values):
    numbers = np.array(values)
    far, inertia = two_means(numbers)

    def cost(part):
        return float(((part - part.mean()) ** 2).sum()) if len(part) else 0.0

    best = min(cost(numbers[mask]) + cost(numbers[~mask]) for mask in all_masks(len(values)))
    assert inertia == pytest.approx(best, abs=1e-6)
    assert cost(numbers[far]) + cost(numbers[~far]) == pytest.approx(best, abs=1e-6)
    if far.any():
        assert numbers[far].min() > numbers[~far].max()


def all_masks(n):
    return [np.array([bool(code >> k & 1) for k in range(n)]) for code in range(2**n)]


def test_the_gap_statistic_finds_two_groups_and_not_one():
    generator = torch.Generator().manual_seed(0)

    assert has_two_clusters(np.array([0.9, 1.0, 1.05, 0.95, 1.1, 4.0, 4.1]), generator)
    assert not has_two_clusters(np.linspace(1, 2, 10), generator)
    assert not has_two_clusters(np.ones(6), generator)
    assert not has_two_clusters(np.array([1.0, 9.0]), generator)
    assert not has_two_clusters(np.array([]), generator)


class Run:
    """A receiver and its neighbours, each doing one gradient step on a quadratic of its own; the last ones lie."""

    def __init__(self, lie, *, rule=None, honest=6, liars=3, seed=0):
        self.rule = rule or DflDetector()
        self.random = torch.Generator().manual_seed(seed)
        self.hessian = positive_definite(seed).float() / 10
        self.goals = torch.randn(honest + 1, DIMENSION, generator=self.random)
        self.lie, self.liars = lie, liars
        self.base, self.state, self.results = torch.zeros(DIMENSION), None, []

    def half_steps(self):
        noise = 0.01 * torch.randn(self.goals.shape, generator=self.random)
        return self.base - 0.1 * (self.base - self.goals) @ self.hessian + 0.1 * noise

    def step(self, round, silent=0):
        """Play a round in which the last ``silent`` neighbours are not heard."""
        own, *honest = self.half_steps()
        rows = [*honest, *(self.lie(self, round, k) for k in range(self.liars))]
        rows = rows[: len(rows) - silent]
        result = aggregate(self.rule, own, rows, base=self.base, round=round, num_rounds=20, state=self.state)
        self.base, self.state = result.vector, result.state
        self.results.append(result)
        return result

    def flagged(self, rounds=20):
        for round in range(1, rounds + 1):
            self.step(round)
        return set(self.state["flagged"])


def constant(run, round, liar):
    return torch.full((DIMENSION,), 2.0 + liar)


def random(run, round, liar):
    return run.base + torch.randn(DIMENSION, generator=run.random)


@pytest.mark.parametrize("lie", [constant, random])
@pytest.mark.parametrize("seed", range(4))
def test_liars_are_flagged_within_twenty_rounds_and_nobody_else(lie, seed):
    assert Run(lie, seed=seed).flagged() == {7, 8, 9}


def test_without_liars_nobody_is_flagged_and_without_a_margin_some_honest_neighbour_is():
    assert [Run(constant, liars=0, seed=seed).flagged() for seed in range(4)] == [set()] * 4
    assert any(Run(constant, liars=0, seed=seed, rule=DflDetector(margin=1.0)).flagged() for seed in range(4))


def test_the_first_two_rounds_are_the_plain_mean():
    run = Run(constant)

    for round in (1, 2):
        assert run.step(round).weights == dict.fromkeys(range(10), 0.1)
        assert run.results[-1].scores["suspicion"] == {}
    assert set(run.step(3).scores["suspicion"]) == set(range(10))


def test_a_later_start_only_watches_until_then():
    run = Run(constant, rule=DflDetector(start=6))

    for round in range(1, 6):
        assert all(weight > 0 for weight in run.step(round).weights.values())
    assert run.step(6).weights[9] == 0


def test_a_flagged_neighbour_stays_out_only_if_the_removal_is_sticky():
    def reformed(run, round, liar):
        return random(run, round, liar) if round <= 5 else run.half_steps()[1]

    sticky, fresh = (Run(reformed, rule=DflDetector(window=2, sticky=value)) for value in (True, False))

    assert sticky.flagged() == {7, 8, 9}
    assert sticky.results[-1].weights[8] == 0
    assert fresh.flagged() == set()
    assert fresh.results[4].weights[8] == 0
    assert fresh.results[-1].weights[8] > 0


def test_a_node_never_flags_itself_but_says_that_it_looks_odd():
    run = Run(constant, liars=0)
    moves = iter(torch.randn(12, DIMENSION, generator=torch.Generator().manual_seed(4)))
    honest = run.half_steps
    run.half_steps = lambda: torch.cat([(run.base + 3 * next(moves))[None], honest()[1:]])

    for round in range(1, 9):
        result = run.step(round)

    assert result.weights[0] > 0
    assert "own-suspicious" in result.flags
    assert run.state["flagged"] == ()


def test_memory_is_bounded_by_the_window():
    run = Run(constant, rule=DflDetector(window=3), liars=1)

    run.flagged(12)

    assert [entry[0] for entry in run.state["history"]] == [9, 10, 11, 12]
    assert all(len(errors) <= 3 for errors in run.state["errors"].values())
    assert set(run.state["last"]) == set(range(7))


def test_a_prediction_reaches_over_a_gap():
    run = Run(constant, liars=0)
    for round in range(1, 6):
        run.step(round)
    usual = run.results[-1].scores["prediction-error"][6]

    missed = run.step(6, silent=1)
    back = run.step(7)

    assert 6 not in missed.scores["prediction-error"]
    assert missed.state["last"][6][0] == 5
    assert back.scores["prediction-error"][6] < 3 * usual  # as good as before, although two rounds have passed
    assert len(run.state["errors"][6]) == len(run.state["errors"][5]) - 1


def test_silence_does_not_save_a_liar_from_its_past():
    run = Run(constant, liars=1, rule=DflDetector(start=7))
    for round in range(1, 7):
        run.step(round, silent=round % 2)  # the liar speaks every other round

    assert run.step(7).weights[7] == 0


def test_whoever_was_silent_for_longer_than_the_window_has_no_prediction():
    run = Run(constant, rule=DflDetector(window=2), liars=0)
    for round in (1, 2, 3):
        run.step(round)
    for round in (4, 5, 6):
        run.step(round, silent=1)

    assert 6 not in run.state["last"]
    assert 6 not in run.step(7).scores["prediction-error"]
    assert 6 in run.step(8).scores["prediction-error"]


def test_a_run_goes_on_with_the_same_bits_after_its_state_was_stored():
    first, second = Run(constant), Run(constant)
    for round in range(1, 10):
        first.step(round)
        second.step(round)
        second.state = codec.unpack(codec.pack(second.state))

    assert torch.equal(first.base, second.base)
    assert codec.pack(first.state) == codec.pack(second.state)


def test_the_state_neither_aliases_nor_changes_what_came_in():
    own, received, base = torch.randn(4), torch.randn(2, 4), torch.randn(4)
    before = base.clone()

    state = aggregate(DflDetector(), own, received, base=base).state
    again = codec.pack(state)
    aggregate(DflDetector(), own, received, base=base + 1, round=2, state=state)

    assert torch.equal(base, before)
    assert state["history"][0][1].data_ptr() != base.data_ptr()
    assert codec.pack(state) == again


def test_parameters_out_of_range_are_refused():
    with pytest.raises(ConfigurationError, match="window must be at least 1, got 0"):
        DflDetector(window=0)
    with pytest.raises(ConfigurationError, match="start must be at least 3, the first round with a score, got 2"):
        DflDetector(start=2)
    with pytest.raises(ConfigurationError, match="margin must be at least 1, got 0.5"):
        DflDetector(margin=0.5)
