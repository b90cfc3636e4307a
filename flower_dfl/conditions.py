"""What goes wrong between nodes: who is away, who straggles, which messages are lost. A pure function of the seed."""

import functools
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from flower_dfl import randomness
from flower_dfl.config import NetworkConfig
from flower_dfl.types import NodeId

__all__ = ["Conditions", "Fate"]

Fate: TypeAlias = Literal["delivered", "late", "dropped", "split", "absent"]
"""What becomes of one message: it arrives at once, one round late, or never, for the reason named."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """The network's troubles in every round.

    Attributes:
        config: How often what goes wrong.
        num_nodes: Number of nodes.
        seed: Seed of the run.
    """

    config: NetworkConfig
    num_nodes: int
    seed: int

    def is_present(self, node: NodeId, round: int) -> bool:
        """Return whether a node takes part in a round: it did not leave in this one, nor too recently."""
        if self.config.churn == 0:
            return True
        recent = range(max(1, round - self.config.absence + 1), round + 1)
        return not any(self._happens(self.config.churn, "leave", past, node) for past in recent)

    def fate(self, sender: NodeId, receiver: NodeId, round: int) -> Fate:
        """Return what becomes of the message from ``sender`` to ``receiver`` in a round."""
        config = self.config
        if not self.is_present(sender, round):
            return "absent"
        if config.split_start <= round <= config.split_stop and self._part(sender) != self._part(receiver):
            return "split"
        if self._happens(config.drop_rate, f"drop-to-{receiver}", round, sender):
            return "dropped"
        return "late" if self.is_late(sender, round) else "delivered"

    def is_late(self, node: NodeId, round: int) -> bool:
        """Return whether what a node sends in a round arrives in the next one."""
        return self._happens(self.config.late_rate, "late", round, node)

    def _part(self, node: NodeId) -> int:
        return _parts(self.num_nodes, self.config.split_parts, self.seed)[node]

    def _happens(self, rate: float, purpose: str, round: int, node: NodeId) -> bool:
        return rate > 0 and randomness.integer(self.seed, purpose, round, node) < rate * 2**32


@functools.lru_cache(maxsize=8)
def _parts(num_nodes: int, parts: int, seed: int) -> tuple[int, ...]:
    """Deal the nodes to the parts of a split network."""
    order = torch.randperm(num_nodes, generator=randomness.generator(seed, "split")).tolist()
    return tuple(place % parts for place in order)
