"""Krum: adopts the one model that has the nearest neighbours."""

from dataclasses import dataclass
from typing import ClassVar

from flower_dfl.errors import ByzantineBudgetError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.kernels import krum_order, krum_scores, pairwise_distances
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["Krum"]


@dataclass(frozen=True, slots=True)
class Krum(PeerStrategy[None]):
    r"""Adopt the member of the closed neighbourhood with the smallest Krum score.

    .. math:: \theta_i^{t+1} = h_{k^*}, \quad k^* = \arg\min_{k \in G_i} s_k, \quad
              s_k = \sum_{l \in N_k} \|h_k - h_l\|_2^2

    where :math:`N_k` holds the ``n - f - 2`` nearest other members of :math:`h_k`, ``n`` = :math:`|G_i|`. Scores are in
    squared units of the vectors. Stateless, without parameters. Of equal scores the one with the nearer next neighbours
    wins, then the node itself, then the lowest id. An empty inbox leaves the node where it is; so does a single
    neighbour with ``f = 0``, since one nearest other is always counted and both scores are then equal.

    Convention: ``n - f - 2`` neighbours and squared distances, as in the paper and in Flower. ByzFL and ByzPy count
    ``n - f - 1``, others ``n - f - 3`` or unsquared distances: these pick other models in a good share of all draws.

    Raises:
        ByzantineBudgetError: ``n < 2f + 3`` with ``f > 0``.

    References:
        Blanchard, El Mhamdi, Guerraoui, Stainer, *Machine Learning with Adversaries: Byzantine Tolerant Gradient
        Descent*, NeurIPS 2017. https://arxiv.org/abs/1703.02757
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return a copy of the member with the smallest score."""
        members, f = inbox.members, ctx.budget
        n, own = len(members), members.index(inbox.own)
        if f > 0 and n < 2 * f + 3:
            raise ByzantineBudgetError(f"Krum needs n >= 2f + 3, got n={n}, f={f}")
        distances = pairwise_distances([u.vector for u in members], own).cpu()
        scores, winner = krum_scores(distances, n - f - 2), krum_order(distances, n - f - 2, own)[0]
        senders = [u.sender for u in members]
        return Aggregate(
            vector=members[winner].vector.clone(),
            state=state,
            weights={sender: float(k == winner) for k, sender in enumerate(senders)},
            scores={"krum": dict(zip(senders, scores.tolist(), strict=True))},
        )
