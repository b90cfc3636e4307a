"""The transport of one process: dictionaries."""

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from flower_dfl.transport.base import Memory
from flower_dfl.types import NodeId, Update

__all__ = ["MemoryTransport"]


class MemoryTransport:
    """Keep each node's newest memory, and the letters of the last rounds; no value is copied.

    Args:
        rounds_kept: Rounds whose letters can still arrive during the next one: 2 with late messages, else 1.
    """

    shares_digests: ClassVar[bool] = True

    def __init__(self, rounds_kept: int = 1) -> None:
        self._rounds_kept = rounds_kept
        self._letters: dict[int, dict[NodeId, Mapping[NodeId, Update]]] = {}
        self._memories: dict[NodeId, Memory] = {}

    def recall(self, node: NodeId, before: int) -> Memory | None:
        """Return the node's newest memory."""
        del before  # a step that failed has left none
        return self._memories.get(node)

    def commit(self, node: NodeId, memory: Memory, letters: Mapping[NodeId, Update], report: str) -> None:
        """Keep the memory and send the letters of a step."""
        del report
        self._memories[node] = memory
        if letters:
            self.publish(node, memory.round, letters)
        for old in [round for round in self._letters if round < memory.round - self._rounds_kept]:
            del self._letters[old]

    def publish(self, sender: NodeId, round: int, letters: Mapping[NodeId, Update]) -> None:
        """Send one letter to each receiver."""
        self._letters.setdefault(round, {})[sender] = letters

    def collect(self, receiver: NodeId, expected: Sequence[tuple[NodeId, int]]) -> tuple[Update, ...]:
        """Return the letters of the given senders and rounds."""
        posted = (self._letters.get(round, {}).get(sender, {}) for sender, round in expected)
        return tuple(letters[receiver] for letters in posted if receiver in letters)

    def half_steps(self, nodes: Iterable[NodeId], round: int) -> tuple[Update, ...]:
        """Return the half-steps of those of the nodes that take part in a round, in order."""
        known = [self._memories[node] for node in nodes if node in self._memories]
        return tuple(m.half_step for m in known if m.round == round and m.half_step is not None)

    def letters_of(self, sender: NodeId, round: int) -> Mapping[NodeId, Update]:
        """Return what a node sent in a round, by receiver."""
        return self._letters.get(round, {}).get(sender, {})
