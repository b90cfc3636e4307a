"""Models inside Flower's messages: the portable transport, for Flower's deployment engine and as a fallback.

The server forwards bytes that it cannot use: it opens no letter. A node's memory stays in its own ``Context.state``.
What arrives is unpacked without pickle, refused beyond the size of a well-formed letter, and screened by ingress; a
letter that cannot be unpacked is rejected there. Digests never travel: each receiver computes them for itself.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from flwr.app import ConfigRecord, RecordDict
from torch import Tensor

from flower_dfl import codec
from flower_dfl.errors import LostError, TransportError
from flower_dfl.metrics import distances_to_mean
from flower_dfl.training import ModelState
from flower_dfl.transport.base import Memory, distinct, update_from_tree, update_to_tree
from flower_dfl.types import NodeId, Update

__all__ = ["HALF_STEP", "MEMORY", "MODEL", "Relay", "RelayTransport", "open_letter", "read_bytes"]

_LETTERS = "letters"
HALF_STEP = "half-step"
_HALF_STEPS = "half-steps"
MODEL = "model"
MEMORY = "memory"
_OWN = "own"
_OVERHEAD = 4_096
"""Bytes of a letter beyond its tensors, at most."""
_UNREADABLE = (TransportError, TypeError, ValueError, KeyError, AttributeError)
"""What reading a peer's bytes may raise."""


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
        wanted: What the server asks for beside the letters: ``model``, where it evaluates consensus; ``memory``, where
            it writes a checkpoint; ``half-step``, where an attacker is allowed to see it.
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

    def recall(self, node: NodeId, before: int) -> Memory | None:
        """Return the node's newest memory, or the one that the server restores."""
        if MEMORY in self._incoming.config_records:
            return Memory.from_tree(codec.unpack(read_bytes(self._incoming.config_records[MEMORY], "data")))
        record = self._state.config_records.get(_OWN)
        if record is None or before == 1:  # a run that began anew finds what the one before has left
            return None
        memory = Memory.from_tree(codec.unpack(read_bytes(record, "data")))
        if memory.round >= before:
            raise LostError(f"node {node} has entered round {memory.round} already; its reply was lost")
        return memory

    def commit(self, node: NodeId, memory: Memory, letters: Mapping[NodeId, Update], report: str) -> None:
        """Keep the memory of a step, and put what the server asks for and forwards into the reply."""
        del report  # the reply carries it
        self._state[_OWN] = ConfigRecord({"data": codec.pack(memory.to_tree())})
        if MEMORY in self._wanted:
            self._reply[MEMORY] = ConfigRecord({"data": codec.pack(replace(memory, half_step=None).to_tree())})
        if MODEL in self._wanted:
            self._reply[MODEL] = ConfigRecord({"data": codec.pack((memory.start.vector, memory.start.buffers))})
        if HALF_STEP in self._wanted and memory.half_step is not None:
            half_step = update_to_tree(memory.half_step, with_base=True, with_digest=False)
            self._reply[HALF_STEP] = ConfigRecord({"data": codec.pack(half_step)})
        self.publish(node, memory.round, letters)

    def publish(self, sender: NodeId, round: int, letters: Mapping[NodeId, Update]) -> None:
        """Put the letters into the reply; a letter to several is packed once."""
        del sender, round
        record: dict[str, bytes | list[int]] = {}
        routes, found = distinct(letters)
        for index, letter in enumerate(found):
            record[f"to-{index}"] = [receiver for receiver, place in routes.items() if place == index]
            record[f"data-{index}"] = codec.pack(update_to_tree(letter, with_base=True, with_digest=False))
        self._reply[_LETTERS] = ConfigRecord(record)  # type: ignore[arg-type]  # dict is invariant in its values

    def collect(self, receiver: NodeId, expected: Sequence[tuple[NodeId, int]]) -> tuple[Update, ...]:
        """Return the letters that this message brought."""
        del receiver
        record = self._incoming.config_records.get(_LETTERS, ConfigRecord())
        return tuple(
            open_letter(sender, read_bytes(record, _slot(sender, round)), self._largest)
            for sender, round in expected
            if _slot(sender, round) in record
        )

    def half_steps(self, nodes: Iterable[NodeId], round: int) -> tuple[Update, ...]:
        """Return the half-steps that this message brought."""
        del round
        record = self._incoming.config_records.get(_HALF_STEPS, ConfigRecord())
        known = [str(node) for node in nodes if str(node) in record]
        return tuple(update_from_tree(codec.unpack(read_bytes(record, node))) for node in known)


