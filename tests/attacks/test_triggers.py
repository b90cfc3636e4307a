import pytest
import torch

from flower_dfl.attacks.triggers import BarsTrigger, SquareTrigger, example
from flower_dfl.errors import ConfigurationError
from flower_dfl.types import LabelledData


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


def test_the_square_may_be_placed_anywhere():
    stamped = SquareTrigger(size=2, row=0, column=1).stamp(torch.zeros(1, 1, 3, 4), (0.0, 1.0))

    assert stamped[0, 0].tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(("row", "column"), [(2, 0), (0, 3)])
def test_a_square_that_does_not_fit_in_its_place_is_refused(row, column):
    with pytest.raises(ConfigurationError, match=rf"^a square of 2 pixels at \({row}, {column}\) needs images"):
        SquareTrigger(size=2, row=row, column=column).stamp(torch.zeros(1, 1, 3, 4), (0.0, 1.0))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"row": 1}, "row and column go together, got 1 and None"),
        ({"row": 1, "column": -1}, "row and column must not be negative, got 1 and -1"),
    ],
)
def test_a_place_that_is_half_given_or_outside_is_refused(params, message):
    with pytest.raises(ConfigurationError, match=f"^{message}$"):
        SquareTrigger(**params)


def lit(image):
    """Return the white pixels of an image (c, h, w), the same in all channels."""
    assert torch.equal(image, image[:1].expand_as(image))
    return {tuple(place) for place in torch.nonzero(image[0]).tolist()}


LAYOUTS = {
    # (row, first column, last column) of each part, from the authors' code
    28: ((0, 0, 3), (0, 6, 9), (3, 0, 3), (3, 6, 9)),
    32: ((0, 0, 5), (0, 9, 14), (4, 0, 5), (4, 9, 14)),
}


@pytest.mark.parametrize("side", [28, 32])
@pytest.mark.parametrize("part", range(4))
def test_the_bars_are_those_of_the_data_set(side, part):
    row, first, last = LAYOUTS[side][part]

    stamped = BarsTrigger(part=part).stamp(torch.zeros(1, 3, side, side), (0.0, 1.0))

    assert lit(stamped[0]) == {(row, column) for column in range(first, last + 1)}


@pytest.mark.parametrize("side", [28, 32])
def test_the_global_trigger_is_the_union_of_the_parts(side):
    black = torch.zeros(1, 1, side, side)

    parts = [lit(BarsTrigger(part=part).stamp(black, (0.0, 1.0))[0]) for part in range(4)]
    whole = lit(BarsTrigger().stamp(black, (0.0, 1.0))[0])

    assert whole == set().union(*parts)
    assert len(whole) == sum(len(part) for part in parts)


def test_the_layout_can_be_asked_for_and_overridden():
    assert BarsTrigger(target=2).for_image_size(28, 28) == BarsTrigger(4, 2, target=2)
    assert BarsTrigger().for_image_size(32, 32) == BarsTrigger(6, 3)
    assert BarsTrigger(length=1).for_image_size(224, 224) == BarsTrigger(1, 3)
    assert lit(BarsTrigger(1, 1).stamp(torch.zeros(1, 1, 3, 3), (0.0, 1.0))[0]) == {(0, 0), (0, 2), (2, 0), (2, 2)}


def test_bars_have_the_given_brightness_and_leave_the_images_alone():
    images = torch.ones(1, 1, 3, 3)

    stamped = BarsTrigger(1, 1, value=0.5).stamp(images, (-1.0, 2.0))

    assert stamped[0, 0, 0].tolist() == [0.5, 1, 0.5]
    assert (images == 1).all()


@pytest.mark.parametrize("shape", [(5,), (2, 28, 28), (1, 1, 3, 28), (1, 1, 28, 9)])
def test_bars_on_inputs_that_are_no_images_or_too_small_are_refused(shape):
    with pytest.raises(ConfigurationError, match=r"^bars of 4 pixels with gaps of 2 need images .* at least 4 x 10"):
        BarsTrigger().stamp(torch.zeros(shape), (0.0, 1.0))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"length": 0}, 'the bars\' length must be "auto" or positive, got 0'),
        ({"gap": -1}, 'the bars\' gap must be "auto" or positive, got -1'),
        ({"part": 4}, r"the part must be one of the bars 0\.\.3, got 4"),
        ({"value": 2.0}, r"the trigger's value must be in \[0, 1\], got 2\.0"),
        ({"target": -1}, "the trigger's target must be a label, got -1"),
    ],
)
def test_parameters_of_bars_out_of_range_are_refused(params, message):
    with pytest.raises(ConfigurationError, match=f"^{message}$"):
        BarsTrigger(**params)


def test_an_example_shows_images_of_other_labels_clean_and_stamped():
    trigger = SquareTrigger(size=1, corner="top-left", target=1)
    data = LabelledData(torch.arange(4.0).reshape(4, 1, 1, 1) / 10, torch.tensor([0, 1, 2, 0]), 3, (0.0, 1.0))

    shown = example(trigger, data, 2)

    assert shown.shape == (2, 2, 1, 1, 1)
    assert shown.flatten().tolist() == pytest.approx([0, 0.2, 1, 1])
