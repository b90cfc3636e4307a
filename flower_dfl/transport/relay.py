"""Models inside Flower's messages: the portable transport, for Flower's deployment engine and as a fallback.

The server forwards bytes that it cannot use: it opens no letter. A node's memory stays in its own ``Context.state``.
What arrives is unpacked without pickle, refused beyond the size of a well-formed letter, and screened by ingress; a
letter that cannot be unpacked is rejected there. Digests never travel: each receiver computes them for itself.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from flwr.app import ConfigRecord, RecordDict

from flower_dfl import codec
from flower_dfl.errors import TransportError
from flower_dfl.metrics import distances_to_mean
from flower_dfl.transport.base import Memory, update_from_tree, update_to_tree
from flower_dfl.types import NodeId, Update

__all__ = ["HALF_STEP", "MODEL", "Relay", "RelayTransport", "open_letter"]

_LETTERS = "letters"
HALF_STEP = "half-step"
_HALF_STEPS = "half-steps"
MODEL = "model"
_MEMORY = "memory"
_OVERHEAD = 4_096
"""Bytes of a letter beyond its tensors, at most."""


def open_letter(sender: NodeId, data: bytes, largest: int) -> Update:
    """Unpack what a peer sent. What is too large or no letter becomes an empty one, which ingress rejects.

    Args:
        sender: Who sent it, by the envelope; a claim inside the letter does not count.
        data: The bytes.
        largest: Most bytes that a well-formed letter can have.
    """
    if len(data) <= largest:
        try:
            return replace(update_from_tree(codec.unpack(data)), sender=sender, digest=None)
        except (TransportError, TypeError, AttributeError):
            pass
    return Update(sender, round=0, vector=torch.empty(0))


class RelayTransport:
    """A node's end: one message in, one reply out.

    Args:
        incoming: Content of the server's message.
        state: The node's own ``Context.state``.
        reply: Content of the node's reply; filled.
        largest: Most bytes of tensors in a well-formed letter.
        wanted: What the server asks for beside the letters: ``model``, where it evaluates consensus or writes the
            checkpoint; ``half-step``, where an attacker is allowed to see it.
    """

    shares_digests: ClassVar[bool] = False

    def __init__(
        self, incoming: RecordDict, state: RecordDict, reply: RecordDict, largest: int, wanted: Iterable[str]
    ) -> None:
        self._incoming = incoming
        self._reply = reply
        self._state = state
        self._largest = largest + _OVERHEAD
        self._wanted = frozenset(wanted)

    def recall(self, node: NodeId, round: int) -> Memory:
        """Return what the node remembered in a round."""
        record = self._state.config_records.get(_MEMORY)
        if record is None or record["round"] != round:
            raise TransportError(f"node {node} has no memory of round {round}")
        return Memory.from_tree(codec.unpack(_bytes(record, "data")))

    def remember(self, node: NodeId, round: int, memory: Memory) -> None:
        """Keep the node's memory of a round, and put what the server asks for into the reply."""
        del node
        self._state[_MEMORY] = ConfigRecord({"round": round, "data": codec.pack(memory.to_tree())})
        if MODEL in self._wanted:
            self._reply[MODEL] = ConfigRecord({"data": codec.pack((memory.start.vector, memory.start.buffers))})
        if HALF_STEP in self._wanted and memory.half_step is not None:
            half_step = update_to_tree(memory.half_step, with_base=True, with_digest=False)
            self._reply[HALF_STEP] = ConfigRecord({"data": codec.pack(half_step)})

    def publish(self, sender: NodeId, round: int, letters: Mapping[NodeId, Update]) -> None:
        """Put the letters into the reply; a letter to several is packed once."""
        del sender, round
        record: dict[str, bytes | list[int]] = {}
        for letter in {id(letter): letter for letter in letters.values()}.values():
            index = len(record) // 2
            record[f"to-{index}"] = [receiver for receiver, sent in letters.items() if sent is letter]
            record[f"data-{index}"] = codec.pack(update_to_tree(letter, with_base=True, with_digest=False))
        self._reply[_LETTERS] = ConfigRecord(record)  # type: ignore[arg-type]  # dict is invariant in its values

    def collect(self, receiver: NodeId, round: int, senders: Iterable[NodeId]) -> tuple[Update, ...]:
        """Return the letters that this message brought."""
        del receiver, round
        record = self._incoming.config_records.get(_LETTERS, ConfigRecord())
        return tuple(
            open_letter(sender, _bytes(record, str(sender)), self._largest)
            for sender in senders
            if str(sender) in record
        )

    def half_steps(self, nodes: Iterable[NodeId], round: int) -> tuple[Update, ...]:
        """Return the half-steps that this message brought."""
        del round
        record = self._incoming.config_records.get(_HALF_STEPS, ConfigRecord())
        return tuple(update_from_tree(codec.unpack(_bytes(record, str(node)))) for node in nodes)


class Relay:
    """The server's end: sorts sealed letters into the next round's messages."""

    def __init__(self) -> None:
        self._letters: dict[object, dict[str, bytes]] = {}  # by receiver, as its sender wrote it
        self._next: dict[object, dict[str, bytes]] = {}
        self._half_steps: dict[NodeId, bytes] = {}
        self._models: dict[NodeId, bytes] = {}

    def accept(self, sender: NodeId, reply: RecordDict) -> None:
        """Take what a reply carries."""
        records = reply.config_records
        letters = records.get(_LETTERS, ConfigRecord())
        for index in range(len(letters) // 2):
            receivers = letters.get(f"to-{index}")
            for receiver in receivers if isinstance(receivers, list) else []:
                self._next.setdefault(receiver, {})[str(sender)] = _bytes(letters, f"data-{index}")
        if HALF_STEP in records:
            self._half_steps[sender] = _bytes(records[HALF_STEP], "data")
        if MODEL in records:
            self._models[sender] = _bytes(records[MODEL], "data")

    def turn(self) -> None:
        """End a round: what was accepted is what the next messages bring."""
        self._letters, self._next = self._next, {}

    def letters_for(self, node: NodeId) -> dict[str, ConfigRecord]:
        """Return the letters to a node."""
        return {_LETTERS: ConfigRecord(dict(self._letters.get(node, {})))}

    def half_steps_of(self, nodes: Iterable[NodeId]) -> dict[str, ConfigRecord]:
        """Return the half-steps that an attacker is allowed to see."""
        return {_HALF_STEPS: ConfigRecord({str(node): self._half_steps[node] for node in nodes})}

    def distances_to_mean(self, round: int, nodes: list[NodeId]) -> list[float]:
        """Return each node's distance from the mean of their start-of-round models."""
        found = {node: vector for node, vector, _ in self.models(round, nodes)}
        missing = [node for node in nodes if node not in found]
        if missing:
            raise TransportError(f"no readable model came from nodes {missing}")
        return distances_to_mean([found[node] for node in nodes]).tolist()

    def models(self, round: int, nodes: Iterable[NodeId]) -> Iterable[tuple[NodeId, codec.Tree, codec.Tree]]:
        """Yield vector and buffers of each node's start-of-round model, leaving out what cannot be read."""
        del round
        for node in nodes:
            try:
                vector, buffers = codec.unpack(self._models.get(node, b""))
            except (TransportError, TypeError, ValueError):
                continue
            yield node, vector, buffers

    def close(self) -> None:
        """Nothing to end."""


def _bytes(record: ConfigRecord, key: str) -> bytes:
    value = record.get(key)
    return value if isinstance(value, bytes) else b""
