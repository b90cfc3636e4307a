"""The coordinate-wise median."""

from dataclasses import dataclass
from typing import ClassVar

from flower_dfl.errors import ByzantineBudgetError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.kernels import trimmed_mean_and_shares
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["Median"]


@dataclass(frozen=True, slots=True)
class Median(PeerStrategy[None]):
    r"""Take the median of each coordinate over the closed neighbourhood.

    .. math:: \theta_i^{t+1}[c] = \mathrm{median} \{h_k[c] : k \in G_i\}

    With an honest majority every coordinate lies within the honest ones' range. Stateless, without parameters; the
    budget is only checked. An empty inbox leaves the node where it is; two members are averaged. A member's weight is
    its share of the coordinates (of their middle values) that it supplied.

    Convention: the median of an even number is the mean of the two middle values, as in NumPy and in Flower's
    FedMedian. ByzFL follows ``torch.median``, which takes the lower one.

    Raises:
        ByzantineBudgetError: ``n < 2f + 1`` with ``f > 0``.

    References:
        Yin, Chen, Kannan, Bartlett, *Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates*,
        ICML 2018. https://arxiv.org/abs/1803.01498
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return the median of own and received models."""
        members, f = inbox.members, ctx.budget
        n = len(members)
        if f > 0 and n < 2 * f + 1:
            raise ByzantineBudgetError(f"the median needs n >= 2f + 1, got n={n}, f={f}")
        vector, shares = trimmed_mean_and_shares([u.vector for u in members], (n - 1) // 2)
        return Aggregate(vector, state, dict(zip((u.sender for u in members), shares.tolist(), strict=True)))
