import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flower_dfl.metrics import Evaluation, StampedTest, consensus_distance, distances_to_mean, evaluate
from flower_dfl.training import TorchLearner
from flower_dfl.types import LabelledData

NAN, INF = float("nan"), float("inf")


def identity_learner():
    """Three class scores that are the three inputs, times the vector's values on a diagonal: W (3, 3) row by row."""
    return TorchLearner(nn.Linear(3, 3, bias=False), (3,), 3)


def diagonal(*values):
    return torch.diag(torch.tensor(values)).reshape(-1)


def data(labels, predictions):
    """Samples that the unit diagonal classifies as ``predictions``."""
    return LabelledData(torch.eye(3)[predictions], torch.tensor(labels), 3, (0.0, 1.0))


TEST = data([0, 1, 2, 2], [0, 1, 0, 2])


def test_accuracy_is_the_share_of_samples_that_get_their_own_label():
    result = evaluate(identity_learner(), diagonal(1.0, 1.0, 1.0), TEST, None)

    assert result == Evaluation(accuracy=0.75, attack_success_rate=None, diverged=False)


def test_the_attack_success_rate_is_the_share_of_stamped_samples_that_get_the_target():
    # three of four stamped inputs are classified as 1
    stamped = StampedTest(torch.eye(3)[[1, 1, 0, 1]], target=1)

    result = evaluate(identity_learner(), diagonal(1.0, 1.0, 1.0), TEST, stamped)

    assert result == Evaluation(accuracy=0.75, attack_success_rate=0.75, diverged=False)


def test_without_stamped_samples_the_attack_success_rate_is_zero():
    stamped = StampedTest(torch.empty(0, 3), target=1)

    assert evaluate(identity_learner(), diagonal(1.0, 1.0, 1.0), TEST, stamped).attack_success_rate == 0.0


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 1000])
def test_the_batch_size_of_the_evaluation_does_not_matter(batch_size):
    stamped = StampedTest(torch.eye(3)[[1, 1, 0, 1, 2]], target=1)

    result = evaluate(identity_learner(), diagonal(1.0, 1.0, 1.0), TEST, stamped, batch_size)

    assert result == Evaluation(0.75, 0.6, diverged=False)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_vector_that_is_not_finite_has_diverged_and_looks_like_no_backdoor_to_label_zero(bad):
    stamped = StampedTest(torch.eye(3), target=0)

    result = evaluate(identity_learner(), diagonal(1.0, 1.0, bad), TEST, stamped)

    assert result == Evaluation(accuracy=0.0, attack_success_rate=0.0, diverged=True)


def test_a_vector_that_is_not_finite_has_no_attack_success_rate_where_there_is_no_trigger():
    result = evaluate(identity_learner(), diagonal(1.0, 1.0, NAN), TEST, None)

    assert result == Evaluation(accuracy=0.0, attack_success_rate=None, diverged=True)


def test_class_scores_that_are_not_finite_have_diverged_though_the_vector_is_finite():
    # 3e38 * 2 overflows for the last sample only
    test = LabelledData(torch.tensor([[1.0, 0, 0], [0, 0, 2.0]]), torch.tensor([0, 2]), 3, (0.0, 2.0))
    stamped = StampedTest(torch.tensor([[1.0, 0, 0]]), target=0)

    result = evaluate(identity_learner(), diagonal(1.0, 1.0, 3e38), test, stamped)

    assert result == Evaluation(accuracy=0.0, attack_success_rate=0.0, diverged=True)


def test_stamped_samples_alone_can_show_that_a_model_has_diverged():
    stamped = StampedTest(torch.tensor([[0, 0, 2.0], [1.0, 0, 0]]), target=0)

    result = evaluate(identity_learner(), diagonal(1.0, 1.0, 3e38), TEST, stamped)

    assert result == Evaluation(accuracy=0.0, attack_success_rate=0.0, diverged=True)


def test_consensus_distance_of_three_models_worked_by_hand():
    # models (0,0), (3,0), (0,3): mean (1,1); squared distances 2, 5, 5; root of their mean 4 is 2
    distances = distances_to_mean([torch.tensor([0.0, 0.0]), torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])])

    assert distances.tolist() == pytest.approx([math.sqrt(2), math.sqrt(5), math.sqrt(5)], rel=1e-12)
    assert consensus_distance(distances.tolist()) == pytest.approx(2.0, rel=1e-12)


def test_models_that_agree_are_in_consensus():
    assert consensus_distance(distances_to_mean([torch.ones(5)] * 4).tolist()) == 0.0


def test_nobody_is_in_consensus():
    assert consensus_distance([]) == 0.0


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20))
def test_consensus_distance_lies_between_the_mean_and_the_largest_distance(distances):
    xi = consensus_distance(distances)

    assert sum(distances) / len(distances) * (1 - 1e-9) <= xi <= max(distances) * (1 + 1e-9)
