"""The coordinate-wise trimmed mean."""

from dataclasses import dataclass
from typing import ClassVar

from flower_dfl.errors import ByzantineBudgetError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.kernels import trimmed_mean_and_shares
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["TrimmedMean"]


@dataclass(frozen=True, slots=True)
class TrimmedMean(PeerStrategy[None]):
    r"""Average each coordinate over the closed neighbourhood without its ``f`` smallest and ``f`` largest values.

    .. math:: \theta_i^{t+1}[c] = \frac{1}{n - 2f} \sum_{r = f + 1}^{n - f} h_{(r)}[c]

    where :math:`h_{(r)}[c]` is the ``r``-th smallest value of coordinate ``c``, ``n`` = :math:`|G_i|`. Every coordinate
    lies within the honest ones' range. Stateless, without parameters. An empty inbox leaves the node where it is;
    ``f = 0`` is the plain mean. A member's weight is its share of the values that were averaged.

    Convention: the budget is a count per end. Flower's FedTrimmedAvg and SciPy take a fraction of ``n`` and round it
    down, so that ``f / n`` may trim one value too few. The node's own values may be trimmed; BRIDGE-T never trims them.

    Raises:
        ByzantineBudgetError: ``n < 2f + 1`` with ``f > 0``.

    References:
        Yin, Chen, Kannan, Bartlett, *Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates*,
        ICML 2018. https://arxiv.org/abs/1803.01498
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return the trimmed mean of own and received models."""
        members, f = inbox.members, ctx.budget
        n = len(members)
        if f > 0 and n < 2 * f + 1:
            raise ByzantineBudgetError(f"the trimmed mean needs n >= 2f + 1, got n={n}, f={f}")
        vector, shares = trimmed_mean_and_shares([u.vector for u in members], f)
        return Aggregate(vector, state, dict(zip((u.sender for u in members), shares.tolist(), strict=True)))
