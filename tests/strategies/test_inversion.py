import pytest
import torch
from torch import nn

from flower_dfl.data.embedded import fashion_mnist_mini
from flower_dfl.models.cnn import cnn
from flower_dfl.models.lr import lr
from flower_dfl.strategies.inversion import balanced_labels, invert, residual
from flower_dfl.training import TorchLearner, one_thread
from flower_dfl.vectors import parameter_vector


@pytest.fixture(autouse=True)
def alone():
    """Many small steps: several threads only wait for one another."""
    with one_thread():
        yield


@pytest.fixture(scope="module")
def real():
    """Logistic regression, a gradient of 100 real images at it, and a start for 100 dummy images."""
    torch.manual_seed(0)
    train, _ = fashion_mnist_mini()
    learner = TorchLearner(lr((1, 28, 28), 10), (1, 28, 28), 10)
    base = parameter_vector(learner.module)
    target = learner.gradient(base, train.inputs[:100], train.labels[:100])
    start = torch.randn(100, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    return learner, base, target, start, balanced_labels(10, 10)


def small():
    learner = TorchLearner(nn.Linear(3, 2, bias=False), (3,), 2)
    return learner, torch.zeros(6), torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), balanced_labels(2, 2)


def residual_at(learner, base, target, inputs, labels):
    return float((learner.gradient(base, inputs, labels) - target).square().sum() / target.square().sum())


def test_labels_are_balanced_and_in_order():
    assert balanced_labels(3, 2).tolist() == [0, 0, 1, 1, 2, 2]
    assert balanced_labels(2, 1).dtype == torch.int64


def test_a_real_gradient_is_matched_within_a_hundred_steps(real):
    # Specification F.2: relative residual below 0.05 (there 0.008-0.015) after 100 Adam steps of 0.1.
    learner, base, target, start, labels = real

    result = invert(learner, base, target, start, labels, iterations=100, lr=0.1)

    assert result.residual < 0.05
    assert residual_at(learner, base, target, result.inputs, labels) < 0.05
    assert residual_at(learner, base, target, start, labels) > 0.5


def test_the_steps_are_those_of_torchs_own_optimiser_to_the_last_bit(real):
    learner, base, target, start, labels = real
    inputs = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([inputs], lr=0.3)
    for _ in range(4):
        (inputs.grad,) = torch.autograd.grad((learner.gradient(base, inputs, labels) - target).square().sum(), inputs)
        optimizer.step()

    result = invert(learner, base, target, start, labels, iterations=4, lr=0.3)

    assert torch.equal(result.inputs, inputs)


def test_a_few_large_steps_find_most_of_it(real):
    learner, base, target, start, labels = real

    result = invert(learner, base, target, start, labels, iterations=10, lr=0.3)

    assert residual_at(learner, base, target, result.inputs, labels) < 0.5


def test_lbfgs_matches_a_gradient_too(real):
    learner, base, target, start, labels = real

    result = invert(learner, base, target, start, labels, optimizer="lbfgs", iterations=20, lr=1.0)

    assert residual_at(learner, base, target, result.inputs, labels) < 0.05


def test_start_base_and_target_are_unchanged_and_the_result_is_detached():
    learner, base, start, labels = small()
    target = torch.tensor([0.1, -0.2, 0.3, -0.1, 0.2, -0.3])
    before = [t.clone() for t in (base, target, start, labels)]

    result = invert(learner, base, target, start, labels)

    assert all(torch.equal(a, b) for a, b in zip(before, (base, target, start, labels), strict=True))
    assert not start.requires_grad
    assert not result.inputs.requires_grad
    assert result.inputs.shape == start.shape


def test_the_same_inputs_give_the_same_bits(real):
    learner, base, target, start, labels = real

    first, second = (invert(learner, base, target, start, labels, iterations=3).inputs for _ in range(2))

    assert torch.equal(first, second)


def test_one_adam_step_moves_every_input_by_the_learning_rate():
    # Adam's first step is lr * g / (|g| + eps): the sign of the slope, times lr.
    learner, base, start, labels = small()
    target = torch.tensor([0.1, -0.2, 0.3, -0.1, 0.2, -0.3])

    result = invert(learner, base, target, start, labels, iterations=1, lr=0.25)

    assert (result.inputs - start).abs().flatten().tolist() == pytest.approx([0.25] * 12, rel=1e-4)
    assert residual_at(learner, base, target, result.inputs, labels) < residual_at(learner, base, target, start, labels)


def test_a_huge_target_is_judged_as_it_was_followed(real):
    learner, base, target, start, labels = real
    huge = torch.full_like(target, 3e38)

    result = invert(learner, base, huge, start, labels, iterations=5, lr=0.1)

    left = residual(learner, base, huge, result.inputs, labels)
    assert left == pytest.approx(result.residual, rel=0.2)
    assert residual(learner, base, huge * float("inf"), result.inputs, labels) < 2


