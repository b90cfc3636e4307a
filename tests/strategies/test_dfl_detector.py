import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl import codec
from flower_dfl.errors import ConfigurationError
from flower_dfl.strategies.dfl_detector import DflDetector, has_two_clusters, hessian_vector_product, two_means
from flower_dfl.testing import aggregate


def positive_definite(dimension, seed=0):
    root = torch.randn(dimension, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T / dimension + torch.eye(dimension, dtype=torch.float64)


def walk(steps):
    """Return the points of a walk that starts at zero."""
    return list(torch.cat([torch.zeros(1, steps.shape[1], dtype=torch.float64), steps.double().cumsum(0)]))


def test_on_a_quadratic_the_product_is_exact_after_as_many_conjugate_steps_as_dimensions():
    hessian = positive_definite(6)
    steps = torch.linalg.eigh(hessian).eigenvectors.T
    v = torch.randn(6, dtype=torch.float64)

    product = hessian_vector_product(walk(steps), list(steps @ hessian), v)

    torch.testing.assert_close(product, hessian @ v)


@given(seed=st.integers(0, 2**20), longer=st.lists(st.integers(-6, 6), min_size=1, max_size=10))
def test_the_newest_step_is_always_explained(seed, longer):
    hessian = positive_definite(6, seed)
    steps = torch.randn(len(longer), 6, generator=torch.Generator().manual_seed(seed + 1)).double()
    steps *= (
        torch.tensor([*longer[1:], 0])[:, None].double().mul(2.302585).exp()
    )  # up to a million times shorter or longer

    product = hessian_vector_product(walk(steps), list(steps @ hessian), steps[-1])

    torch.testing.assert_close(product, hessian @ steps[-1], rtol=1e-4, atol=1e-4)


def test_one_pair_in_one_dimension_is_the_difference_quotient():
    points, change = [torch.tensor([1.0]), torch.tensor([3.0])], torch.tensor([6.0])

    assert float(hessian_vector_product(points, [change], torch.tensor([10.0]))) == pytest.approx(30.0)


def test_without_movement_the_hessian_is_zero_and_repeated_steps_do_no_harm():
    point = torch.ones(3)

    still = hessian_vector_product([point, point], [point], point)
    repeated = hessian_vector_product([k * point for k in (0, 1, 2, 2)], [2 * point, 2 * point, 0 * point], point)

    assert still.tolist() == [0, 0, 0]
    torch.testing.assert_close(repeated, 2 * point.double())


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=8))
def test_the_split_is_the_best_of_all_splits(values):
    numbers = np.array(values)
    masks = [np.array([bool(code >> k & 1) for k in range(len(values))]) for code in range(2 ** len(values))]

    far, inertia = two_means(numbers)

    def cost(part):
        return float(((part - part.mean()) ** 2).sum()) if len(part) else 0.0

    best = min(cost(numbers[mask]) + cost(numbers[~mask]) for mask in masks)
    assert inertia == pytest.approx(best, abs=1e-6)
    assert cost(numbers[far]) + cost(numbers[~far]) == pytest.approx(best, abs=1e-6)
    assert not far.any() or numbers[far].min() > numbers[~far].max()


def test_the_gap_statistic_finds_two_groups_and_not_one():
    generator = torch.Generator().manual_seed(0)

    assert has_two_clusters(np.array([0.9, 1.0, 1.05, 0.95, 1.1, 4.0, 4.1]), generator)
    assert not has_two_clusters(np.linspace(1, 2, 10), generator)
    assert not has_two_clusters(np.ones(6), generator)
    assert not has_two_clusters(np.array([1.0, 9.0]), generator)
    assert not has_two_clusters(np.array([]), generator)


