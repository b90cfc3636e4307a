"""The seam between a node's steps and the medium."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from flower_dfl.codec import Tree, split, unite
from flower_dfl.training import ModelState
from flower_dfl.types import NodeId, Update

__all__ = ["Memory", "Transport", "distinct"]


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """What a node keeps between two messages.

    Attributes:
        round: Round that the node has entered with it.
        start: Start-of-round model, the result of the last aggregation.
        half_step: Its own half-step, with base; None where it takes no part in the round.
        strategy_state: What the rule remembers.
        integer_buffers: Integer buffers after training; None where the node did not train.
        seconds: Time that training and the digest took.
    """

    round: int
    start: ModelState
    half_step: Update | None
    strategy_state: Any
    integer_buffers: tuple[Tensor, ...] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_tree(self) -> Tree:
        """Return the values as a tree; the half-step's base is the start and is not written twice.

        The start's vector and buffers are its first two tensors.
        """
        half = self.half_step
        return {
            "start": (self.start.vector, self.start.buffers, self.start.integer_buffers),
            "round": self.round,
            "half_step": None if half is None else update_to_tree(half, with_base=False, with_digest=True),
            "strategy_state": self.strategy_state,
            "integer_buffers": self.integer_buffers,
            "seconds": dict(self.seconds),
        }

    def at_start(self) -> "Memory":
        """Return what is left if the node has closed the previous round and not yet trained: a checkpoint."""
        return Memory(self.round - 1, self.start, None, self.strategy_state)

    def to(self, device: torch.device) -> "Memory":
        """Return the same memory on ``device``: transports bring it back on the CPU."""
        if self.start.vector.device == device:
            return self
        skeleton, tensors = split(self.strategy_state)
        integers = self.integer_buffers
        return replace(
            self,
            start=self.start.to(device),
            half_step=None if self.half_step is None else self.half_step.to(device),
            strategy_state=unite(skeleton, [tensor.to(device) for tensor in tensors]),
            integer_buffers=None if integers is None else tuple(buffer.to(device) for buffer in integers),
        )

    @classmethod
    def from_tree(cls, tree: Tree) -> "Memory":
        """Undo :meth:`to_tree`."""
        start, half = ModelState(*tree["start"]), tree["half_step"]
        half_step = None if half is None else update_from_tree(half | {"base": start.vector})
        return cls(tree["round"], start, half_step, tree["strategy_state"], tree["integer_buffers"], tree["seconds"])


class Transport(Protocol):
    """Delivers letters and keeps memories. Every wait inside is bounded."""

    shares_digests: ClassVar[bool]
    """Whether the sender's side may compute digests for all receivers (a simulation's shortcut)."""

    def recall(self, node: NodeId, before: int) -> Memory | None:
        """Return the node's newest memory of a round before the given one; None if there is none.

        Raises:
            LostError: There was one, and its holder died, or the node's newest one is of a later round.
        """
        ...

    def commit(self, node: NodeId, memory: Memory, letters: Mapping[NodeId, Update], report: str) -> None:
        """Keep the memory, send the letters and hand in the report of a step, all at once."""
        ...

    def publish(self, sender: NodeId, round: int, letters: Mapping[NodeId, Update]) -> None:
        """Send one letter to each receiver, after the step: the second wave of attackers."""
        ...

    def collect(self, receiver: NodeId, expected: Sequence[tuple[NodeId, int]]) -> tuple[Update, ...]:
        """Return the letters of the given senders and rounds; one that never came is simply missing.

        Raises:
            LostError: One had come, and its holder died.
        """
        ...

    def half_steps(self, nodes: Iterable[NodeId], round: int) -> tuple[Update, ...]:
        """Return the half-steps of those of the nodes that take part in a round, in order.

        This is what an adversary with knowledge sees.
        """
        ...


def distinct(letters: Mapping[NodeId, Update]) -> tuple[dict[NodeId, int], list[Update]]:
    """Return which receiver gets which letter, and the letters, each once: a letter to several is one object."""
    found = {id(letter): letter for letter in letters.values()}
    place = {key: index for index, key in enumerate(found)}
    return {receiver: place[id(letter)] for receiver, letter in letters.items()}, list(found.values())


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
