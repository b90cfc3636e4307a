"""Logistic regression: one linear layer."""

import math

from torch import nn

__all__ = ["lr"]


def lr(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Logistic regression: flatten, then one linear layer. Convex with the cross-entropy.

    Args:
        input_shape: Shape of one input; any.
        num_classes: Number of labels.

    Returns:
        The model, with PyTorch's default initialisation.

    >>> sum(p.numel() for p in lr((1, 28, 28), 10).parameters())
    7850
    """
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), num_classes))
