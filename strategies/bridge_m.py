"""BRIDGE-M: the coordinate-wise median, which needs no budget."""

from dataclasses import dataclass
from typing import ClassVar

from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.kernels import trimmed_mean_and_shares
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["BridgeM"]


@dataclass(frozen=True, slots=True)
class BridgeM(PeerStrategy[None]):
    r"""Take the median of each coordinate over the closed neighbourhood, whatever the budget.

    .. math:: \theta_i^{t+1}[c] = \mathrm{median} \{h_k[c] : k \in N_i \cup \{i\}\}

    The same numbers as the strategy ``median``, which refuses a neighbourhood without an honest majority where this one
    goes on unprotected. Stateless, without parameters. An empty inbox leaves the node where it is; two members are
    averaged. A member's weight is its share of the coordinates (of their middle values) that it supplied.

    Convention: the median of an even number is the mean of the two middle values. BRIDGE takes its gradient step after
    screening, at the old model; here the half-steps are screened, as everywhere in this package.

    References:
        Fang, Yang, Bajwa, *BRIDGE: Byzantine-Resilient Decentralized Gradient Descent*, IEEE TSIPN 2022.
        https://arxiv.org/abs/1908.08098
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return the median of own and received models."""
        del ctx
        members = inbox.members
        vector, shares = trimmed_mean_and_shares([u.vector for u in members], (len(members) - 1) // 2)
        return Aggregate(vector, state, dict(zip((u.sender for u in members), shares.tolist(), strict=True)))
