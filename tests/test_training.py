import copy
from collections import Counter
from itertools import chain

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flower_dfl import experiment
from flower_dfl.config import TrainConfig, parse
from flower_dfl.data.loading import load
from flower_dfl.errors import ConfigurationError
from flower_dfl.randomness import epoch_order, generator
from flower_dfl.training import ModelState, TorchLearner, one_thread, resolve_device, train
from flower_dfl.types import LabelledData
from flower_dfl.vectors import load_parameters, parameter_vector


class Recorder(nn.Module):
    """Logistic regression that remembers the batches of its forward passes."""

    def __init__(self, *layers):
        super().__init__()
        self.layer = nn.Sequential(*layers, nn.Linear(1, 3))
        self.batches = []

    def forward(self, inputs):
        self.batches.append([int(value) for value in inputs[:, 0]])
        return self.layer(inputs * 0.01)


def numbered(labels):
    """Samples whose only feature is their index."""
    return LabelledData(torch.arange(float(len(labels)))[:, None], torch.tensor(labels), 3, (0.0, 1e6))


def batches_of(config, labels, seed=0, strata=None, layers=()):
    module = Recorder(*layers)
    train(module, ModelState.of(module), numbered(labels), config, generator(seed, "batches", 1, 0), strata=strata)
    return module.batches


def deep():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def batch(count=6):
    draw = torch.Generator().manual_seed(1)
    return torch.randn(count, 4, generator=draw), torch.randint(3, (count,), generator=draw)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_steps_are_those_of_torchs_own_optimiser_to_the_last_bit(momentum):
    module, (inputs, labels) = deep(), batch(12)
    unused = nn.Parameter(torch.ones(2))  # in no forward pass
    module.register_parameter("unused", unused)
    start, reference = ModelState.of(module), copy.deepcopy(module)
    config = TrainConfig(lr=0.1, momentum=momentum, batch_size=4, epochs=3)

    half_step = train(
        module, start, LabelledData(inputs, labels, 3, (-9.0, 9.0)), config, generator(0, "batches", 1, 0)
    )

    optimizer, draw = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=momentum), generator(0, "batches", 1, 0)
    for _ in range(3):
        for chosen in torch.split(epoch_order(labels, config.sampling, draw), 4):
            optimizer.zero_grad()
            F.cross_entropy(reference(inputs[chosen]), labels[chosen]).backward()
            optimizer.step()
    assert torch.equal(half_step.vector, parameter_vector(reference))
    assert unused.tolist() == [1, 1]


def test_one_step_is_one_step_of_gradient_descent_worked_by_hand():
    # Logistic regression with W = 0: scores 0, probabilities (1/2, 1/2). One sample x = (2, -1), y = 1:
    # gradient of row 0: 1/2 x = (1, -1/2), of row 1: -1/2 x = (-1, 1/2). With lr 0.1: W = -0.1 * gradient.
    module = nn.Linear(2, 2, bias=False)
    start = ModelState(torch.zeros(4), torch.empty(0))
    data = LabelledData(torch.tensor([[2.0, -1.0]]), torch.tensor([1]), 2, (-9.0, 9.0))

    half_step = train(module, start, data, TrainConfig(lr=0.1), torch.Generator())

    assert half_step.vector.tolist() == pytest.approx([-0.1, 0.05, 0.1, -0.05])
    assert start.vector.tolist() == [0, 0, 0, 0]


def test_momentum_is_worked_by_hand_and_forgotten_between_calls():
    # Two epochs of the sample above with gradients g1 and g2: v1 = g1, v2 = 0.5 g1 + g2, W = -lr (v1 + v2). For the
    # second step the scores are W x: row 0 (-0.1, 0.05) . (2, -1) = -0.25, row 1: 0.25; the probability of class 0 is
    # 1 / (1 + e^0.5) = 0.377541, and g2 = 0.377541 / 0.5 * g1. First entry: -0.1 * (1.5 + 0.755081) = -0.225508.
    module = nn.Linear(2, 2, bias=False)
    start = ModelState(torch.zeros(4), torch.empty(0))
    data = LabelledData(torch.tensor([[2.0, -1.0]]), torch.tensor([1]), 2, (-9.0, 9.0))
    config = TrainConfig(lr=0.1, momentum=0.5, epochs=2)

    first = train(module, start, data, config, torch.Generator())
    second = train(module, start, data, config, torch.Generator())

    assert first.vector[0].item() == pytest.approx(-0.225508, abs=1e-6)
    assert torch.equal(first.vector, second.vector)


