import pytest
import torch

from flower_dfl.attacks.triggers import SquareTrigger
from flower_dfl.errors import ConfigurationError


@pytest.mark.parametrize(
    ("corner", "rows"),
    [
        ("top-left", ["110", "110", "000"]),
        ("top-right", ["011", "011", "000"]),
        ("bottom-left", ["000", "110", "110"]),
        ("bottom-right", ["000", "011", "011"]),
    ],
)
def test_the_square_lies_in_its_corner_of_every_channel(corner, rows):
    stamped = SquareTrigger(size=2, corner=corner).stamp(torch.zeros(2, 3, 3, 3), (0.0, 1.0))

    expected = torch.tensor([[float(pixel) for pixel in row] for row in rows])
    assert torch.equal(stamped, expected.expand(2, 3, 3, 3))


@pytest.mark.parametrize(("value", "brightness"), [(0.0, -0.5), (1.0, 2.0), (0.5, 0.75), (0.2, 0.0)])
def test_the_brightness_is_a_fraction_of_the_input_range(value, brightness):
    stamped = SquareTrigger(size=1, corner="top-left", value=value).stamp(torch.ones(1, 1, 2, 2), (-0.5, 2.0))

    assert stamped.flatten().tolist() == pytest.approx([brightness, 1, 1, 1])


def test_the_images_are_copied():
    images = torch.zeros(1, 1, 4, 4)

    SquareTrigger().stamp(images, (0.0, 1.0))

    assert images.sum() == 0


def test_a_square_may_cover_the_image():
    assert SquareTrigger(size=3).stamp(torch.zeros(1, 1, 3, 3), (0.0, 1.0)).sum() == 9


def test_no_images_can_be_stamped():
    assert SquareTrigger().stamp(torch.zeros(0, 1, 8, 8), (0.0, 1.0)).shape == (0, 1, 8, 8)


@pytest.mark.parametrize("shape", [(5,), (2, 28), (2, 28, 28), (1, 1, 3, 28), (1, 1, 28, 3)])
def test_inputs_that_are_no_images_or_too_small_are_refused(shape):
    with pytest.raises(
        ConfigurationError,
        match=r"^a square of 4 pixels needs images \(n, c, h, w\) at least as large, got inputs of shape \(",
    ):
        SquareTrigger().stamp(torch.zeros(shape), (0.0, 1.0))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"size": 0}, "size must be positive, got 0"),
        ({"value": 1.5}, r"value must be in \[0, 1\], got 1\.5"),
        ({"value": -0.1}, r"value must be in \[0, 1\], got -0\.1"),
        ({"value": float("nan")}, r"value must be in \[0, 1\], got nan"),
        ({"target": -1}, "target must be a label, got -1"),
    ],
)
def test_parameters_out_of_range_are_refused(params, message):
    with pytest.raises(ConfigurationError, match=rf"^the trigger's {message}$"):
        SquareTrigger(**params)
