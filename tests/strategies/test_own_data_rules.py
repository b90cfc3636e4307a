"""Rules that ask the own data: UBAR, loss weighting and Bristle, on learners small enough to work by hand."""

from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional as F

from flower_dfl.errors import ConfigurationError
from flower_dfl.strategies.bristle import Bristle, f1_scores, stratified_sample
from flower_dfl.strategies.local_only import LocalOnly
from flower_dfl.strategies.loss_weighted import LossWeighted
from flower_dfl.strategies.ubar import Ubar
from flower_dfl.testing import aggregate, linear_learner, small_data
from flower_dfl.types import LabelledData


@dataclass(frozen=True)
class FirstCoordinate:
    """The loss of a model is its first coordinate."""

    input_shape: tuple[int, ...] = (1,)
    num_classes: int = 2

    def loss(self, vector, inputs, labels):
        return vector[0]


@dataclass(frozen=True)
class Table:
    """A model is its list of predictions: coordinate k is the label of sample k."""

    input_shape: tuple[int, ...] = (1,)
    num_classes: int = 3

    def logits(self, vector, inputs):
        labels = vector[: len(inputs)].long()
        return F.one_hot(labels.clamp(0, 2), 3).float() + torch.where(vector.isfinite().all(), 0.0, torch.nan)


def rows(*values):
    return torch.tensor(values, dtype=torch.float32)


def test_ubar_mixes_the_near_neighbours_of_lower_loss():
    own = rows(5.0, 0.0)
    received = rows([5.0, 1.0], [4.0, 0.0], [6.0, 0.0], [0.0, 0.0], [3.0, 0.0])  # distances 1, 1, 1, 5, 2

    result = aggregate(Ubar(rho=0.8, alpha=0.6), own, received, learner=FirstCoordinate())

    # The four nearest are 1, 2, 3 and 5; of these 3 has the higher loss. Mean of (5, 1), (4, 0), (3, 0) is (4, 1/3).
    torch.testing.assert_close(result.vector, 0.6 * own + 0.4 * rows(4.0, 1 / 3))
    assert result.weights == pytest.approx({0: 0.6, 1: 0.4 / 3, 2: 0.4 / 3, 3: 0, 4: 0, 5: 0.4 / 3})
    assert result.scores["loss"] == {0: 5.0, 1: 5.0, 2: 4.0, 3: 6.0, 5: 3.0}


def test_ubar_without_survivors_takes_the_best_of_the_near_or_nobody():
    own, received = rows(1.0, 0.0), rows([3.0, 0.0], [2.0, 2.0], [0.0, 9.0])

    best = aggregate(Ubar(rho=0.7), own, received, learner=FirstCoordinate())
    alone = aggregate(Ubar(rho=0.7, fallback="own"), own, received, learner=FirstCoordinate())

    assert best.weights == {0: 0.5, 1: 0.0, 2: 0.5, 3: 0.0}
    assert torch.equal(alone.vector, own)


def test_ubar_looks_at_a_share_of_the_neighbours_rounded_down_but_at_one_at_least():
    own = rows(1.0, 0.0)

    few = aggregate(Ubar(rho=0.4), own, rows([0.5, 0.0], [0.5, 1.0]), learner=FirstCoordinate())
    exact = aggregate(Ubar(rho=0.7), own, rows(*[[0.5, float(k)] for k in range(10)]), learner=FirstCoordinate())

    assert [j for j, w in few.weights.items() if w] == [0, 1]
    assert [j for j, w in exact.weights.items() if w] == [0, *range(1, 8)]


def test_ubar_with_rho_one_leaves_the_screening_to_the_losses():
    own, received = rows(1.0, 0.0), rows([0.5, 1e6], [2.0, 0.0])

    result = aggregate(Ubar(rho=1.0, alpha=0.0), own, received, learner=FirstCoordinate())

    torch.testing.assert_close(result.vector, received[0])


def test_loss_weights_are_inverse_to_the_losses():
    own, received = rows(1.0, 7.0), rows([2.0, 0.0], [4.0, 0.0])

    result = aggregate(LossWeighted(), own, received, learner=FirstCoordinate())

    # 1, 1/2, 1/4, normalised: 4/7, 2/7, 1/7.
    assert result.weights == pytest.approx({0: 4 / 7, 1: 2 / 7, 2: 1 / 7})
    torch.testing.assert_close(result.vector, rows((4 + 4 + 4) / 7, 4.0))


def test_equal_losses_give_the_plain_mean():
    own, received = rows(2.0, 1.0), rows([2.0, 5.0], [2.0, 9.0])

    torch.testing.assert_close(
        aggregate(LossWeighted(), own, received, learner=FirstCoordinate()).vector, rows(2.0, 5.0)
    )


