"""The Krum attack: makes Krum adopt a model that was moved against the honest direction."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from flower_dfl.attacks.observation import (
    KNOWLEDGE,
    Level,
    Observation,
    check_level,
    craft_columns,
    observe,
    update_columns,
)
from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import Attack
from flower_dfl.strategies.kernels import krum_order, pairwise_distances
from flower_dfl.types import AttackContext, AttackView, Knowledge, NodeId

__all__ = ["KrumAttack"]


@dataclass(frozen=True, slots=True)
class KrumAttack(Attack):
    r"""Send the point farthest against the mean update's signs that Krum still adopts (untargeted).

    .. math:: m = o - \lambda s, \qquad s = \operatorname{sign} \frac{1}{|S|} \sum_{k \in S} (h_k - o)

    All attackers send the same point, which is how it wins: the copies are each other's nearest neighbours. From

    .. math:: \lambda_{\max} = \frac{\min_k \sum_{l \in \Gamma_k} \|h_l - h_k\|}{\max(1, |S| - c - 1) \sqrt d}
              + \frac{\max_k \|h_k - o\|}{\sqrt d}

    :math:`\lambda` is halved until Krum, played through on the seen models and ``c`` copies, adopts one of these
    (:math:`\Gamma_k`: the ``|S| - 2`` nearest others).

    - ``full``: ``S`` are the honest members of the receiver's closed neighbourhood, ``c`` counts its Byzantine
      neighbours who take part, and ``o`` is the receiver's start-of-round model.
    - ``partial``: ``S`` are the half-steps of all Byzantine nodes, taken for honest ones, ``o`` is the mean of their
      starts, and ``c`` = 1, 2, ... copies are tried until one is adopted.

    Krum is played with the largest budget that it accepts: up to the Byzantine neighbours in the graph, who count for
    the receiver also while they are away (``full``), or up to ``c`` (``partial``). If it adopts no copy, the one with
    the smallest :math:`\lambda` tried is sent: a model close to the origin.

    Convention: the direction is that of the mean instead of a Krum winner's, and of every coordinate; published code
    masks half of them by mistake. Factor and sum are over distances, not squared ones, as in the authors' code.

    Args:
        threshold: The search ends below this :math:`\lambda`, in the units of the models. Positive.
        knowledge_level: Whose models are seen.

    References:
        Fang, Cao, Jia, Gong, *Local Model Poisoning Attacks to Byzantine-Robust Federated Learning*, USENIX Security
        2020. https://www.usenix.org/conference/usenixsecurity20/presentation/fang
    """

    threshold: float = 1e-5
    knowledge_level: Level = "full"

    def __post_init__(self) -> None:
        if not 0 < self.threshold < float("inf"):
            raise ConfigurationError(f"threshold must be positive and finite, got {self.threshold}")
        check_level(self.knowledge_level)

    @property
    def knowledge(self) -> Knowledge:
        """What the knowledge level asks for."""
        return KNOWLEDGE[self.knowledge_level]

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the displaced origin ``(d,)``; the own half-step for a receiver without Byzantine neighbours."""
        seen = observe(view, receiver, ctx, self.knowledge_level)
        byzantine = ctx.neighbours[receiver] & ctx.byzantine
        if seen is None or not byzantine:
            return view.own.vector
        full = self.knowledge_level == "full"
        own = seen.senders.index(receiver) if receiver in seen.senders else None
        game = _Game.on(seen, own)
        factor = 0.0
        sent = sum(u.sender in byzantine for u in view.byzantine)
        for copies in [sent] if full else range(1, len(seen.rows) + 1):
            faulty = len(byzantine) if full else copies
            for factor in self._factors(game.largest_factor(copies)):
                if game.adopts_copy(factor, copies, faulty):
                    return self._displaced(seen, factor)
        return self._displaced(seen, factor)

    def _factors(self, largest: float) -> Iterator[float]:
        yield largest
        while largest > self.threshold:
            largest /= 2
            yield largest

    def _displaced(self, seen: Observation, factor: float) -> Tensor:
        return craft_columns(seen, lambda updates, _: -factor * updates.mean(dim=0).sign())


@dataclass(frozen=True, slots=True, eq=False)
class _Game:
    """Krum on the seen models and copies of the displaced origin, from inner products alone.

    Attributes:
        distances: Between the seen models ``(n, n)``.
        norms: Their squared distances from the origin ``(n,)``.
        along: Inner products of their updates and the direction ``(n,)``.
        length: Squared norm of the direction.
        dimension: Number of parameters.
        own: Position of the receiver, who wins ties.
    """

    distances: Tensor
    norms: Tensor
    along: Tensor
    length: float
    dimension: int
    own: int | None

    @classmethod
    def on(cls, seen: Observation, own: int | None) -> "_Game":
        """Measure the seen models."""
        norms, along = (torch.zeros(len(seen.rows), dtype=torch.float64, device=seen.origin.device) for _ in range(2))
        length = 0.0
        for _, updates in update_columns(seen):
            direction = updates.mean(dim=0).sign()
            norms += updates.square().sum(dim=1)
            along += (updates * direction).sum(dim=1)
            length += float(direction.square().sum())
        distances = pairwise_distances(seen.rows, 0 if own is None else own).cpu()
        return cls(distances, norms.cpu(), along.cpu(), length, seen.origin.numel(), own)

    def largest_factor(self, copies: int) -> float:
        """Return the published upper bound of the displacement."""
        n = len(self.distances)
        nearest = self.distances.sort(dim=1).values[:, 1 : max(n - 1, 1)]  # (n, n - 2): itself comes first
        first = float(nearest.sum(dim=1).min()) / max(1, n - copies - 1)
        return (first + math.sqrt(float(self.norms.max()))) / math.sqrt(self.dimension)

    def adopts_copy(self, factor: float, copies: int, faulty: int) -> bool:
        """Return whether Krum's winner is a copy, where it withstands ``faulty`` or as many as it can."""
        seen = len(self.distances)
        n = seen + copies
        budget = max(0, min(faulty, (n - 3) // 2))
        to_copy = (self.norms + 2 * factor * self.along + factor**2 * self.length).clamp(min=0).sqrt()  # (n - copies,)
        distances = torch.zeros(n, n, dtype=torch.float64)
        distances[:seen, :seen] = self.distances
        distances[:seen, seen:] = to_copy[:, None]
        distances[seen:, :seen] = to_copy[None, :]
        return krum_order(distances, n - budget - 2, self.own)[0] >= seen