def test_every_epoch_goes_once_through_all_data():
    batches = batches_of(TrainConfig(batch_size=4, epochs=3), [0, 1, 2] * 5)

    assert [len(b) for b in batches] == [4, 4, 4, 3] * 3
    for epoch in range(3):
        assert sorted(chain.from_iterable(batches[4 * epoch : 4 * epoch + 4])) == list(range(15))


def test_every_epoch_has_an_order_of_its_own():
    batches = batches_of(TrainConfig(batch_size=15, epochs=3), [0, 1, 2] * 5)

    assert len({tuple(b) for b in [*batches, range(15)]}) == 4


def test_class_balanced_sampling_draws_every_class_about_equally_often():
    # 2,000 draws, a third each: the standard deviation of a count is 21; six of them are 127.
    labels = [0] * 900 + [1] * 90 + [2] * 10
    batches = batches_of(TrainConfig(batch_size=50, epochs=2, sampling="class-balanced"), labels)

    counts = Counter(labels[index] for index in chain.from_iterable(batches))

    assert all(abs(counts[label] - 2000 / 3) < 127 for label in range(3))


def test_class_balanced_sampling_draws_by_other_labels_where_they_are_given():
    strata = [0] * 900 + [1] * 90 + [2] * 10
    config = TrainConfig(batch_size=50, epochs=2, sampling="class-balanced")

    batches = batches_of(config, [0] * 1000, strata=torch.tensor(strata))

    assert batches == batches_of(config, strata)


def test_class_balanced_sampling_takes_as_many_steps_as_shuffling():
    labels = [0] * 30 + [2] * 7

    shuffled = batches_of(TrainConfig(batch_size=8, epochs=2), labels)
    balanced = batches_of(TrainConfig(batch_size=8, epochs=2, sampling="class-balanced"), labels)

    assert [len(b) for b in balanced] == [len(b) for b in shuffled]


@pytest.mark.parametrize("sampling", ["shuffle", "class-balanced"])
@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(9, 4, [4, 5]), (10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 2, [3])],
)
def test_a_single_sample_joins_the_batch_before_where_batches_are_normalised(sampling, count, batch_size, sizes):
    config, labels = TrainConfig(batch_size=batch_size, sampling=sampling), [0, 1, 2] * 5

    normalised = batches_of(config, labels[:count], layers=[nn.BatchNorm1d(1)])

    assert [len(b) for b in normalised] == sizes
    assert list(chain(*normalised)) == list(chain(*batches_of(config, labels[:count])))


def test_other_batches_stay_as_they_are():
    several_values = [nn.Linear(1, 4), nn.Unflatten(1, (1, 4)), nn.BatchNorm1d(1), nn.Flatten(), nn.Linear(4, 1)]

    plain = batches_of(TrainConfig(batch_size=4), [0, 1, 2] * 3)
    singles = batches_of(TrainConfig(batch_size=1), [0, 1, 2] * 3, layers=several_values)

    assert [len(b) for b in plain] == [4, 4, 1]
    assert [len(b) for b in singles] == [1] * 9


@pytest.mark.parametrize("sampling", ["shuffle", "class-balanced"])
def test_the_seed_decides_the_batches(sampling):
    config = TrainConfig(batch_size=4, sampling=sampling)

    assert batches_of(config, [0, 1, 2] * 5, seed=1) == batches_of(config, [0, 1, 2] * 5, seed=1)
    assert batches_of(config, [0, 1, 2] * 5, seed=1) != batches_of(config, [0, 1, 2] * 5, seed=2)


