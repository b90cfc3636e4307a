"""Bulyan: repeated Krum, then the mean around the median."""

from dataclasses import dataclass
from typing import ClassVar

from flower_dfl.errors import ByzantineBudgetError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.kernels import mean_around_median_and_shares, pairwise_distances, repeated_krum
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["Bulyan"]


@dataclass(frozen=True, slots=True)
class Bulyan(PeerStrategy[None]):
    r"""Select by repeated Krum, then average in each coordinate the values nearest to the median.

    1. ``n - 2f`` times: move the member that Krum picks among those left into the selection :math:`S`.
    2. :math:`\theta_i^{t+1}[c]` is the mean of the ``n - 4f`` values :math:`h_k[c], k \in S`, that are nearest to their
       median.

    ``n`` = :math:`|G_i|`. A model that is close in most coordinates and far in one passes step 1, not step 2.
    Stateless, without parameters. All picks share one computation of the distances; ties as in Krum. An empty inbox
    leaves the node where it is; ``f = 0`` is the plain mean. A member's weight is its share of the values that were
    averaged.

    Convention: it iterates, as El Mhamdi et al. do; of ``r`` members left, the ``r - f - 2`` nearest others count (at
    least one). Flower ranks all members once instead, and ByzPy and others differ again.

    Raises:
        ByzantineBudgetError: ``n < 4f + 3`` with ``f > 0``.

    References:
        El Mhamdi, Guerraoui, Rouault, *The Hidden Vulnerability of Distributed Learning in Byzantium*, ICML 2018.
        https://arxiv.org/abs/1802.07927
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return the mean around the median of the selected members."""
        members, f = inbox.members, ctx.budget
        n, own = len(members), members.index(inbox.own)
        if f > 0 and n < 4 * f + 3:
            raise ByzantineBudgetError(f"Bulyan needs n >= 4f + 3, got n={n}, f={f}")
        rows = [u.vector for u in members]
        selected = sorted(repeated_krum(pairwise_distances(rows, own).cpu(), f, n - 2 * f, own))
        vector, shares = mean_around_median_and_shares([rows[k] for k in selected], n - 4 * f)
        weights = dict.fromkeys((u.sender for u in members), 0.0)
        weights |= {members[k].sender: share for k, share in zip(selected, shares.tolist(), strict=True)}
        return Aggregate(vector, state, weights)