def test_the_residual_is_that_before_the_last_step():
    learner, base, start, labels = small()
    target = torch.tensor([0.1, -0.2, 0.3, -0.1, 0.2, -0.3])

    result = invert(learner, base, target, start, labels, iterations=1)

    assert result.residual == pytest.approx(residual_at(learner, base, target, start, labels), rel=1e-5)


def test_the_residual_of_given_inputs_is_the_relative_squared_error():
    learner, base, start, labels = small()
    target = torch.tensor([0.1, -0.2, 0.3, -0.1, 0.2, -0.3])

    assert residual(learner, base, target, start, labels) == pytest.approx(
        residual_at(learner, base, target, start, labels)
    )
    assert residual(learner, base, learner.gradient(base, start, labels), start, labels) < 1e-12


class ThirdParty:
    """A learner with the methods of the protocol and nothing else: linear softmax regression in plain torch."""

    input_shape, num_classes = (3,), 2

    def gradient(self, vector, inputs, labels):
        error = (inputs @ vector.view(2, 3).T).softmax(dim=1) - torch.nn.functional.one_hot(labels, 2)
        return (error.T @ inputs / len(labels)).flatten()


def test_a_learner_that_only_keeps_the_protocol_is_inverted_likewise():
    ours, base, start, labels = small()
    target = torch.tensor([0.1, -0.2, 0.3, -0.1, 0.2, -0.3])

    theirs = invert(ThirdParty(), base, target, start, labels)

    assert torch.allclose(theirs.inputs, invert(ours, base, target, start, labels).inputs, atol=1e-4)


class Plain(TorchLearner):
    """Differentiates with torch alone."""

    def gradient(self, vector, inputs, labels):
        self._load(vector)
        loss = torch.nn.functional.cross_entropy(self.module(inputs), labels)
        parts = torch.autograd.grad(loss, list(self.module.parameters()), create_graph=inputs.requires_grad)
        return torch.cat([part.flatten() for part in parts])


def test_the_dummy_images_of_a_convolutional_network_are_those_of_plain_differentiation():
    # ten Adam steps of 0.3 in float64: differences of one rounding, grown
    torch.manual_seed(0)
    module = cnn((1, 8, 8), 3, channels1=3, channels2=4, hidden=8).double()
    start, labels = torch.randn(6, 1, 8, 8, dtype=torch.float64), balanced_labels(3, 2)
    base = parameter_vector(module)
    target = 0.1 * torch.randn(len(base), dtype=torch.float64)

    ours, plain = (invert(kind(module, (1, 8, 8), 3), base, target, start, labels) for kind in (TorchLearner, Plain))

    assert torch.allclose(ours.inputs, plain.inputs, atol=1e-8)
    assert ours.residual == pytest.approx(plain.residual, rel=1e-8)


def test_a_start_that_explains_the_target_stays_nearly_where_it_is():
    learner, base, start, labels = small()
    target = learner.gradient(base, start, labels)

    result = invert(learner, base, target, start, labels, optimizer="lbfgs", iterations=5)

    assert result.residual < 1e-10
    assert torch.allclose(result.inputs, start)


def test_a_target_of_zero_gives_a_finite_result():
    learner, base, start, labels = small()

    result = invert(learner, base, torch.zeros(6), start, labels)

    assert torch.isfinite(result.inputs).all()


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
@pytest.mark.parametrize("size", [1e20, 3e38])
def test_absurd_targets_give_finite_inputs_within_the_bound(optimizer, size):
    learner, base, start, labels = small()

    result = invert(learner, base, torch.full((6,), size), start, labels, optimizer=optimizer, lr=1.0)

    assert torch.isfinite(result.inputs).all()
    assert result.inputs.abs().max() <= 1e6


def test_an_absurd_base_gives_finite_inputs_within_the_bound():
    learner, _, start, labels = small()

    result = invert(learner, torch.full((6,), 3e38), torch.ones(6), start, labels)

    assert torch.isfinite(result.inputs).all()
    assert result.inputs.abs().max() <= 1e6


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_of_a_target_beyond_all_gradients_only_the_direction_counts(optimizer):
    learner, base, start, labels = small()
    direction = torch.nn.functional.normalize(torch.randn(6, generator=torch.Generator().manual_seed(2)), dim=0)

    longest, huge, overflown = (
        (invert(learner, base, scale * direction, start, labels, optimizer=optimizer).inputs - start).flatten()
        for scale in (1e4, 1e30, 3e38)
    )

    for moved in (huge, overflown):
        assert float(torch.cosine_similarity(moved, longest, dim=0)) > 0.99
        assert float(moved.norm()) == pytest.approx(float(longest.norm()), rel=0.2)


@pytest.mark.parametrize("scale", [1e20, 3e38])
def test_the_residual_of_a_huge_target_is_one_not_infinite(scale):
    learner, base, start, labels = small()

    assert residual(learner, base, torch.full((6,), scale), start, labels) == pytest.approx(1.0)