def test_the_same_seed_trains_the_same_bits():
    module, (inputs, labels) = deep(), batch(30)
    start, data = ModelState.of(module), LabelledData(inputs, labels, 3, (-9.0, 9.0))

    first, again, other = (
        train(module, start, data, TrainConfig(batch_size=7), generator(seed, "batches", 1, 0)).vector
        for seed in (0, 0, 1)
    )

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_training_starts_from_the_given_state_whatever_the_workspace_holds():
    module, (inputs, labels) = deep(), batch()
    start, data = ModelState.of(module), LabelledData(inputs, labels, 3, (-9.0, 9.0))
    expected = train(module, start, data, TrainConfig(), torch.Generator().manual_seed(0)).vector

    load_parameters(module, torch.full_like(start.vector, 100.0))
    again = train(module.eval(), start, data, TrainConfig(), torch.Generator().manual_seed(0)).vector

    assert torch.equal(again, expected)


def test_training_updates_running_statistics_and_leaves_frozen_parameters_alone():
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    module[0].weight.requires_grad_(False)
    frozen, (inputs, labels) = module[0].weight.clone(), batch()
    start = ModelState.of(module)

    half_step = train(
        module, start, LabelledData(inputs, labels, 3, (-9.0, 9.0)), TrainConfig(batch_size=3), torch.Generator()
    )

    assert half_step.vector.shape == start.vector.shape
    assert torch.equal(module[0].weight, frozen)
    assert not torch.equal(half_step.buffers, start.buffers)
    assert [int(b) for b in half_step.integer_buffers] == [2]  # two batches
    assert [int(b) for b in start.integer_buffers] == [0]


def test_the_learners_gradient_is_autograds_on_the_module():
    module, (inputs, labels) = deep(), batch()
    vector = parameter_vector(module) + 0.1
    reference = copy.deepcopy(module)
    load_parameters(reference, vector)
    F.cross_entropy(reference(inputs), labels).backward()

    gradient = TorchLearner(module, (4,), 3).gradient(vector, inputs, labels)

    assert torch.equal(gradient, torch.cat([p.grad.reshape(-1) for p in reference.parameters()]))
    assert not gradient.requires_grad


def test_the_learners_gradient_takes_probabilities_for_labels():
    module, inputs = deep(), torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    learner, vector = TorchLearner(module, (4,), 3), parameter_vector(module)
    zeros, ones = (torch.full((6,), label) for label in (0, 1))

    mixed = learner.gradient(vector, inputs, torch.tensor([0.25, 0.75, 0.0]).expand(6, 3))

    parts = 0.25 * learner.gradient(vector, inputs, zeros) + 0.75 * learner.gradient(vector, inputs, ones)
    assert torch.allclose(mixed, parts, atol=1e-6)


def test_the_learners_gradient_is_differentiable_in_the_inputs():
    # Central differences in float64 on |gradient|^2, against double backpropagation.
    module, (inputs, labels) = deep().double(), batch(3)
    learner, vector = TorchLearner(module, (4,), 3), parameter_vector(deep()).double()

    def energy(x):
        return learner.gradient(vector, x, labels).square().sum()

    asked = inputs.double().requires_grad_()
    (slope,) = torch.autograd.grad(energy(asked), asked)
    step = 1e-6
    for index in range(inputs.numel()):
        shift = torch.zeros(inputs.numel(), dtype=torch.float64)
        shift[index] = step
        shift = shift.reshape(inputs.shape)
        difference = (energy(inputs.double() + shift) - energy(inputs.double() - shift)) / (2 * step)

        assert slope.reshape(-1)[index].item() == pytest.approx(difference.item(), rel=1e-5, abs=1e-9)