def test_the_variant_leaves_out_whoever_has_a_higher_loss():
    own, received = rows(1.0, 7.0), rows([2.0, 0.0], [0.5, 0.0], [1.0, 1.0])

    result = aggregate(LossWeighted(better_only=True), own, received, learner=FirstCoordinate())

    assert result.weights == pytest.approx({0: 0.25, 1: 0.0, 2: 0.5, 3: 0.25})


def test_a_loss_that_is_not_finite_counts_nothing_and_one_of_zero_everything():
    own = rows(1.0, 0.0)

    received = rows([torch.inf, 0.0], [torch.nan, 0.0], [3.0, 0.0])
    lost = aggregate(LossWeighted(), own, received, learner=FirstCoordinate())
    perfect = aggregate(LossWeighted(), own, rows([0.0, 3.0]), learner=FirstCoordinate())

    assert lost.weights == {0: 0.75, 1: 0.0, 2: 0.0, 3: 0.25}
    assert perfect.weights[1] == pytest.approx(1.0)
    torch.testing.assert_close(perfect.vector, rows(0.0, 3.0))


def test_a_huge_liar_whom_the_loss_can_see_does_not_move_the_node():
    own, noise = 0.1 * torch.randn(12), torch.randn(12)

    result = aggregate(LossWeighted(), own, torch.stack([own, own, 1e6 * noise]), learner=linear_learner(12))

    assert result.weights[3] < 1e-5


@pytest.mark.parametrize("rule", [Ubar(samples=4), LossWeighted(samples=4), Bristle(samples=4)])
def test_own_data_are_drawn_anew_each_round(rule):
    own, received = torch.randn(12), 2 * torch.randn(6, 12)
    learner, data = linear_learner(12), small_data(6, count=40)

    def first(turn):
        scores = aggregate(rule, own, received, round=turn, learner=learner, data=data).scores
        return scores.get("loss", scores.get("f1"))

    assert first(1) == first(1)
    assert any(first(1) != first(turn) for turn in range(2, 6))


def test_f1_is_taken_over_the_classes_that_occur():
    labels, predicted = torch.tensor([0, 0, 0, 2]), torch.tensor([0, 0, 1, 1])

    # Class 0: 2 * 2 / (3 + 2). Class 2: nothing hit. Class 1 does not occur.
    assert f1_scores(predicted, labels, 3).tolist() == pytest.approx([0.8, 0.0])


