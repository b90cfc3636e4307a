"""CS+ robust gossip: self-centred clipping whose radius holds for a given Byzantine weight."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.clipping import anchored, by_sender, clip_factors, largest_weights
from flower_dfl.strategies.kernels import distances_to
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["CsPlus", "quantile_radius"]

_ROUNDING = 1e-12


def quantile_radius(
    distances: Tensor, weights: Tensor, byzantine_weight: float, boundary: Literal["below", "at"] = "below"
) -> float:
    r"""Return the clipping radius; infinity for ``byzantine_weight = 0``.

    With the node itself first, at distance 0, and the neighbours by ascending distance, let ``c_r`` be the weight up to
    ``r``, ``T = 1 - 2b`` and ``r`` the first position with :math:`c_r \ge T`. The radius is :math:`d_r` if
    :math:`c_r = T`; otherwise :math:`d_{r-1}` for ``below`` (0 if ``r = 1``) and :math:`d_r` for ``at``.

    Args:
        distances: Of each neighbour from the node itself ``(m,)``.
        weights: Mixing weights ``(m,)``.
        byzantine_weight: ``b``.
        boundary: What happens where no neighbour sits exactly at ``T``.
    """
    if byzantine_weight == 0:
        return math.inf
    order = distances.argsort(stable=True)
    ordered: list[float] = [0.0, *distances[order].tolist()]
    target = 1 - 2 * byzantine_weight
    cumulated = 1 - float(weights.sum()) + torch.cat([weights.new_zeros(1), weights[order].cumsum(0)])
    reached = int((cumulated < target - _ROUNDING).sum())
    exact = float(cumulated[reached]) <= target + _ROUNDING
    return ordered[reached if exact or boundary == "at" else max(reached - 1, 0)]


@dataclass(frozen=True, slots=True)
class CsPlus(PeerStrategy[None]):
    r"""Clip every neighbour's offset to the distance beyond which twice the Byzantine weight lies.

    .. math:: \theta_i^{t+1} = h_i + \sum_{j \in N_i} w_{ij} \, \mathrm{clip}(h_j - h_i, \tau_i)

    with Metropolis-Hastings weights, step size 1 and the radius of :func:`quantile_radius`. The Byzantine weight
    ``b_i`` is what the ``f`` heaviest neighbours weigh. Stateless. An empty inbox leaves the node where it is;
    ``f = 0`` is gossip. Where ``2 b_i`` reaches the weight of the neighbours, the radius is 0 and the node stays alone:
    safe under domination, but without collaboration.

    Guarantee: :math:`\|F - \sum_{j \in H} w_{ij} z_j\|^2 \le 2 b_i \sum_{j \in H} w_{ij} \|z_j\|^2` for
    :math:`z_j = h_i - h_j` and the honest neighbours ``H``. It holds for ``at`` with any weights; for ``below``, the
    authors' released code, where some neighbour sits exactly at the boundary, as with equal weights. Otherwise
    ``below`` clips more than the theorem allows for.

    Args:
        boundary: ``below`` clips at least the weight ``2 b_i``; ``at`` leaves the neighbour on the boundary unclipped.

    References:
        Gaucher, Dieuleveut, Hendrikx, *Unified Breakdown Analysis for Byzantine Robust Gossip*, ICML 2025.
        https://arxiv.org/abs/2410.10418
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    boundary: Literal["below", "at"] = "below"

    def __post_init__(self) -> None:
        if self.boundary not in ("below", "at"):
            raise ConfigurationError(f"boundary must be 'below' or 'at', got {self.boundary!r}")

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return the own model plus the clipped and weighted offsets."""
        weights = inbox.mixing_weights
        distances = distances_to(inbox.own.vector, [update.vector for update in inbox.received])
        tau = quantile_radius(distances, weights, largest_weights(weights, ctx.budget), self.boundary)
        factors = clip_factors(distances, tau)
        scores = {"distance": by_sender(inbox, 0.0, distances), "clipped-to": by_sender(inbox, 1.0, factors)}
        return anchored(inbox, weights * factors, state, scores)
