"""Components of a user's own, given by reference."""

from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn


def batch_norm(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """A model with float and integer buffers."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(prod(input_shape), 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, num_classes)
    )


class Drawing(nn.Flatten):
    """A layer that draws from torch's global generator in every training step, and remembers what."""

    drawn: ClassVar[list[float]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.drawn.append(float(torch.rand(1)))
        return super().forward(inputs)


def drawing(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """A model that remembers what it drew."""
    return nn.Sequential(Drawing(), nn.Linear(prod(input_shape), num_classes))


def dropout(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """A model whose training draws from torch's global generator."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(prod(input_shape), 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, num_classes)
    )
