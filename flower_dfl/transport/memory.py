"""The transport of one process: dictionaries."""

from collections.abc import Iterable, Mapping
from typing import ClassVar

from flower_dfl.transport.base import Memory
from flower_dfl.types import NodeId, Update

__all__ = ["MemoryTransport"]


class MemoryTransport:
    """Keep letters and memories of the current and the previous round; no value is copied."""

    shares_digests: ClassVar[bool] = True

    def __init__(self) -> None:
        self._letters: dict[int, dict[NodeId, Mapping[NodeId, Update]]] = {}
        self._memories: dict[int, dict[NodeId, Memory]] = {}

    def recall(self, node: NodeId, round: int) -> Memory:
        """Return what the node remembered in a round."""
        return self._memories[round][node]

    def remember(self, node: NodeId, round: int, memory: Memory) -> None:
        """Keep the node's memory of a round."""
        self._memories.setdefault(round, {})[node] = memory
        self._forget(round)

    def publish(self, sender: NodeId, round: int, letters: Mapping[NodeId, Update]) -> None:
        """Send one letter to each receiver."""
        self._letters.setdefault(round, {})[sender] = letters

    def collect(self, receiver: NodeId, round: int, senders: Iterable[NodeId]) -> tuple[Update, ...]:
        """Return the letters of a round that have arrived."""
        posted = self._letters.get(round, {})
        return tuple(posted[s][receiver] for s in senders if receiver in posted.get(s, {}))

    def half_steps(self, nodes: Iterable[NodeId], round: int) -> tuple[Update, ...]:
        """Return other nodes' own half-steps, in order."""
        found = (self._memories[round][node].half_step for node in nodes)
        return tuple(half for half in found if half is not None)

    def _forget(self, round: int) -> None:
        for kept in (self._letters, self._memories):
            for old in [r for r in kept if r < round - 1]:
                del kept[old]
