"""Centred clipping: no member moves the model further than the clipping radius allows."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.kernels import distances_to_point, gram, weighted_mean
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["CenteredClipping"]


@dataclass(frozen=True, slots=True)
class CenteredClipping(PeerStrategy[None]):
    r"""Average the closed neighbourhood after clipping its members' offsets from the last aggregate.

    .. math:: v \leftarrow v + \frac{1}{n} \sum_{k \in G_i} (h_k - v) \min(1, \tau / \|h_k - v\|_2), \qquad v_0 =
              \theta_i^t

    ``n`` = :math:`|G_i|`. A member moves the result by at most :math:`\tau / n` an iteration. Stateless, needs no
    Byzantine budget. An empty inbox leaves the node where it is; :math:`\tau = \infty` is the plain mean. Every iterate
    is a mix of the members and :math:`v_0`: the weights are the members' parts in it, the rest belongs to :math:`v_0`.

    Convention: the start is the node's start-of-round model, which is the aggregate of the round before, as in
    Karimireddy et al.; there, the vectors are gradients with momentum, here they are models. Self-centred clipping (He
    et al., 2022) starts from the own half-step and mixes with gossip weights; ByzFL starts from zero in the first
    round.

    Args:
        tau: Clipping radius, in the units of the vectors, positive. ``auto`` takes the lower median of the members'
            distances from the current :math:`v`, which with an honest majority is at most the farthest honest one's.
        iterations: Number of iterations. At least 1.
        start: ``base``, or ``own`` for the node's own half-step.

    References:
        Karimireddy, He, Jaggi, *Learning from History for Byzantine Robust Optimization*, ICML 2021.
        https://arxiv.org/abs/2012.10333
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    tau: float | Literal["auto"] = "auto"
    iterations: int = 1
    start: Literal["base", "own"] = "base"

    def __post_init__(self) -> None:
        if self.tau != "auto" and not self.tau > 0:
            raise ConfigurationError(f'tau must be "auto" or positive, got {self.tau}')
        if self.iterations < 1:
            raise ConfigurationError(f"iterations must be at least 1, got {self.iterations}")
        if self.start not in {"base", "own"}:
            raise ConfigurationError(f"start must be base or own, got {self.start!r}")

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return the clipped mean of own and received models."""
        members = inbox.members
        n, senders = len(members), [u.sender for u in members]
        if n == 1:
            return Aggregate(inbox.own.vector.clone(), state, {inbox.own.sender: 1.0})
        start = ctx.base if self.start == "base" else inbox.own.vector
        rows = [*(u.vector for u in members), start]  # n + 1: the last one is v_0
        products = gram(rows, start).cpu()
        weights = torch.zeros(n + 1, dtype=torch.float64)
        weights[n] = 1
        for _ in range(self.iterations):
            distances = distances_to_point(products, weights)[:n]
            tau = float(distances.median()) if self.tau == "auto" else self.tau
            pull = torch.where(distances <= tau, 1.0, tau / distances) / n
            weights *= 1 - pull.sum()
            weights[:n] += pull
        if math.isclose(float(weights[n]), 0.0, abs_tol=1e-12):
            weights[n] = 0
        return Aggregate(
            vector=weighted_mean(rows, weights.tolist()),
            state=state,
            weights=dict(zip(senders, weights[:n].tolist(), strict=True)),
            scores={"distance": dict(zip(senders, distances.tolist(), strict=True))},
        )
