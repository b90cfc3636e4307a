import pickle

import pytest
import torch
from torch import nn

from flower_dfl.errors import ConfigurationError
from flower_dfl.models.cnn import cnn
from flower_dfl.models.fc import fc
from flower_dfl.models.lr import lr
from flower_dfl.models.resnet18 import resnet18


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("model", [lr, fc, cnn])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 4, 7)])
def test_small_models_score_every_label_for_any_image_size(model, shape):
    scores = model(shape, 5)(torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)))

    assert scores.shape == (3, 5)


@pytest.mark.parametrize("model", [lr, fc])
def test_linear_and_fully_connected_models_take_inputs_that_are_no_images(model):
    assert model((6,), 4)(torch.zeros(2, 6)).shape == (2, 4)


def test_parameter_counts_follow_from_the_layers():
    assert size(lr((1, 28, 28), 10)) == 784 * 10 + 10
    assert size(fc((1, 28, 28), 10, hidden=100)) == (784 * 100 + 100) + (100 * 10 + 10)
    assert size(cnn((1, 28, 28), 10)) == (16 * 25 + 16) + (32 * 16 * 25 + 32) + (32 * 7 * 7 * 128 + 128) + 1290
    assert size(cnn((3, 32, 32), 10, channels1=6, channels2=8, hidden=20)) == (
        (6 * 3 * 25 + 6) + (8 * 6 * 25 + 8) + (8 * 8 * 8 * 20 + 20) + 210
    )


def test_pooling_before_relu_changes_no_bit_of_a_training_step():
    torch.manual_seed(0)
    ours = cnn((1, 9, 12), 4, channels1=3, channels2=5, hidden=7)
    conv1, pool1, relu1, conv2, pool2, relu2, *rest = ours
    published = nn.Sequential(conv1, relu1, pool1, conv2, relu2, pool2, *rest)
    inputs, labels = torch.randn(16, 1, 9, 12), torch.arange(16) % 4

    scores, slopes = [], []
    for model in (ours, published):
        scores.append(model(inputs))
        slopes.append(torch.autograd.grad(nn.functional.cross_entropy(scores[-1], labels), list(ours.parameters())))

    assert [type(layer) for layer in (relu1, pool1, relu2, pool2)] == [nn.ReLU, nn.MaxPool2d] * 2
    assert torch.equal(*scores)
    assert all(torch.equal(a, b) for a, b in zip(*slopes, strict=True))
    assert all(slope.any() for slope in slopes[0])


def test_logistic_regression_is_linear_in_its_input():
    model = lr((2, 2), 3)
    x, y = torch.ones(1, 2, 2), torch.full((1, 2, 2), 3.0)

    assert torch.allclose(model(2 * x - y), 2 * model(x) - model(y), atol=1e-6)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_resnet18_has_the_stem_for_small_images(norm):
    model = resnet18((3, 32, 32), 10, norm=norm).eval()

    with torch.no_grad():
        stem = model.maxpool(model.conv1(torch.zeros(2, 3, 32, 32)))
        scores = model(torch.zeros(2, 3, 32, 32))

    assert stem.shape == (2, 64, 32, 32)
    assert scores.shape == (2, 10)
    # torchvision's 11,689,512 parameters, less the 7x7 stem and 1,000 labels, and with a 3x3 stem and 10 labels
    assert size(model) == 11_689_512 - 64 * 3 * 49 + 64 * 3 * 9 - 513_000 + 5_130
    assert bool(list(model.buffers())) == (norm == "batch")


def test_resnet18_takes_any_number_of_channels_and_groups_and_pickles():
    model = pickle.loads(pickle.dumps(resnet18((1, 16, 16), 3, groups=2).eval()))

    assert model.layer4[0].bn1.num_groups == 2
    with torch.no_grad():
        assert model(torch.zeros(2, 1, 16, 16)).shape == (2, 3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: fc((4,), 2, hidden=0), "hidden must be at least 1, got 0"),
        (lambda: cnn((784,), 10), r"cnn needs inputs \(c, h, w\) with h >= 4 and w >= 4, got \(784,\)"),
        (lambda: cnn((1, 28, 3), 10), r"got \(1, 28, 3\)"),
        (lambda: cnn((1, 8, 8), 10, channels1=0), "channels1 must be at least 1, got 0"),
        (lambda: cnn((1, 8, 8), 10, channels2=-1), "channels2 must be at least 1, got -1"),
        (lambda: cnn((1, 8, 8), 10, hidden=0), "hidden must be at least 1, got 0"),
        (lambda: resnet18((784,), 10), r"resnet18 needs inputs \(c, h, w\), got \(784,\)"),
        (lambda: resnet18((3, 8, 8), 10, norm="layer"), "norm must be 'group' or 'batch', got 'layer'"),
        (lambda: resnet18((3, 8, 8), 10, groups=0), "groups must divide 64, got 0"),
        (lambda: resnet18((3, 8, 8), 10, groups=3), "groups must divide 64, got 3"),
    ],
)
def test_impossible_sizes_are_refused(build, message):
    with pytest.raises(ConfigurationError, match=message):
        build()
