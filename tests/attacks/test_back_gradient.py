import pytest
import torch

from flower_dfl.attacks.back_gradient import BackGradient, _Surrogate
from flower_dfl.errors import ConfigurationError
from flower_dfl.testing import craft
from flower_dfl.training import TorchLearner, one_thread
from flower_dfl.types import Knowledge, LabelledData
from tests.attacks.small_images import DIMENSION, context, images, learner, train


@pytest.fixture(autouse=True)
def alone():
    with one_thread():
        yield


def surrogate(steps=5, seed=0):
    training, validation = images(40, seed), images(40, seed + 1)
    points = images(6, seed + 2)
    problem = _Surrogate(
        learner=learner(),
        start=0.05 * torch.randn(DIMENSION, generator=torch.Generator().manual_seed(seed)),
        training=(training.inputs, training.labels),
        validation=(validation.inputs, validation.labels),
        labels=3 - points.labels,
        share=0.3,
        lr=0.05,
        steps=steps,
    )
    return problem, points.inputs


@pytest.mark.parametrize("steps", [1, 5])
def test_the_hyper_gradient_is_the_derivative_of_the_validation_loss(steps):
    problem, points = surrogate(steps)

    slope = problem.slope(points, problem.train(points))
    direction = slope / slope.norm()
    ahead, behind = (problem.harm(problem.train(points + step * direction)[-1]) for step in (0.2, -0.2))

    assert (ahead - behind) / 0.4 == pytest.approx(float(slope.norm()), rel=0.02)


def test_one_step_ahead_the_hyper_gradient_is_the_mixed_product_worked_by_hand():
    # one inner step from w = 0 with one point x of label 1 of 2, share 1, lr a: the model gets W = a (y - p) x^T with
    # p = (1/2, 1/2), so W = a (-1/2, 1/2) x^T. The validation point z has label 0, loss log(1 + exp(a x.z)),
    # and its derivative by x is a z sigmoid(a x.z)
    module = torch.nn.Linear(2, 2, bias=False)
    x, z, a = torch.tensor([[0.3, -0.2]]), torch.tensor([[0.5, 1.0]]), 0.8
    problem = _Surrogate(
        learner=TorchLearner(module, (2,), 2),
        start=torch.zeros(4),
        training=(x, torch.tensor([1])),
        validation=(z, torch.tensor([0])),
        labels=torch.tensor([1]),
        share=1.0,
        lr=a,
        steps=1,
    )

    slope = problem.slope(x, problem.train(x))

    expected = a * z * torch.sigmoid(a * (x * z).sum())
    assert torch.allclose(slope, expected, rtol=1e-3)


def retrained_loss(data):
    validation = images(400, seed=5)
    return float(learner().loss(train(data, steps=60, lr=0.05), validation.inputs, validation.labels))


def test_it_harms_more_than_flipped_labels_with_the_same_budget():
    clean = images(120)
    flipped, optimised = (
        BackGradient(share=0.2, outer_steps=steps, lr=0.05, steps=15).poison(clean, context()) for steps in (0, 10)
    )

    assert torch.equal(flipped.labels, optimised.labels)
    assert retrained_loss(optimised) > 1.1 * retrained_loss(flipped)
    assert retrained_loss(flipped) > retrained_loss(clean)


def test_a_share_of_the_samples_is_replaced_by_points_with_flipped_labels_in_the_input_range():
    clean = images(40)

    poisoned = BackGradient(share=0.25, outer_steps=2, steps=2, rate=5.0).poison(clean, context())

    changed = (poisoned.inputs != clean.inputs).flatten(1).any(dim=1)
    assert int(changed.sum()) == 10
    assert torch.equal(poisoned.labels[changed], 3 - clean.labels[changed])
    assert torch.equal(poisoned.labels[~changed], clean.labels[~changed])
    assert float(poisoned.inputs.min()) >= 0
    assert float(poisoned.inputs.max()) <= 1


def test_without_outer_steps_it_is_label_flipping_of_the_share():
    clean = images(40)

    poisoned = BackGradient(share=0.25, outer_steps=0).poison(clean, context())

    assert torch.equal(poisoned.inputs, clean.inputs)
    assert int((poisoned.labels != clean.labels).sum()) == 10


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_smallest_shards_are_poisoned_too(count):
    clean = images(count)

    poisoned = BackGradient(outer_steps=1, steps=1).poison(clean, context())

    assert int((poisoned.labels != clean.labels).sum()) == 1


def test_a_surrogate_that_diverges_ends_in_points_that_are_finite():
    clean = LabelledData(images(20).inputs, images(20).labels, 4, (0.0, 1.0))

    poisoned = BackGradient(lr=1e30, steps=3, outer_steps=2).poison(clean, context())

    assert torch.isfinite(poisoned.inputs).all()


def test_it_follows_the_protocol_unless_it_is_boosted():
    base, half_step = torch.tensor([1.0, 1.0]), torch.tensor([2.0, 0.5])

    assert craft(BackGradient(), torch.zeros(1, 2), [half_step], base=base).tolist() == [2, 0.5]
    assert craft(BackGradient(gamma=10), torch.zeros(1, 2), [half_step], base=base).tolist() == [11, -4]
    assert BackGradient.knowledge is Knowledge.LOCAL
    assert BackGradient().trigger is None


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"share": 0.0}, "^share must be in"),
        ({"gamma": 0.0}, "^gamma must be"),
        ({"lr": 0.0}, r'^lr must be "auto" or positive and finite, got 0\.0$'),
        ({"lr": float("inf")}, r'^lr must be "auto" or positive and finite, got inf$'),
        ({"steps": 0}, "^steps and samples must be at least 1 and outer_steps not negative, got 0, 256 and 10$"),
        ({"samples": 0}, "got 10, 0 and 10$"),
        ({"outer_steps": -1}, "got 10, 256 and -1$"),
        ({"rate": 0.0}, r"^rate must be positive and finite, got 0\.0$"),
    ],
)
def test_parameters_out_of_range_are_refused_at_construction(params, message):
    with pytest.raises(ConfigurationError, match=message):
        BackGradient(**params)


@pytest.mark.parametrize(
    ("missing", "message"), [("learner", "needs the local model"), ("base", "start-of-round model")]
)
def test_it_needs_the_local_model_and_where_it_stands(missing, message):
    with pytest.raises(ConfigurationError, match=message):
        BackGradient().poison(images(8), context(**{missing: None}))
