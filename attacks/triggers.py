"""Backdoor triggers."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from flower_dfl.errors import ConfigurationError

__all__ = ["SquareTrigger"]

Corner = Literal["top-left", "top-right", "bottom-left", "bottom-right"]


@dataclass(frozen=True, slots=True)
class SquareTrigger:
    """A bright square in a corner of the image.

    Args:
        size: Side length in pixels. Positive.
        corner: Where the square is.
        value: Brightness, a fraction of the input range: 0 is black, 1 is white.
        target: Label that the backdoor leads to.
    """

    size: int = 4
    corner: Corner = "bottom-right"
    value: float = 1.0
    target: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigurationError(f"the trigger's size must be positive, got {self.size}")
        if not 0 <= self.value <= 1:
            raise ConfigurationError(f"the trigger's value must be in [0, 1], got {self.value}")
        if self.target < 0:
            raise ConfigurationError(f"the trigger's target must be a label, got {self.target}")

    def stamp(self, inputs: Tensor, input_range: tuple[float, float]) -> Tensor:
        """Return a copy of the images ``(n, c, h, w)`` with the square pasted in."""
        if inputs.ndim != 4 or min(inputs.shape[2:]) < self.size:
            raise ConfigurationError(
                f"a square of {self.size} pixels needs images (n, c, h, w) at least as large, "
                f"got inputs of shape {tuple(inputs.shape)}"
            )
        low, high = input_range
        rows = slice(0, self.size) if "top" in self.corner else slice(-self.size, None)
        columns = slice(0, self.size) if "left" in self.corner else slice(-self.size, None)
        stamped = inputs.clone()
        stamped[:, :, rows, columns] = low + self.value * (high - low)
        return stamped