def test_the_gap_statistic_is_that_of_tibshirani_walther_and_hastie():
    def inertia(values, k):
        parts = [[values]] if k == 1 else [[values[:c], values[c:]] for c in range(1, len(values))]
        return min(sum(float(((part - part.mean()) ** 2).sum()) for part in split) for split in parts)

    def gap(values, references, k):
        logs = np.log([inertia(reference, k) for reference in references])
        return logs.mean() - np.log(inertia(values, k)), np.sqrt(1 + 1 / len(references)) * logs.std()

    by_hand, without_deviation, ours = [], [], []
    for seed in range(30):
        scores = np.sort(np.random.default_rng(seed).normal(1, 0.1, 7))
        stretched = (scores - scores.min()) / (scores.max() - scores.min())
        drawn = torch.rand(10, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        references = np.sort(drawn.numpy(), axis=1)
        (first, _), (second, deviation) = gap(stretched, references, 1), gap(stretched, references, 2)
        by_hand.append(first < second - deviation)
        without_deviation.append(first < second)
        ours.append(has_two_clusters(scores, torch.Generator().manual_seed(seed)))

    assert ours == by_hand
    assert sum(without_deviation) > sum(by_hand) > 0


class Run:
    """A receiver, 0, six honest neighbours, 1 to 6, and liars behind them.

    Honest nodes take one noisy gradient step on quadratics of equal curvature and different minima.
    """

    def __init__(self, lie=None, *, rule=None, liars=3, seed=0, noise=0.02, dimension=40):
        self.dimension = dimension
        self.rule = rule or DflDetector()
        self.random = torch.Generator().manual_seed(seed)
        self.curvature = positive_definite(self.dimension, seed).float() / 5
        self.minima = torch.randn(7, self.dimension, generator=self.random)
        self.lie, self.liars = lie, liars if lie else 0
        self.noise = noise
        self.base, self.state = torch.zeros(self.dimension), None

    def half_steps(self):
        noise = self.noise * torch.randn(self.minima.shape, generator=self.random)
        return self.base - (self.base - self.minima) @ self.curvature + noise

    def play(self, first, last, silent=0):
        """Play rounds in which the last ``silent`` neighbours are not heard; return the last result."""
        for turn in range(first, last + 1):
            own, *honest = self.half_steps()
            rows = [*honest, *(self.lie(self, turn, liar) for liar in range(self.liars))]
            rows = rows[: len(rows) - silent]
            result = aggregate(self.rule, own, rows, base=self.base, round=turn, num_rounds=20, state=self.state)
            self.base, self.state = result.vector, result.state
        return result


def constant(run, turn, liar):
    return torch.full((run.dimension,), 2.0 + liar)


def random(run, turn, liar):
    return run.base + torch.randn(run.dimension, generator=run.random)


@pytest.mark.parametrize("lie", [constant, random])
@pytest.mark.parametrize("seed", range(4))
def test_liars_are_flagged_within_twenty_rounds_and_nobody_else(lie, seed):
    run = Run(lie, seed=seed)

    result = run.play(1, 20)

    assert run.state["flagged"] == (7, 8, 9)
    assert [j for j, weight in result.weights.items() if weight == 0] == [7, 8, 9]


def test_finite_messages_whose_differences_are_not_stop_nobody_and_are_flagged():
    largest = torch.finfo(torch.float32).max
    draw, base, state = torch.Generator().manual_seed(0), torch.zeros(8), None

    for turn in range(1, 8):
        own, *honest = torch.ones(6, 8) + 0.1 * torch.randn(6, 8, generator=draw)
        lie = torch.zeros(8)
        lie[0] = largest if turn % 2 else -largest
        result = aggregate(DflDetector(), own, [*honest, lie], base=base, round=turn, state=state)
        state, base = result.state, torch.full((8,), 0.01 * turn)

    assert state["flagged"] == (6,)
    assert torch.isfinite(result.vector).all()


def test_without_liars_nobody_is_flagged_but_without_a_margin_honest_neighbours_are():
    careful, published = ([Run(seed=s, rule=DflDetector(margin=m)) for s in range(4)] for m in (1.5, 1.0))

    for run in careful + published:
        run.play(1, 20)

    assert [run.state["flagged"] for run in careful] == [()] * 4
    assert any(run.state["flagged"] for run in published)


def test_the_first_two_rounds_are_the_plain_mean():
    run = Run(constant)

    for turn in (1, 2):
        result = run.play(turn, turn)
        assert result.weights == dict.fromkeys(range(10), 0.1)
        assert result.scores["suspicion"] == {}
    assert set(run.play(3, 3).scores["suspicion"]) == set(range(10))


def test_errors_are_relative_to_their_mean_and_scores_the_mean_of_the_window():
    run = Run(rule=DflDetector(window=2))
    run.play(1, 2)

    third, fourth, fifth = (run.play(turn, turn).scores for turn in (3, 4, 5))

    relative = [
        {j: error / (sum(s["prediction-error"].values()) / 7) for j, error in s["prediction-error"].items()}
        for s in (third, fourth, fifth)
    ]
    assert third["suspicion"] == pytest.approx(relative[0])
    assert fifth["suspicion"] == pytest.approx({j: (relative[1][j] + relative[2][j]) / 2 for j in range(7)})
    assert fourth["suspicion"] == pytest.approx({j: (relative[0][j] + relative[1][j]) / 2 for j in range(7)})


def test_a_later_start_only_watches_until_then():
    run = Run(constant, rule=DflDetector(start=6))

    assert all(weight > 0 for weight in run.play(1, 5).weights.values())
    assert run.play(6, 6).weights[9] == 0


def test_a_removal_outlasts_a_change_of_mind_only_if_it_is_sticky():
    def reformed(run, turn, liar):
        return random(run, turn, liar) if turn <= 5 else run.half_steps()[1]

    sticky, fresh = (Run(reformed, rule=DflDetector(window=2, sticky=value)) for value in (True, False))

    assert sticky.play(1, 5).weights[8] == fresh.play(1, 5).weights[8] == 0
    assert sticky.state["flagged"] == (7, 8, 9)
    assert fresh.state["flagged"] == ()
    assert sticky.play(6, 12).weights[8] == 0
    assert fresh.play(6, 12).weights[8] > 0


def test_a_node_never_removes_itself_but_says_that_it_looks_odd():
    run = Run()
    honest = run.half_steps
    run.half_steps = lambda: torch.cat([random(run, 0, 0)[None], honest()[1:]])

    result = run.play(1, 6)

    assert result.weights[0] > 0
    assert result.flags == ("own-suspicious",)
    assert run.state["flagged"] == ()


def test_memory_is_bounded_by_the_window():
    run = Run(constant, rule=DflDetector(window=3), liars=1)

    run.play(1, 12)

    assert [turn for turn, _ in run.state["points"]] == [9, 10, 11, 12]
    assert len(run.state["changes"]) == 3
    assert all(len(errors) <= 3 for errors in run.state["errors"].values())
    assert set(run.state["last"]) == set(range(7))


def test_a_prediction_reaches_over_a_gap():
    run = Run(noise=0.0, dimension=1)  # where one step already tells the curvature
    run.play(1, 3)

    missed = run.play(4, 4, silent=1)
    skipped = run.state["points"][-1][1] - run.state["points"][-2][1]
    back = run.play(5, 5)

    assert 6 not in missed.scores["prediction-error"]
    assert missed.state["last"][6][0] == 3
    # Without the step that it missed, the prediction would be off by the curvature times that step.
    assert back.scores["prediction-error"][6] < 0.001 * float((skipped @ run.curvature).norm())


def test_the_coming_and_going_of_a_neighbour_is_not_taken_for_curvature():
    run = Run(noise=0.0)
    run.play(1, 3)

    run.play(4, 4, silent=2)
    run.play(5, 5)

    step = run.state["points"][-1][1] - run.state["points"][-2][1]
    change = run.state["changes"][-1]
    torch.testing.assert_close(change, step @ run.curvature, rtol=0, atol=1e-5)


def test_silence_does_not_save_a_liar_from_its_past():
    run = Run(constant, liars=1, rule=DflDetector(start=8))
    for turn in range(1, 8):
        run.play(turn, turn, silent=turn % 2)  # it speaks every other round

    assert run.play(8, 8).weights[7] == 0


def test_whoever_was_silent_for_longer_than_the_window_has_no_prediction():
    run = Run(rule=DflDetector(window=2))
    run.play(1, 3)

    run.play(4, 6, silent=1)

    assert 6 not in run.state["last"]
    assert 6 not in run.play(7, 7).scores["prediction-error"]
    assert 6 in run.play(8, 8).scores["prediction-error"]


def test_a_run_goes_on_with_the_same_bits_after_its_state_was_stored():
    first, second = Run(constant), Run(constant)
    for turn in range(1, 8):
        first.play(turn, turn)
        second.play(turn, turn)
        second.state = codec.unpack(codec.pack(second.state))

    assert torch.equal(first.base, second.base)
    assert codec.pack(first.state) == codec.pack(second.state)


def test_the_state_neither_aliases_nor_changes_what_came_in():
    own, received, base = torch.randn(4), torch.randn(2, 4), torch.randn(4)
    before = base.clone()

    state = aggregate(DflDetector(), own, received, base=base).state
    stored = codec.pack(state)
    aggregate(DflDetector(), own, received, base=base + 1, round=2, state=state)

    assert torch.equal(base, before)
    assert state["points"][0][1].data_ptr() != base.data_ptr()
    assert codec.pack(state) == stored


def test_parameters_out_of_range_are_refused():
    with pytest.raises(ConfigurationError, match="window must be at least 1, got 0"):
        DflDetector(window=0)
    with pytest.raises(ConfigurationError, match="start must be at least 3, the first round with a score, got 2"):
        DflDetector(start=2)
    with pytest.raises(ConfigurationError, match="margin must be at least 1, got 0"):
        DflDetector(margin=0.5)
