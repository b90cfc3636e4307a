"""Self-centred clipping: gossip averaging in which no neighbour can pull further than ``w_ij * tau``."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.clipping import anchored, by_sender, clip_factors, largest_weights, nearest_weights
from flower_dfl.strategies.kernels import distances_to
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["SelfCenteredClipping", "adaptive_radius"]


def adaptive_radius(distances: Tensor, weights: Tensor, byzantine_weight: float) -> float:
    r"""Return :math:`\tau_i = \sqrt{\frac{1}{\delta_i} \sum_{j \in K} w_{ij} d_j^2}`; infinity for ``delta = 0``.

    ``K`` are the nearest members of total weight :math:`1 - \delta_i`; the node itself is the first of them, at
    distance 0. The neighbour on the boundary counts with the part of its weight that fits.

    Args:
        distances: Of each neighbour from the node itself ``(m,)``.
        weights: Mixing weights ``(m,)``.
        byzantine_weight: :math:`\delta_i`.
    """
    if byzantine_weight == 0:
        return math.inf
    kept = nearest_weights(distances, weights, float(weights.sum()) - byzantine_weight)
    return math.sqrt(float((kept * distances.square()).sum()) / byzantine_weight)


@dataclass(frozen=True, slots=True)
class SelfCenteredClipping(PeerStrategy[None]):
    r"""Clip every neighbour's offset to radius ``tau`` before mixing it in.

    .. math:: \theta_i^{t+1} = h_i + \sum_{j \in N_i} w_{ij} \, \mathrm{clip}(h_j - h_i, \tau), \qquad
              \mathrm{clip}(v, \tau) = v \min(1, \tau / \|v\|)

    with Metropolis-Hastings weights. Stateless. An empty inbox leaves the node where it is; ``tau = inf`` is plain
    gossip, ``tau -> 0`` the own model. ``adaptive`` is the rule that the authors use in practice, since the radius of
    their theory depends on who is honest: :math:`\tau_i` of :func:`adaptive_radius`, where :math:`\delta_i` is the
    weight of the ``f`` heaviest neighbours. With ``f = 0`` that is gossip; where :math:`\delta_i` is the whole weight
    of the neighbours it is the own model. The weights it reports are :math:`w_{ij} \min(1, \tau / \|h_j - h_i\|)`.

    Convention: the authors' first code took the second largest distance as radius; this is not it.

    Args:
        tau: Clipping radius, in the units of the vectors: positive, or ``adaptive``.

    Raises:
        ConfigurationError: ``tau`` is not positive.

    References:
        He, Karimireddy, Jaggi, *Byzantine-Robust Decentralized Learning via Self-Centered Clipping*, 2022.
        https://arxiv.org/abs/2202.01545
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    tau: float | Literal["adaptive"] = "adaptive"

    def __post_init__(self) -> None:
        if self.tau != "adaptive" and not self.tau > 0:
            raise ConfigurationError(f"tau must be positive, got {self.tau}")

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return the own model plus the clipped and weighted offsets."""
        weights = inbox.mixing_weights
        distances = distances_to(inbox.own.vector, [update.vector for update in inbox.received])
        tau = self.tau
        if tau == "adaptive":
            tau = adaptive_radius(distances, weights, largest_weights(weights, ctx.budget))
        factors = clip_factors(distances, tau)
        scores = {"distance": by_sender(inbox, 0.0, distances), "clipped-to": by_sender(inbox, 1.0, factors)}
        return anchored(inbox, weights * factors, state, scores)
