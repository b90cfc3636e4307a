"""GTS robust gossip: geometric trimming, the weighted form of nearest-neighbour averaging on sparse graphs."""

from dataclasses import dataclass
from typing import ClassVar

from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.clipping import anchored, by_sender, largest_weights, nearest_weights
from flower_dfl.strategies.kernels import distances_to
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["Gts"]


@dataclass(frozen=True, slots=True)
class Gts(PeerStrategy[None]):
    r"""Drop the farthest neighbours of total weight ``b_i`` and gossip with the others.

    .. math:: \theta_i^{t+1} = h_i + \sum_{j \in N_i} w'_{ij} (h_j - h_i)

    where :math:`w'` are the Metropolis-Hastings weights without the weight ``b_i`` of the farthest neighbours; the
    neighbour on the boundary keeps the part of its weight that fits. What is dropped stays with the own model. The
    Byzantine weight ``b_i`` is what the ``f`` heaviest neighbours weigh. Stateless, without parameters, step size 1.
    An empty inbox leaves the node where it is; ``f = 0`` is gossip, ``f`` = all neighbours is the own model.

    Guarantee: :math:`\|F - \sum_{j \in H} w_{ij} z_j\|^2 \le 4 b_i \sum_{j \in H} w_{ij} \|z_j\|^2` for
    :math:`z_j = h_i - h_j` and the honest neighbours ``H``.

    References:
        Gaucher, Dieuleveut, Hendrikx, *Unified Breakdown Analysis for Byzantine Robust Gossip*, ICML 2025.
        https://arxiv.org/abs/2410.10418
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return the gossip average over the nearest neighbours."""
        weights = inbox.mixing_weights
        distances = distances_to(inbox.own.vector, [update.vector for update in inbox.received])
        kept = nearest_weights(distances, weights, float(weights.sum()) - largest_weights(weights, ctx.budget))
        return anchored(inbox, kept, state, {"distance": by_sender(inbox, 0.0, distances)})
