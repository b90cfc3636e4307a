"""Plain averaging, the paper's *DFL*: trusts everybody."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.kernels import weighted_mean
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["Average"]


@dataclass(frozen=True, slots=True)
class Average(PeerStrategy[None]):
    r"""Average the closed neighbourhood (plain DFL; not robust).

    .. math:: \theta_i^{t+1} = \sum_{k \in G_i} w_{ik} \, h_k

    Stateless. An empty inbox leaves the node where it is.

    Args:
        weights: ``uniform`` is :math:`w_{ik} = 1/|G_i|`, the consensus update of eq. 3 in Sun et al., CVPR 2024;
            ``metropolis`` is :math:`w_{ij} = 1/(1 + \max(d_i, d_j))`, which keeps the mean of all nodes on a static
            graph.

    References:
        Xiao, Boyd, *Fast linear iterations for distributed averaging*, 2004.
        https://doi.org/10.1016/j.sysconle.2004.02.022
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    weights: Literal["uniform", "metropolis"] = "uniform"

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return the weighted mean of own and received models."""
        del ctx
        mixing = inbox.mixing_weights.tolist()
        weights = {update.sender: weight for update, weight in zip(inbox.received, mixing, strict=True)}
        weights[inbox.own.sender] = 1.0 - sum(mixing)
        members = inbox.members
        if self.weights == "uniform":
            weights = dict.fromkeys(weights, 1 / len(members))
        vector = weighted_mean([u.vector for u in members], [weights[u.sender] for u in members])
        return Aggregate(vector, state, weights)
