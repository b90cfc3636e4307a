"""Dissensus: cancels or reverses the receiver's gossip."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from flower_dfl.attacks.observation import (
    Weighting,
    combine,
    mixing_weights,
    neighbourhood,
    senders,
    weight_of_attackers,
)
from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import Attack
from flower_dfl.types import AttackContext, AttackView, Knowledge, NodeId
from flower_dfl.validation import check_known

__all__ = ["Dissensus"]


@dataclass(frozen=True, slots=True)
class Dissensus(Attack):
    r"""Pull the receiver away from its honest neighbours as much as they pull it towards them (untargeted).

    .. math:: m_i = h_i - \epsilon \,
              \frac{\sum_{k \in N_i \cap H} w_{ik} (h_k - h_i)}{\sum_{b \in N_i \cap B} w_{ib}}

    Under gossip averaging ``epsilon = 1`` leaves every receiver at its own half-step: nobody hears anybody. Above one
    honest models are driven apart. Without a Byzantine neighbour, or without the receiver's half-step, the attacker's
    own half-step is sent.

    Args:
        epsilon: How much of the honest pull is taken back. Positive.
        weights: The receiver's gossip weights: ``metropolis``, or ``uniform`` for the plain mean.

    References:
        He, Karimireddy, Jaggi, *Byzantine-Robust Decentralized Learning via Self-Centered Clipping*, 2022.
        https://arxiv.org/abs/2202.01545
    """

    knowledge: ClassVar[Knowledge] = Knowledge.OMNISCIENT
    epsilon: float = 1.0
    weights: Weighting = "metropolis"

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < float("inf"):
            raise ConfigurationError(f"epsilon must be positive and finite, got {self.epsilon}")
        check_known("weights", self.weights, ["metropolis", "uniform"])

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the receiver's half-step minus the scaled honest pull ``(d,)``."""
        rows = {u.sender: u.vector for u in neighbourhood(view, receiver, ctx)}
        weights = mixing_weights(ctx, receiver, self.weights, senders(view))
        byzantine = weight_of_attackers(ctx, weights)
        if receiver not in rows or byzantine == 0:
            return view.own.vector
        shares = {node: -self.epsilon * weights[node] / byzantine for node in rows if node != receiver}
        shares[receiver] = 1 - sum(shares.values())
        return combine(list(rows.values()), [shares[node] for node in rows])
