r"""What min-max and min-sum share: the geometry of a mean that is pushed along a direction.

With :math:`a_k = \|\mu - u_k\|^2`, :math:`b_k = \langle \mu - u_k, p \rangle` and :math:`c = \|p\|^2`,

.. math:: \|\mu - \lambda p - u_k\|^2 = a_k - 2 \lambda b_k + \lambda^2 c

so that the largest admissible :math:`\lambda` is a root, and needs no search.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from flower_dfl.attacks.observation import Observation, craft_columns, update_columns
from flower_dfl.strategies.kernels import pairwise_distances

__all__ = ["Direction", "Geometry", "direction_of", "measure", "pushed"]

Direction = Literal["unit", "std", "sign"]
"""Along the mean update, along the coordinates' standard deviations, or along the mean update's signs."""


class Geometry(NamedTuple):
    """Inner products of the pushed mean with the observed updates, all float64.

    Attributes:
        spread: ``a``, the squared distance of each update from the mean ``(n,)``.
        slope: ``b``, the inner product of mean minus update and direction ``(n,)``.
        length: ``c``, the squared norm of the direction ``()``.
        squared: The squared distances between the updates ``(n, n)``.
    """

    spread: Tensor
    slope: Tensor
    length: Tensor
    squared: Tensor


def direction_of(updates: Tensor, direction: Direction) -> Tensor:
    """Return a block of the direction ``(block,)`` from the updates ``(n, block)``; its scale does not matter."""
    if direction == "std":
        return updates.std(dim=0, correction=0)
    mean = updates.mean(dim=0)
    return mean.sign() if direction == "sign" else mean


def measure(seen: Observation, direction: Direction) -> Geometry:
    """Return the inner products that decide how far the mean may be pushed."""
    n = len(seen.rows)
    spread, slope = (torch.zeros(n, dtype=torch.float64, device=seen.origin.device) for _ in range(2))
    length = torch.zeros((), dtype=torch.float64, device=seen.origin.device)
    for _, updates in update_columns(seen):
        away = updates.mean(dim=0) - updates  # (n, block)
        along = direction_of(updates, direction)
        spread += away.square().sum(dim=1)
        slope += (away * along).sum(dim=1)
        length += along.square().sum()
    return Geometry(spread, slope, length, pairwise_distances(seen.rows, 0).square())


def pushed(seen: Observation, direction: Direction, factor: float) -> Tensor:
    """Return the mean update minus ``factor`` times the direction, as a model ``(d,)``."""
    return craft_columns(seen, lambda updates, _: updates.mean(dim=0) - factor * direction_of(updates, direction))
