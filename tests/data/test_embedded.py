from importlib import resources

import pytest
import torch

from flower_dfl.data.embedded import fashion_mnist_mini
from flower_dfl.data.images import FASHION_MNIST_SCALE
from flower_dfl.data.vision import fashion_mnist


@pytest.fixture(scope="module")
def mini():
    return fashion_mnist_mini()


def test_it_holds_4000_and_1000_images_of_28x28(mini):
    train, test = mini

    assert train.inputs.shape == (4000, 1, 28, 28)
    assert test.inputs.shape == (1000, 1, 28, 28)
    assert train.num_classes == test.num_classes == 10


def test_the_label_counts_are_those_of_the_original_files_beginning(mini):
    train, test = mini

    # counted in the original idx files: np.bincount(labels[:4000]), np.bincount(labels[:1000])
    assert train.labels.bincount().tolist() == [373, 440, 404, 409, 395, 391, 400, 413, 380, 395]
    assert test.labels.bincount().tolist() == [107, 105, 111, 93, 115, 87, 97, 95, 95, 95]
    assert train.labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]


def test_inputs_are_standardised_by_the_full_sets_constants(mini):
    train, test = mini
    mean, std = FASHION_MNIST_SCALE

    assert train.inputs.mean().item() == pytest.approx(0, abs=0.02)
    assert train.inputs.std().item() == pytest.approx(1, abs=0.02)
    assert train.input_range == test.input_range == pytest.approx((-mean / std, (1 - mean) / std))
    assert (train.inputs.min().item(), train.inputs.max().item()) == train.input_range


def test_the_licence_lies_beside_it():
    text = resources.files("flower_dfl.data").joinpath("fashion_mnist_mini.LICENSE.txt").read_text(encoding="utf-8")

    assert "The MIT License (MIT)" in text
    assert "Zalando SE" in text


@pytest.mark.data
def test_it_is_the_beginning_of_the_full_set(mini, full_data_root):
    full = fashion_mnist(full_data_root)

    for part, whole in zip(mini, full, strict=True):
        assert torch.equal(part.inputs, whole.inputs[: len(part)])
        assert torch.equal(part.labels, whole.labels[: len(part)])
