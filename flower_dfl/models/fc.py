"""Fully connected network: one hidden layer."""

import math

from torch import nn

from flower_dfl.errors import ConfigurationError

__all__ = ["fc"]


def fc(input_shape: tuple[int, ...], num_classes: int, hidden: int = 128) -> nn.Module:
    """Fully connected network: flatten, one hidden layer with ReLU, one linear layer.

    Args:
        input_shape: Shape of one input; any.
        num_classes: Number of labels.
        hidden: Width of the hidden layer. At least 1.

    Returns:
        The model, with PyTorch's default initialisation.

    Raises:
        ConfigurationError: ``hidden`` is out of range.

    >>> sum(p.numel() for p in fc((1, 28, 28), 10).parameters())
    101770
    """
    if hidden < 1:
        raise ConfigurationError(f"hidden must be at least 1, got {hidden}")
    return nn.Sequential(
        nn.Flatten(), nn.Linear(math.prod(input_shape), hidden), nn.ReLU(), nn.Linear(hidden, num_classes)
    )