def test_the_sample_holds_the_nearest_and_one_from_each_stratum_behind():
    distances = torch.arange(20.0).flip(0)  # index 19 is the nearest

    for seed in range(20):
        sample = stratified_sample(distances, 5, 0.4, torch.Generator().manual_seed(seed)).tolist()
        assert sample[:2] == [19, 18]
        assert [index // 6 for index in sample[2:]] == [2, 1, 0]  # indices 17..12, 11..6, 5..0
    assert sorted(stratified_sample(distances, 20, 0.4, torch.Generator()).tolist()) == list(range(20))
    assert stratified_sample(distances, 3, 1.0, torch.Generator()).tolist() == [19, 18, 17]


def test_bristle_integrates_each_model_by_the_classes_it_is_as_good_at():
    data = LabelledData(torch.zeros(4, 1), torch.tensor([0, 0, 1, 1]), 3, (0.0, 1.0))
    own = rows(0, 0, 1, 0, 0.5)  # class 0: 2*2/(2+3) = 0.8; class 1: 2*1/(2+1) = 2/3
    received = rows(
        [0, 0, 1, 1, 1.5],  # perfect: F1 1 and 1, merit 1
        [1, 0, 1, 1, 2.5],  # class 0: 2/3, below own; class 1: 4/5, so merit 2/5
        [2, 2, 2, 2, 9.5],  # nothing right: mean F1 0, below half of the own 11/15
    )

    result = aggregate(Bristle(), own, received, learner=Table(), data=data)

    assert result.weights == pytest.approx({0: 1 / 2.4, 1: 1 / 2.4, 2: 0.4 / 2.4, 3: 0})
    assert result.vector[4] == pytest.approx((0.5 + 1.5 + 0.4 * 2.5) / 2.4)
    assert result.scores["f1"] == pytest.approx({0: 11 / 15, 1: 1.0, 2: 11 / 15, 3: 0.0})


def test_bristle_counts_equal_scores_in_and_models_far_below_the_own_one_out():
    data = LabelledData(torch.zeros(4, 1), torch.tensor([0, 0, 1, 1]), 3, (0.0, 1.0))
    own = rows(0, 0, 1, 0)  # F1 0.8 and 2/3
    received = rows([0, 0, 1, 0], [2, 2, 1, 1])  # the same; and 0 and 1, of mean 1/2: 0.68 of the own mean

    tolerant, strict = (
        aggregate(Bristle(slack=slack), own, received, learner=Table(), data=data).weights for slack in (0.4, 0.3)
    )

    assert tolerant == pytest.approx({0: 15 / 33.5, 1: 11 / 33.5, 2: 7.5 / 33.5})  # merits 11/15 and 1/2
    assert strict == pytest.approx({0: 15 / 26, 1: 11 / 26, 2: 0})


def test_a_model_that_always_says_one_class_is_not_integrated_however_often_that_class_occurs():
    data = LabelledData(torch.zeros(20, 1), torch.tensor([0] * 16 + [1] * 2 + [2] * 2), 3, (0.0, 1.0))
    truth = [0.0] * 16 + [1.0] * 2 + [2.0] * 2

    result = aggregate(Bristle(), rows(*truth), rows([0.0] * 20), learner=Table(), data=data)

    assert result.weights == {0: 1.0, 1: 0.0}  # F1 (8/9, 0, 0): a third of the own mean


def test_bristle_gives_no_merit_to_scores_that_are_not_finite():
    data = LabelledData(torch.zeros(2, 1), torch.tensor([0, 0]), 3, (0.0, 1.0))

    result = aggregate(Bristle(slack=1.0), rows(0, 0), rows([torch.inf, 0.0]), learner=Table(), data=data)

    assert result.weights == {0: 1.0, 1: 0.0}


def test_training_alone_ignores_everybody():
    own, received = torch.randn(4), torch.randn(3, 4)

    result = aggregate(LocalOnly(), own, received, f=3)

    assert torch.equal(result.vector, own)
    assert result.weights == {0: 1.0, 1: 0.0, 2: 0.0, 3: 0.0}


@pytest.mark.parametrize(
    ("rule", "params", "message"),
    [
        (Ubar, {"rho": 0.0}, r"rho must be in \(0, 1\], got 0.0"),
        (Ubar, {"alpha": -0.1}, r"alpha must be in \[0, 1\], got -0.1"),
        (Ubar, {"samples": -1}, "samples must not be negative, got -1"),
        (Ubar, {"fallback": "nearest"}, "fallback must be 'best' or 'own', got 'nearest'"),
        (LossWeighted, {"samples": -2}, "samples must not be negative, got -2"),
        (Bristle, {"alpha": 1.2}, r"alpha must be in \[0, 1\], got 1.2"),
        (Bristle, {"slack": -1.0}, r"slack must be in \[0, 1\], got -1.0"),
        (Bristle, {"candidates": 0}, "candidates must be at least 1, got 0"),
        (Bristle, {"samples": -2}, "samples must not be negative, got -2"),
    ],
)
def test_parameters_out_of_range_are_refused(rule, params, message):
    with pytest.raises(ConfigurationError, match=message):
        rule(**params)


@pytest.mark.parametrize("seed", range(5))
def test_a_diverged_own_model_counts_by_its_loss_not_by_a_rounding_of_one(seed):
    # Its weight is about 1e-20: as a difference from 1 it was 0, or 2e-16, which times 1e20 is far away.
    generator = torch.Generator().manual_seed(seed)
    own, received = torch.randn(20, generator=generator) * 1e20, torch.randn(2, 20, generator=generator)
    learner, data = linear_learner(20), small_data(10)

    result = aggregate(LossWeighted(), own, received, learner=learner, data=data)

    kept = [result.weights[k] for k in range(3)]
    by_hand = sum(w * x.double() for w, x in zip(kept, [own, *received], strict=True))
    assert 0 < kept[0] < 1e-17
    torch.testing.assert_close(result.vector.double(), by_hand, rtol=1e-5, atol=1e-5)


@dataclass(frozen=True)
class Squared(FirstCoordinate):
    """The loss of a model is the square of its first coordinate, which overflows."""

    def loss(self, vector, inputs, labels):
        return vector[0].square()


def test_ubar_takes_no_neighbour_whose_loss_is_not_finite_even_as_the_best_of_bad_ones():
    hopeless = rows([1e30, 0.0], [-1e30, 0.0])

    alone = aggregate(Ubar(rho=1.0), rows(1.0, 0.0), hopeless, learner=Squared())
    diverged = aggregate(Ubar(rho=1.0), rows(2e30, 0.0), hopeless, learner=Squared())
    worse = aggregate(Ubar(rho=1.0), rows(1.0, 0.0), rows([1e30, 0.0], [3.0, 0.0]), learner=Squared())

    assert alone.weights == diverged.weights == {0: 1.0, 1: 0.0, 2: 0.0}
    assert worse.weights == {0: 0.5, 1: 0.0, 2: 0.5}


@pytest.mark.parametrize(("alpha", "count", "near"), [(0.28, 25, 7), (0.56, 25, 14), (0.07, 100, 7), (0.3, 5, 2)])
def test_the_share_of_the_nearest_is_rounded_up_from_its_value_not_from_its_rounding(alpha, count, near):
    distances = torch.arange(1000.0)
    first, second = (
        set(stratified_sample(distances, count, alpha, torch.Generator().manual_seed(seed)).tolist()) for seed in (0, 1)
    )

    assert set(range(near)) <= first & second
    assert near not in first & second
