"""Backdoor triggers."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from flower_dfl.errors import ConfigurationError
from flower_dfl.types import LabelledData, Trigger

__all__ = ["Auto", "BarsTrigger", "Corner", "SquareTrigger", "example"]

Corner = Literal["top-left", "top-right", "bottom-left", "bottom-right"]
Auto: TypeAlias = int | Literal["auto"]
"""A number of pixels, or ``auto``: what suits the images."""

_Box: TypeAlias = tuple[slice, slice]


@dataclass(frozen=True, slots=True)
class SquareTrigger:
    """A bright square in a corner of the image, or anywhere.

    Args:
        size: Side length in pixels. Positive.
        corner: Where the square is.
        value: Brightness, a fraction of the input range: 0 is black, 1 is white.
        target: Label that the backdoor leads to.
        row: Row of the square's top left pixel, from 0; with ``column`` it takes the place of ``corner``.
        column: Column of that pixel.
    """

    size: int = 4
    corner: Corner = "bottom-right"
    value: float = 1.0
    target: int = 0
    row: int | None = None
    column: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigurationError(f"the trigger's size must be positive, got {self.size}")
        _check(self.value, self.target)
        if (self.row is None) != (self.column is None):
            raise ConfigurationError(f"row and column go together, got {self.row} and {self.column}")
        if min(self.row or 0, self.column or 0) < 0:
            raise ConfigurationError(f"row and column must not be negative, got {self.row} and {self.column}")

    def stamp(self, inputs: Tensor, input_range: tuple[float, float]) -> Tensor:
        """Return a copy of the images ``(n, c, h, w)`` with the square pasted in."""
        row, column = self.row or 0, self.column or 0
        if inputs.ndim != 4 or inputs.shape[2] < row + self.size or inputs.shape[3] < column + self.size:
            place = "" if self.row is None else f" at ({row}, {column})"
            raise ConfigurationError(
                f"a square of {self.size} pixels{place} needs images (n, c, h, w) at least as large, "
                f"got inputs of shape {tuple(inputs.shape)}"
            )
        rows = slice(0, self.size) if "top" in self.corner else slice(-self.size, None)
        columns = slice(0, self.size) if "left" in self.corner else slice(-self.size, None)
        if self.row is not None:
            rows, columns = slice(row, row + self.size), slice(column, column + self.size)
        return _paint(inputs, [(rows, columns)], self.value, input_range)


@dataclass(frozen=True, slots=True)
class BarsTrigger:
    """Four horizontal bars at the top left, two above two: the trigger that attackers can share out.

    Each bar is one pixel high. Part 0 is the upper left bar, 1 the upper right, 2 the lower left, 3 the lower right;
    the union of the parts is the global trigger.

    Args:
        length: Pixels of a bar. Positive; ``auto`` is 4, and 6 on images of 32 pixels and more: the published layouts
            for MNIST and CIFAR-10.
        gap: Pixels between neighbouring bars, in both directions. Positive; ``auto`` is 2, and 3 on those.
        part: The only bar that is stamped, 0..3; None stamps all four.
        value: Brightness, a fraction of the input range: 0 is black, 1 is white.
        target: Label that the backdoor leads to.

    References:
        Xie, Huang, Chen, Li, *DBA: Distributed Backdoor Attacks against Federated Learning*, ICLR 2020.
        https://openreview.net/forum?id=rkgyS0VFvr
    """

    length: Auto = "auto"
    gap: Auto = "auto"
    part: int | None = None
    value: float = 1.0
    target: int = 0

    def __post_init__(self) -> None:
        for name, pixels in (("length", self.length), ("gap", self.gap)):
            if pixels != "auto" and pixels < 1:
                raise ConfigurationError(f'the bars\' {name} must be "auto" or positive, got {pixels}')
        if self.part is not None and not 0 <= self.part < 4:
            raise ConfigurationError(f"the part must be one of the bars 0..3, got {self.part}")
        _check(self.value, self.target)

    def for_image_size(self, height: int, width: int) -> "BarsTrigger":
        """Return the same trigger with a number for each ``auto``."""
        length, gap = (6, 3) if min(height, width) >= 32 else (4, 2)
        return replace(
            self,
            length=length if self.length == "auto" else self.length,
            gap=gap if self.gap == "auto" else self.gap,
        )

    def stamp(self, inputs: Tensor, input_range: tuple[float, float]) -> Tensor:
        """Return a copy of the images ``(n, c, h, w)`` with the bars, or the one part, pasted in."""
        height, width = inputs.shape[2:] if inputs.ndim == 4 else (0, 0)
        fixed = self.for_image_size(height, width)
        length, gap = int(fixed.length), int(fixed.gap)
        if height < gap + 2 or width < 2 * length + gap:
            raise ConfigurationError(
                f"bars of {length} pixels with gaps of {gap} need images (n, c, h, w) of at least {gap + 2} x "
                f"{2 * length + gap} pixels, got inputs of shape {tuple(inputs.shape)}"
            )
        boxes = [
            (slice(row, row + 1), slice(column, column + length))
            for row in (0, 1 + gap)
            for column in (0, length + gap)
        ]
        return _paint(inputs, boxes if self.part is None else [boxes[self.part]], self.value, input_range)


def example(trigger: Trigger, data: LabelledData, count: int = 8) -> Tensor:
    """Return images of other labels than the target, clean and stamped, to look at: ``(2, n, c, h, w)``, n <= count."""
    clean = data.inputs[data.labels != trigger.target][:count]
    return torch.stack([clean, trigger.stamp(clean, data.input_range)])


def _check(value: float, target: int) -> None:
    if not 0 <= value <= 1:
        raise ConfigurationError(f"the trigger's value must be in [0, 1], got {value}")
    if target < 0:
        raise ConfigurationError(f"the trigger's target must be a label, got {target}")


def _paint(inputs: Tensor, boxes: Iterable[_Box], value: float, input_range: tuple[float, float]) -> Tensor:
    low, high = input_range
    painted = inputs.clone()
    for rows, columns in boxes:
        painted[:, :, rows, columns] = low + value * (high - low)
    return painted
