"""What rules that start from the own model share: distances to it, clipping, and mixing towards its neighbours.

Plain functions on the rows of one inbox, without settings or state. ``m`` neighbours, sorted by sender; weights and
distances are float64 ``(m,)`` on the CPU.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from flower_dfl.strategies.kernels import weighted_mean
from flower_dfl.types import Aggregate, Inbox, NodeId, StateT

__all__ = ["anchored", "by_sender", "clip_factors", "largest_weights", "nearest_weights"]

_ROUNDING = 1e-12
"""Weights below this are rounding errors of sums of mixing weights, not weights."""


def clip_factors(distances: Tensor, tau: float) -> Tensor:
    r"""Return :math:`\min(1, \tau / d_j)`, by which clipping to radius ``tau`` shortens each offset.

    >>> clip_factors(torch.tensor([0.0, 1.0, 4.0]), 2.0)
    tensor([1.0000, 1.0000, 0.5000])
    """
    return torch.where(distances > tau, tau / distances.clamp(min=torch.finfo(distances.dtype).tiny), 1.0)


def largest_weights(weights: Tensor, count: int) -> float:
    """Return the sum of the ``count`` largest weights: the most that so many neighbours can weigh."""
    return math.fsum(weights.sort(descending=True).values[:count].tolist())


def nearest_weights(distances: Tensor, weights: Tensor, target: float) -> Tensor:
    """Return the weights ``(m,)`` of the nearest neighbours whose weights add up to ``target``.

    The neighbour on the boundary keeps the part of its weight that fits; everybody behind it has weight 0.

    >>> nearest_weights(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([0.5, 0.25, 0.25]), 0.75)
    tensor([0.2500, 0.2500, 0.2500])
    """
    order = distances.argsort(stable=True)
    behind = torch.cumsum(weights[order], dim=0) - weights[order]  # weight of everybody nearer
    fits = torch.minimum((target - behind).clamp(min=0), weights[order])
    fits = torch.where(weights[order] - fits < _ROUNDING, weights[order], fits)
    fits = torch.where(fits < _ROUNDING, 0.0, fits)
    return torch.zeros_like(weights).index_copy(0, order, fits)


def by_sender(inbox: Inbox, own: float, received: Tensor | Sequence[float]) -> dict[NodeId, float]:
    """Return values by sender over the closed neighbourhood."""
    values = received.tolist() if isinstance(received, Tensor) else received
    return {inbox.own.sender: own} | {u.sender: float(v) for u, v in zip(inbox.received, values, strict=True)}


def anchored(
    inbox: Inbox,
    weights: Tensor,
    state: StateT,
    scores: Mapping[str, Mapping[NodeId, float]] | None = None,
    flags: tuple[str, ...] = (),
    *,
    own_weight: float | None = None,
) -> Aggregate[StateT]:
    r"""Return :math:`x_i + \sum_j w_j (x_j - x_i)`: what the neighbours do not weigh stays with the own model.

    Args:
        inbox: The closed neighbourhood.
        weights: Weight of each neighbour ``(m,)``, not negative, at most 1 in sum.
        state: State to return.
        scores: Scores to return.
        flags: Remarks to return.
        own_weight: What is left for the own model, where the rule knows it better than a difference from 1 does.
    """
    if own_weight is None:
        own_weight = max(0.0, 1.0 - math.fsum(weights.tolist()))
    rows = [inbox.own.vector, *(update.vector for update in inbox.received)]
    return Aggregate(
        vector=weighted_mean(rows, [own_weight, *weights.tolist()]),
        state=state,
        weights=by_sender(inbox, own_weight, weights),
        scores=scores or {},
        flags=flags,
    )
