import numpy as np
import pytest
import torch

from flower_dfl.data.images import MNIST_SCALE, standardise
from flower_dfl.errors import DataError


def pixels(*shape):
    return np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)


def test_pixels_are_scaled_to_the_given_mean_and_deviation():
    data = standardise(np.array([[[0, 51, 255]]], dtype=np.uint8), np.array([1]), 0.2, 0.4, num_classes=2)

    # 0 -> (0 - 0.2) / 0.4, 51 = 255 / 5 -> (0.2 - 0.2) / 0.4, 255 -> (1 - 0.2) / 0.4
    assert data.inputs.flatten().tolist() == pytest.approx([-0.5, 0.0, 2.0], abs=1e-6)
    assert data.input_range == pytest.approx((-0.5, 2.0))


def test_grey_images_get_a_channel_and_colour_images_keep_theirs():
    grey = standardise(pixels(2, 4, 5), np.array([0, 1]), *MNIST_SCALE, num_classes=10)
    colour = standardise(pixels(2, 3, 4, 5), np.array([0, 1]), *MNIST_SCALE, num_classes=10)

    assert grey.inputs.shape == (2, 1, 4, 5)
    assert colour.inputs.shape == (2, 3, 4, 5)


def test_types_are_those_that_training_expects_and_the_pixels_are_not_touched():
    given = np.asfortranarray(pixels(2, 3, 4, 5))
    before = given.copy()

    data = standardise(given, np.array([0, 9], dtype=np.uint8), *MNIST_SCALE, num_classes=10)

    assert data.inputs.dtype == torch.float32
    assert data.inputs.is_contiguous()
    assert data.labels.dtype == torch.int64
    assert data.labels.tolist() == [0, 9]
    assert data.num_classes == 10
    assert (given == before).all()


def test_the_range_is_exactly_that_of_black_and_white_pixels():
    every_value = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)

    data = standardise(every_value, np.array([0]), *MNIST_SCALE, num_classes=10)

    assert data.input_range == (data.inputs.min().item(), data.inputs.max().item())


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4, 4), np.float32), np.array([0, 1]), r"expected uint8 images .*, got float32 \(2, 4, 4\)"),
        (np.zeros((2, 4), np.uint8), np.array([0, 1]), r"expected uint8 images .*, got uint8 \(2, 4\)"),
        (np.zeros((0, 4, 4), np.uint8), np.array([], int), r"got uint8 \(0, 4, 4\)"),
        (np.zeros((2, 4, 4), np.uint8), np.array([0]), r"one label an image, got 2 images and labels of shape \(1,\)"),
        (np.zeros((2, 4, 4), np.uint8), np.array([0, 10]), r"labels in 0\.\.9, got 0\.\.10"),
        (np.zeros((2, 4, 4), np.uint8), np.array([-1, 0]), r"labels in 0\.\.9, got -1\.\.0"),
    ],
)
def test_malformed_images_are_refused(images, labels, message):
    with pytest.raises(DataError, match=message):
        standardise(images, labels, *MNIST_SCALE, num_classes=10)
