"""The seam between a node's steps and the medium."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch

from flower_dfl.codec import Tree, split, unite
from flower_dfl.training import ModelState
from flower_dfl.types import NodeId, Update

__all__ = ["Memory", "Transport"]


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """What a node keeps between two messages.

    Attributes:
        start: Start-of-round model, the result of the last aggregation.
        half_step: Its own half-step, with base; None once training is over.
        integer_buffers: Integer buffers after training.
        strategy_state: What the rule remembers.
        train_seconds: Time that training took.
    """

    start: ModelState
    half_step: Update | None
    strategy_state: Any
    train_seconds: float = 0.0

    def to_tree(self) -> Tree:
        """Return the values as a tree; the half-step's base is the start and is not written twice."""
        half = self.half_step
        return {
            "start": (self.start.vector, self.start.buffers, self.start.integer_buffers),
            "half_step": None if half is None else update_to_tree(half, with_base=False, with_digest=True),
            "strategy_state": self.strategy_state,
            "train_seconds": self.train_seconds,
        }

    def to(self, device: torch.device) -> "Memory":
        """Return the same memory on ``device``: transports bring it back on the CPU."""
        if self.start.vector.device == device:
            return self
        skeleton, tensors = split(self.strategy_state)
        return replace(
            self,
            start=self.start.to(device),
            half_step=None if self.half_step is None else self.half_step.to(device),
            strategy_state=unite(skeleton, [tensor.to(device) for tensor in tensors]),
        )

    @classmethod
    def from_tree(cls, tree: Tree) -> "Memory":
        """Undo :meth:`to_tree`."""
        start = ModelState(*tree["start"])
        half = tree["half_step"]
        return cls(
            start,
            None if half is None else update_from_tree(half | {"base": start.vector}),
            tree["strategy_state"],
            tree["train_seconds"],
        )


class Transport(Protocol):
    """Delivers letters and keeps memories. Every wait inside is bounded."""

    shares_digests: ClassVar[bool]
    """Whether the sender's side may compute digests for all receivers (a simulation's shortcut)."""

    def recall(self, node: NodeId, round: int) -> Memory:
        """Return what the node remembered in a round."""
        ...

    def remember(self, node: NodeId, round: int, memory: Memory) -> None:
        """Keep the node's memory of a round."""
        ...

    def publish(self, sender: NodeId, round: int, letters: Mapping[NodeId, Update]) -> None:
        """Send one letter to each receiver."""
        ...

    def collect(self, receiver: NodeId, round: int, senders: Iterable[NodeId]) -> tuple[Update, ...]:
        """Return the letters of a round that have arrived; a letter that never came is simply missing."""
        ...

    def half_steps(self, nodes: Iterable[NodeId], round: int) -> tuple[Update, ...]:
        """Return other nodes' own half-steps, in order: what an adversary with knowledge sees."""
        ...


def update_to_tree(update: Update, *, with_base: bool, with_digest: bool) -> Tree:
    """Return a message as a tree."""
    tree = {
        "sender": update.sender,
        "round": update.round,
        "vector": update.vector,
        "buffers": update.buffers,
        "num_examples": update.num_examples,
        "epochs": update.epochs,
        "batch_size": update.batch_size,
    }
    if with_base and update.base is not None:
        tree["base"] = update.base
    if with_digest and update.digest is not None:
        tree["digest"] = update.digest
    return tree


def update_from_tree(tree: Tree) -> Update:
    """Undo :func:`update_to_tree`; a key that is unknown or missing raises TypeError."""
    return Update(**tree)