def test_the_learners_gradient_of_images_is_the_same_to_rounding_whether_or_not_it_is_differentiable():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)).double()
    inputs, labels = torch.randn(4, 1, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    learner, vector = TorchLearner(module, (1, 6, 6), 3), parameter_vector(module)

    plain, differentiable = (learner.gradient(vector, x, labels) for x in (inputs, inputs.clone().requires_grad_()))

    assert torch.allclose(plain, differentiable, rtol=1e-12)
    assert differentiable.requires_grad
    assert not plain.requires_grad


def test_the_learners_loss_and_logits_are_the_modules_in_evaluation_mode_without_gradient():
    module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3))
    (inputs, labels), vector = batch(), parameter_vector(module)
    learner = TorchLearner(module.train(), (4,), 3)

    scores, loss = learner.logits(vector, inputs), learner.loss(vector, inputs, labels)

    expected = module.eval()(inputs)
    assert torch.equal(scores, expected)
    assert loss.item() == F.cross_entropy(expected, labels).item()
    assert not scores.requires_grad
    assert not loss.requires_grad
    assert int(module[1].num_batches_tracked) == 0


def test_logits_are_differentiable_in_inputs_that_ask_for_it_and_the_loss_is_not():
    module = nn.Linear(4, 3)
    (inputs, labels), vector = batch(), parameter_vector(module)
    learner = TorchLearner(module, (4,), 3)
    inputs = inputs.clone().requires_grad_()

    (slopes,) = torch.autograd.grad(learner.logits(vector, inputs)[:, 1].sum(), inputs)

    assert torch.equal(slopes, module.weight[1].expand(len(inputs), -1))
    assert not learner.loss(vector, inputs, labels).requires_grad


def test_the_learners_gradient_ignores_dropout_and_leaves_statistics_alone():
    module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3))
    (inputs, labels), vector = batch(), parameter_vector(module)
    learner = TorchLearner(module.train(), (4,), 3)

    first, second = (learner.gradient(vector, inputs, labels) for _ in range(2))

    assert torch.equal(first, second)
    assert int(module[1].num_batches_tracked) == 0


def test_a_model_state_is_a_copy_that_can_be_loaded_again():
    module = nn.BatchNorm1d(2)
    state = ModelState.of(module)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.add_(1)

    state.load(module)

    assert torch.equal(ModelState.of(module).vector, torch.tensor([1.0, 1, 0, 0]))
    assert torch.equal(ModelState.of(module).buffers, torch.tensor([0.0, 0, 1, 1]))
    assert int(module.num_batches_tracked) == 0


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_one_thread_computes_alone_and_restores_the_number_of_threads(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1

        assert torch.get_num_threads() == threads
        with pytest.raises(RuntimeError), one_thread():
            raise RuntimeError
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_a_device_is_named_or_found(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cpu") == torch.device("cpu")


def test_a_parameter_that_the_scores_do_not_depend_on_has_no_slope():
    module, (inputs, labels) = deep(), batch()
    module.register_parameter("unused", nn.Parameter(torch.ones(2)))
    learner = TorchLearner(module, (4,), 3)
    names = [name for name, _ in module.named_parameters()]
    sizes = [p.numel() for p in module.parameters()]

    gradient = learner.gradient(parameter_vector(module), inputs.requires_grad_(), labels)
    (slope,) = torch.autograd.grad(gradient.square().sum(), inputs)

    unused = gradient.split(sizes)[names.index("unused")]
    assert unused.tolist() == [0, 0]
    assert gradient.abs().sum() > 0
    assert slope.abs().sum() > 0


@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_is_built_with_one_thread(monkeypatch, threads):
    seen = []
    monkeypatch.setattr(experiment, "load", lambda config: seen.append(torch.get_num_threads()) or load(config))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        experiment.build_experiment(parse({"data.num-train": 100, "data.num-test": 50}))
        after = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)

    assert (seen, after) == ([1], threads)


@pytest.mark.parametrize("name", ["banana", "cuda:99", "meta", "cpu:x"])
def test_a_device_that_is_not_there_is_a_wrong_setting(name):
    with pytest.raises(
        ConfigurationError, match=rf"^train.device must be 'auto' or a device of this machine, got '{name}'"
    ):
        resolve_device(name)
