"""What the tests of targeted attacks share: four kinds of small images, and a softmax regression that learns them."""

import torch
from torch import nn

from flower_dfl.metrics import StampedTest, evaluate
from flower_dfl.training import TorchLearner, one_thread
from flower_dfl.types import AttackContext, LabelledData

SIDE, LABELS = 12, 4
DIMENSION = LABELS * (SIDE**2 + 1)


def learner():
    return TorchLearner(nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, LABELS)), (1, SIDE, SIDE), LABELS)


def images(count=100, seed=0, noise=0.15):
    """Noisy copies of one dim pattern a label, in [0, 1], labels in turn."""
    patterns = torch.rand(LABELS, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(99)) * 0.6
    labels = torch.arange(count) % LABELS
    draw = torch.Generator().manual_seed(seed)
    inputs = (patterns[labels] + noise * torch.randn(count, 1, SIDE, SIDE, generator=draw)).clamp(0, 1)
    return LabelledData(inputs, labels, LABELS, (0.0, 1.0))


def train(data, steps=100, lr=0.2):
    """Return a model after full-batch steps from zero."""
    model, vector = learner(), torch.zeros(DIMENSION)
    with one_thread():
        for _ in range(steps):
            vector = vector - lr * model.gradient(vector, data.inputs, data.labels)
    return vector


def judge(vector, trigger=None, seed=1):
    """Return accuracy and attack success rate on fresh images."""
    test = images(100, seed)
    stamped = None
    if trigger is not None:
        others = test.inputs[test.labels != trigger.target]
        stamped = StampedTest(trigger.stamp(others, test.input_range), trigger.target)
    result = evaluate(learner(), vector, test, stamped)
    return result.accuracy, result.attack_success_rate


def context(node=3, byzantine=(3,), **settings):
    nodes = range(max(byzantine) + 1)
    complete = {i: frozenset(nodes) - {i} for i in nodes}
    values = {"lr": 0.2, "seed": 0, "learner": learner(), "base": torch.zeros(DIMENSION)} | settings
    return AttackContext(node, 1, 10, frozenset(byzantine), complete, **values)
