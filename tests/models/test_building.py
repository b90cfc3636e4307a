import sys

import pytest
import torch
from torch import nn

from flower_dfl.config import ComponentConfig
from flower_dfl.errors import ConfigurationError, UnknownComponentError
from flower_dfl.models.building import build_model

SHAPE = (1, 8, 8)


class Mlp(nn.Module):
    """A user's model that takes only what it needs."""

    def __init__(self, num_classes, width=4):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.Dropout(), nn.Linear(width, num_classes))

    def forward(self, x):
        return self.layers(x)


def not_a_module():
    return "a model"


def float64(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes), Double())


class Double(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x):
        return x * self.scale


def frozen(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes)).requires_grad_(False)


def one_score_too_many(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes + 1))


def too_small(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(63, num_classes))


def a_tuple():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    return Pair()


@pytest.fixture
def own(monkeypatch):
    """Refer to something in this module as a user would."""
    monkeypatch.setitem(sys.modules, "users_models", sys.modules[__name__])
    return lambda name, **params: ComponentConfig(f"users_models:{name}", params)


def weights(model):
    return torch.cat([parameter.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("name", ["lr", "fc", "cnn"])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(name):
    first, again, other = (weights(build_model(ComponentConfig(name), SHAPE, 10, seed)) for seed in (0, 0, 1))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["fc", "own"])
def test_the_global_random_state_is_neither_read_nor_moved(name, own):
    config = own("Mlp") if name == "own" else ComponentConfig(name)
    torch.manual_seed(1)
    first = weights(build_model(config, SHAPE, 10, seed=0))
    torch.manual_seed(2)
    before = torch.get_rng_state()

    second = weights(build_model(config, SHAPE, 10, seed=0))

    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_parameters_reach_the_model_and_it_comes_in_training_mode():
    model = build_model(ComponentConfig("fc", {"hidden": 7}), SHAPE, 10, seed=0)

    assert sum(p.numel() for p in model.parameters()) == 64 * 7 + 7 + 7 * 10 + 10
    assert model.training


def test_trying_the_model_does_not_move_its_buffers():
    model = build_model(ComponentConfig("resnet18", {"norm": "batch"}), SHAPE, 10, seed=0)

    assert model.bn1.running_mean.abs().max() == 0
    assert model.bn1.num_batches_tracked == 0


def test_a_users_model_is_given_only_what_it_takes(own):
    model = build_model(own("Mlp", width=3), SHAPE, 10, seed=0)

    assert isinstance(model, Mlp)
    assert model.layers[1].weight.shape == (3, 64)  # a lazy layer that has seen the inputs


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("not_a_module", "'users_models:not_a_module' must be a torch.nn.Module, got str"),
        ("float64", r"trainable parameters must be float32, 2\.scale is torch\.float64"),
        ("frozen", "must have trainable parameters, got none"),
        ("one_score_too_many", r"must answer \(2, 10\) to two inputs of shape \(1, 8, 8\), .* got \(2, 11\)"),
        ("too_small", r"fails on two inputs of shape \(1, 8, 8\): mat1 and mat2"),
        ("a_tuple", r"must answer \(2, 10\) .* got tuple"),
    ],
)
def test_a_users_model_that_cannot_be_trained_here_is_refused(name, message, own):
    with pytest.raises(ConfigurationError, match=message):
        build_model(own(name), SHAPE, 10, seed=0)


def test_an_unknown_model_or_parameter_lists_the_valid_ones():
    with pytest.raises(UnknownComponentError, match="Valid: cnn, fc, lr, resnet18"):
        build_model(ComponentConfig("vgg"), SHAPE, 10, seed=0)
    with pytest.raises(ConfigurationError, match=r"Did you mean 'hidden'\?"):
        build_model(ComponentConfig("fc", {"hiden": 3}), SHAPE, 10, seed=0)
    with pytest.raises(ConfigurationError, match="norm must be 'group' or 'batch', got 'layer'"):
        build_model(ComponentConfig("resnet18", {"norm": "layer"}), SHAPE, 10, seed=0)
