"""Isolation: makes the receiver's average come out at a chosen model."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
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

__all__ = ["Isolation"]


@dataclass(frozen=True, slots=True)
class Isolation(Attack):
    r"""Solve the receiver's weighted mean for the one message that puts it where the attackers want it (untargeted).

    .. math:: m_i = \frac{t_i - w_{ii} h_i - \sum_{k \in N_i \cap H} w_{ik} h_k}{\sum_{b \in N_i \cap B} w_{ib}}

    ``target = "own"``, :math:`t_i = h_i`, cuts the receiver off from everybody, and is dissensus with ``epsilon = 1``;
    ``"base"``, its start-of-round model, also undoes what it has just learned; ``"zero"`` is the zero-sum attack.
    Without a Byzantine neighbour, or without the receiver's half-step, the attacker's own half-step is sent.

    Args:
        target: Where the receiver's average is put.
        weights: The receiver's gossip weights: ``metropolis``, or ``uniform`` for the plain mean.

    References:
        Wu, Chen, Ling, *Byzantine-Resilient Decentralized Stochastic Optimization With Robust Aggregation Rules*, IEEE
        TSP 2023. https://arxiv.org/abs/2206.04568
    """

    knowledge: ClassVar[Knowledge] = Knowledge.OMNISCIENT
    target: Literal["own", "base", "zero"] = "own"
    weights: Weighting = "metropolis"

    def __post_init__(self) -> None:
        check_known("target", self.target, ["own", "base", "zero"])
        check_known("weights", self.weights, ["metropolis", "uniform"])

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the message with which the receiver's weighted mean is the target ``(d,)``."""
        members = {u.sender: u for u in neighbourhood(view, receiver, ctx)}
        weights = mixing_weights(ctx, receiver, self.weights, senders(view))
        byzantine = weight_of_attackers(ctx, weights)
        if receiver not in members or byzantine == 0:
            return view.own.vector
        honest = {node: weights[node] for node in members if node != receiver}
        honest[receiver] = 1 - byzantine - sum(honest.values())
        target = self._target(members[receiver].vector, members[receiver].base)
        rows = [target, *(u.vector for u in members.values())]
        return combine(rows, [1 / byzantine, *(-honest[node] / byzantine for node in members)])

    def _target(self, half_step: Tensor, base: Tensor | None) -> Tensor:
        if self.target == "own":
            return half_step
        if self.target == "zero":
            return torch.zeros_like(half_step)
        if base is None:
            raise ConfigurationError('isolation with target "base" needs the receiver\'s start-of-round model')
        return base
