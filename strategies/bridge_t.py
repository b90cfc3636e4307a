"""BRIDGE-T: the node's own values with the trimmed values of its neighbours."""

from dataclasses import dataclass
from typing import ClassVar

from flower_dfl.errors import ByzantineBudgetError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.kernels import trimmed_mean_and_shares, weighted_mean
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["BridgeT"]


@dataclass(frozen=True, slots=True)
class BridgeT(PeerStrategy[None]):
    r"""Average the own model with the neighbours', without each coordinate's ``b`` smallest and largest neighbours.

    .. math:: \theta_i^{t+1}[c] = \frac{h_i[c] + \sum_{r = b + 1}^{m - b} h_{(r)}[c]}{m - 2b + 1}

    where :math:`h_{(r)}[c]` is the ``r``-th smallest value of coordinate ``c`` among the ``m`` neighbours and ``b`` is
    the budget. Stateless, without parameters. An empty inbox leaves the node where it is; ``b = 0`` is the plain mean.
    A neighbour's weight is its share of the values that were averaged; the node itself weighs ``1 / (m - 2b + 1)``.

    Convention: only neighbours are trimmed, never the node's own values; ``trimmed-mean`` trims both. BRIDGE takes its
    gradient step after screening, at the old model; here the half-steps are screened, as everywhere in this package.

    Raises:
        ByzantineBudgetError: ``m < 2b + 1`` with ``b > 0``.

    References:
        Fang, Yang, Bajwa, *BRIDGE: Byzantine-Resilient Decentralized Gradient Descent*, IEEE TSIPN 2022.
        https://arxiv.org/abs/1908.08098
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return the mean of the own model and the trimmed neighbours."""
        own, m, b = inbox.own, len(inbox.received), ctx.budget
        if b > 0 and m < 2 * b + 1:
            raise ByzantineBudgetError(f"BRIDGE-T needs |N| >= 2b + 1, got |N|={m}, b={b}")
        if m == 0:
            return Aggregate(own.vector.clone(), state, {own.sender: 1.0})
        kept = m - 2 * b
        trimmed, shares = trimmed_mean_and_shares([u.vector for u in inbox.received], b)
        weights = {
            u.sender: share * kept / (kept + 1) for u, share in zip(inbox.received, shares.tolist(), strict=True)
        }
        return Aggregate(
            vector=weighted_mean([own.vector, trimmed], [1.0, kept]),
            state=state,
            weights={own.sender: 1 / (kept + 1)} | weights,
        )