class Relay:
    """The server's end: sorts sealed letters into the messages in which they arrive.

    Args:
        rounds_kept: Rounds whose letters can still arrive during the next one: 2 with late messages, else 1.
    """

    def __init__(self, rounds_kept: int) -> None:
        self._rounds_kept = rounds_kept
        self._round = 0
        self._letters: dict[int, dict[NodeId, dict[NodeId, bytes]]] = {}  # by round, sender and receiver
        self._half_steps: dict[NodeId, bytes] = {}
        self._models: dict[NodeId, bytes] = {}
        self._memories: dict[NodeId, bytes] = {}
        self._restored: dict[NodeId, bytes] = {}
        self._sizes: tuple[int, int] | None = None  # of every node's vector and buffers

    def begin(self, round: int) -> None:
        """Forget what belongs to rounds that are over; a step that is repeated belongs to the same one."""
        if round == self._round:
            return
        self._round, self._half_steps, self._memories = round, {}, {}
        for old in [r for r in self._letters if r < round - self._rounds_kept]:
            del self._letters[old]

    def learn_sizes(self, replies: Iterable[RecordDict]) -> None:
        """Take the sizes that most of the models have for those of every node's: the server itself builds none."""
        if self._sizes is None:
            models = (_read(MODEL, _content(reply, MODEL)) for reply in replies)
            sizes = Counter(_sizes_of(model) for model in models if model is not None)
            self._sizes = max(sizes, key=sizes.__getitem__, default=None)

    def accept(self, sender: NodeId, round: int, reply: RecordDict, wanted: Iterable[str] = ()) -> None:
        """Take what a reply carries; ``round`` is the one that its sender has entered.

        Raises:
            TransportError: What it was asked for is not there, or no model of the right size. Then nothing is taken.
        """
        for name in wanted:
            self._check(sender, name, _content(reply, name))
        self._restored.pop(sender, None)
        records = reply.config_records
        letters = records.get(_LETTERS, ConfigRecord())
        posted: dict[NodeId, bytes] = {}
        for index in range(len(letters) // 2):
            receivers = letters.get(f"to-{index}")
            data = read_bytes(letters, f"data-{index}")
            posted |= {r: data for r in (receivers if isinstance(receivers, list) else []) if type(r) is int}
        if posted:
            self._letters.setdefault(round, {})[sender] = posted
        for name, kept in ((HALF_STEP, self._half_steps), (MODEL, self._models), (MEMORY, self._memories)):
            if name in records:
                kept[sender] = read_bytes(records[name], "data")

    def letters_for(self, receiver: NodeId, arrivals: Iterable[tuple[NodeId, int]]) -> dict[str, ConfigRecord]:
        """Return the letters that arrive at a node, by sender and round."""
        posted = {(sender, round): self._letters.get(round, {}).get(sender, {}) for sender, round in arrivals}
        record = {_slot(*key): letters[receiver] for key, letters in posted.items() if receiver in letters}
        return {_LETTERS: ConfigRecord(dict(record))}

    def half_steps_of(self, nodes: Iterable[NodeId]) -> dict[str, ConfigRecord]:
        """Return the half-steps that an attacker is allowed to see."""
        return {_HALF_STEPS: ConfigRecord({str(n): self._half_steps[n] for n in nodes if n in self._half_steps})}

    def memory_for(self, node: NodeId) -> dict[str, ConfigRecord]:
        """Return what a node must be reminded of until it has answered: its memory of a checkpoint."""
        restored = self._restored.get(node)
        return {} if restored is None else {MEMORY: ConfigRecord({"data": restored})}

    def distances_to_mean(self, nodes: list[NodeId]) -> list[float]:
        """Return each node's distance from the mean of their start-of-round models."""
        found = {node: model for node in nodes if (model := self._model(node)) is not None}
        missing = [node for node in nodes if node not in found]
        if missing:
            raise TransportError(f"no readable model came from nodes {missing}")
        return distances_to_mean([found[node].vector for node in nodes]).tolist()

    def memories(self, nodes: Iterable[NodeId]) -> Iterable[tuple[NodeId, Memory]]:
        """Yield each node's memory, where its last reply carried it, and forget it; else its last known model."""
        for node in nodes:
            memory = self._memory(node)
            if memory is None:
                raise LostError(f"no readable model came from node {node}")
            yield node, memory

    def letters_of(self, sender: NodeId, round: int) -> dict[NodeId, Update]:
        """Return what a node sent in a round, by receiver; the receivers will reject what is no letter."""
        sent = self._letters.get(round, {}).get(sender, {})
        opened = {id(data): open_letter(sender, data, len(data)) for data in sent.values()}
        return {receiver: opened[id(data)] for receiver, data in sent.items()}

    def restore(
        self, memories: Mapping[NodeId, Memory], letters: Iterable[tuple[NodeId, int, Mapping[NodeId, Update]]]
    ) -> None:
        """Put back what a checkpoint holds: memories, and letters by sender and round."""
        self._restored = {node: codec.pack(memory.to_tree()) for node, memory in memories.items()}
        self._letters = {}
        for sender, round, sent in letters:
            self._letters.setdefault(round, {})[sender] = {
                receiver: codec.pack(update_to_tree(letter, with_base=True, with_digest=False))
                for receiver, letter in sent.items()
            }

    def close(self) -> None:
        """Nothing to end."""

    def _check(self, sender: NodeId, name: str, data: bytes) -> None:
        """Raise unless a node sent what it was asked for."""
        model = _read(name, data)
        if model is None:
            raise TransportError(f"expected a {name} of node {sender}, got {len(data)} bytes that hold none")
        if self._sizes is not None and _sizes_of(model) != self._sizes:
            raise TransportError(
                f"expected a {name} of (parameters, buffer values) = {self._sizes} like most nodes', got "
                f"{_sizes_of(model)} from node {sender}"
            )

    def _memory(self, node: NodeId) -> Memory | None:
        memory = _read_memory(self._memories.pop(node, b""))
        if memory is not None:
            return memory
        model = self._model(node)
        return None if model is None else Memory(0, model, None, None)

    def _model(self, node: NodeId) -> ModelState | None:
        return _read(MODEL, self._models.get(node, b""))


def _content(reply: RecordDict, name: str) -> bytes:
    return read_bytes(reply.config_records.get(name, ConfigRecord()), "data")


def _read(name: str, data: bytes) -> ModelState | None:
    """Return the model in what a node sent as model, memory or half-step; None if there is none."""
    if name == MEMORY:
        memory = _read_memory(data)
        return None if memory is None else memory.start
    try:
        tree = codec.unpack(data)
        if name == HALF_STEP:
            half_step = update_from_tree(tree)
            vector, buffers = half_step.vector, half_step.buffers
        else:
            vector, buffers = tree
    except _UNREADABLE:
        return None
    return ModelState(vector, buffers) if _is_model(vector, buffers) else None


def _read_memory(data: bytes) -> Memory | None:
    """Return a node's memory; None if these bytes are none."""
    try:
        memory = Memory.from_tree(codec.unpack(data))
    except _UNREADABLE:
        return None
    is_good = type(memory.round) is int and _is_model(memory.start.vector, memory.start.buffers)
    return memory if is_good else None


def _sizes_of(model: ModelState) -> tuple[int, int]:
    return model.vector.numel(), model.buffers.numel()


def _is_model(vector: object, buffers: object) -> bool:
    return all(isinstance(part, Tensor) and part.ndim == 1 and part.is_floating_point() for part in (vector, buffers))


def _slot(sender: NodeId, round: int) -> str:
    return f"{sender}/{round}"


def read_bytes(record: ConfigRecord, key: str) -> bytes:
    """Return what a record holds under a name; nothing where that is missing or no bytes: a peer may have made it."""
    value = record.get(key)
    return value if isinstance(value, bytes) else b""
