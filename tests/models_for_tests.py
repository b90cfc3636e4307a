"""Components of a user's own, given by reference."""

from math import prod

from torch import nn


def batch_norm(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """A model with float and integer buffers."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(prod(input_shape), 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, num_classes)
    )


def dropout(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """A model whose training draws from torch's global generator."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(prod(input_shape), 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, num_classes)
    )
