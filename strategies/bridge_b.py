"""BRIDGE-B: repeated Krum among the neighbours, then BRIDGE-T on those picked."""

from dataclasses import dataclass
from typing import ClassVar

from flower_dfl.errors import ByzantineBudgetError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.kernels import (
    pairwise_distances,
    repeated_krum,
    trimmed_mean_and_shares,
    weighted_mean,
)
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["BridgeB"]


@dataclass(frozen=True, slots=True)
class BridgeB(PeerStrategy[None]):
    r"""Select neighbours by repeated Krum, then average the own model with the trimmed values of the selection.

    1. ``m - 2b`` times: move the neighbour that Krum picks among those left into the selection.
    2. In each coordinate, drop the ``b`` smallest and the ``b`` largest values of the selection:

    .. math:: \theta_i^{t+1}[c] = \frac{h_i[c] + \sum_{r = b + 1}^{m - 3b} h_{(r)}[c]}{m - 4b + 1}

    for ``m`` neighbours and the budget ``b``. Stateless, without parameters. All picks share one computation of the
    distances; ties as in BRIDGE-K. An empty inbox leaves the node where it is; ``b = 0`` is the plain mean. A
    neighbour's weight is its share of the values that were averaged; the node itself weighs ``1 / (m - 4b + 1)``.

    Convention: of ``r`` neighbours left, the ``r - b - 2`` nearest others count (at least one). Step 2 trims both ends;
    ``bulyan`` keeps what is nearest to the median, and treats the node like any member. With ``m = 4b`` nothing but the
    own model is left. BRIDGE takes its gradient step after screening, at the old model; here the half-steps are
    screened.

    Raises:
        ByzantineBudgetError: ``m < max(4b, 3b + 2)`` with ``b > 0``.

    References:
        Fang, Yang, Bajwa, *BRIDGE: Byzantine-Resilient Decentralized Gradient Descent*, IEEE TSIPN 2022.
        https://arxiv.org/abs/1908.08098
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return the mean of the own model and the trimmed selection."""
        own, received, b = inbox.own, inbox.received, ctx.budget
        m = len(received)
        if b > 0 and m < max(4 * b, 3 * b + 2):
            raise ByzantineBudgetError(f"BRIDGE-B needs |N| >= max(4b, 3b + 2), got |N|={m}, b={b}")
        kept = m - 4 * b
        weights = {own.sender: 1 / (kept + 1)} | dict.fromkeys((u.sender for u in received), 0.0)
        if kept == 0:
            return Aggregate(own.vector.clone(), state, weights)
        rows = [u.vector for u in received]
        distances = pairwise_distances([own.vector, *rows], 0)[1:, 1:].cpu()
        selected = sorted(repeated_krum(distances, b, m - 2 * b))
        trimmed, shares = trimmed_mean_and_shares([rows[k] for k in selected], b)
        weights |= {
            received[k].sender: share * kept / (kept + 1) for k, share in zip(selected, shares.tolist(), strict=True)
        }
        return Aggregate(weighted_mean([own.vector, trimmed], [1.0, kept]), state, weights)
