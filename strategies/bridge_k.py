"""BRIDGE-K: Krum among the neighbours."""

from dataclasses import dataclass
from typing import ClassVar

from flower_dfl.errors import ByzantineBudgetError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.kernels import krum_order, krum_scores, pairwise_distances
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["BridgeK"]


@dataclass(frozen=True, slots=True)
class BridgeK(PeerStrategy[None]):
    r"""Adopt the neighbour with the smallest Krum score among the neighbours.

    .. math:: \theta_i^{t+1} = h_{j^*}, \quad j^* = \arg\min_{j \in N_i} s_j, \quad
              s_j = \sum_{l \in N_j'} \|h_j - h_l\|_2^2

    where :math:`N_j'` holds the ``m - b - 2`` other neighbours nearest to :math:`h_j` (at least one), of ``m``
    neighbours, and ``b`` is the budget. Scores are in squared units of the vectors. Stateless, without parameters. Of
    equal scores the one with the nearer next neighbours wins, then the lowest id. An empty inbox leaves the node where
    it is; with ``b = 0`` a single neighbour is adopted.

    Convention: the node's own model is neither a candidate nor a witness; ``krum`` runs on the closed neighbourhood.
    The paper asks for ``b + 3`` neighbours, which makes the rule well-defined; Krum's own guarantee needs ``2b + 3``.
    BRIDGE takes its gradient step after screening, at the old model; here the half-steps are screened.

    Raises:
        ByzantineBudgetError: ``m < b + 3`` with ``b > 0``.

    References:
        Fang, Yang, Bajwa, *BRIDGE: Byzantine-Resilient Decentralized Gradient Descent*, IEEE TSIPN 2022.
        https://arxiv.org/abs/1908.08098
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return a copy of the neighbour with the smallest score."""
        own, received, b = inbox.own, inbox.received, ctx.budget
        m = len(received)
        if b > 0 and m < b + 3:
            raise ByzantineBudgetError(f"BRIDGE-K needs |N| >= b + 3, got |N|={m}, b={b}")
        if m == 0:
            return Aggregate(own.vector.clone(), state, {own.sender: 1.0})
        distances = pairwise_distances([own.vector, *(u.vector for u in received)], 0)[1:, 1:].cpu()
        scores, winner = krum_scores(distances, m - b - 2), krum_order(distances, m - b - 2)[0]
        return Aggregate(
            vector=received[winner].vector.clone(),
            state=state,
            weights={own.sender: 0.0} | {u.sender: float(k == winner) for k, u in enumerate(received)},
            scores={"krum": {u.sender: score for u, score in zip(received, scores.tolist(), strict=True)}},
        )
