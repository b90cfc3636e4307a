"""Scheduled: any attack, in some of the rounds only."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flower_dfl import randomness
from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import Attack
from flower_dfl.types import AttackContext, AttackView, Knowledge, LabelledData, NodeId, Trigger

__all__ = ["Scheduled"]


@dataclass(frozen=True, slots=True)
class Scheduled(Attack):
    """Attack in the rounds ``start`` to ``stop``, in a random share of them; follow the protocol otherwise.

    In a round without attack the clean data are trained on and the half-step is sent as it is. Every round is drawn by
    itself, with probability ``share``, and alike for all attackers. The defaults are the inner attack.

    Args:
        attack: The attack; in configurations a name, or ``{name = "alie", params = {}}``.
        start: First round with the attack, at least 1.
        stop: Last one, not before ``start``; None is the end of the run.
        share: Probability of a round between these, in (0, 1].
    """

    attack: Attack
    start: int = 1
    stop: int | None = None
    share: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.attack, Attack):
            raise ConfigurationError(f"attack must be an attack, got {self.attack!r}")
        if self.start < 1:
            raise ConfigurationError(f"start must be at least 1, got {self.start}")
        if self.stop is not None and self.stop < self.start:
            raise ConfigurationError(f"stop must not be before start, got start={self.start}, stop={self.stop}")
        if not 0 < self.share <= 1:
            raise ConfigurationError(f"share must be in (0, 1], got {self.share}")

    @property
    def knowledge(self) -> Knowledge:
        """The inner attack's."""
        return self.attack.knowledge

    @property
    def trigger(self) -> Trigger | None:
        """The inner attack's."""
        return self.attack.trigger

    def is_active(self, round: int, seed: int) -> bool:
        """Return whether the attack takes place in a round of a run."""
        if round < self.start or (self.stop is not None and round > self.stop):
            return False
        draw = torch.rand((), generator=randomness.generator(seed, "scheduled", round), dtype=torch.float64)
        return float(draw) < self.share

    def poison(self, data: LabelledData, ctx: AttackContext) -> LabelledData:
        """Return what the inner attack makes of the data, or the data themselves."""
        return self.attack.poison(data, ctx) if self.is_active(ctx.round, ctx.seed) else data

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the inner attack's message, or the own half-step ``(d,)``."""
        return self.attack.craft(view, receiver, ctx) if self.is_active(ctx.round, ctx.seed) else view.own.vector
