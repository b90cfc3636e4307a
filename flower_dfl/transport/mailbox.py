"""Models through Ray's object store: the transport of Flower's simulation engine.

One named actor, the *mailbox*, knows where the values of a run are: each node's newest memory, and the letters of the
last rounds. Every large tensor lies in the object store once, owned by the mailbox, so that it outlives the worker that
put it there; readers map it without copying. Nothing passes through the actor, nor through the server, but references
and small tensors.

Everything here happens inside one simulation, between processes of the same user. It is no wire format.

What readers get is read-only memory. A rule that breaks its contract and writes to its inputs crashes its worker;
:func:`flower_dfl.testing.check_strategy` finds such a rule.
"""

import functools
import uuid
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
import ray
import torch
from ray.exceptions import GetTimeoutError, RayError, RpcError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor

from flower_dfl import codec
from flower_dfl.errors import LostError, TransportError
from flower_dfl.metrics import distances_to_mean
from flower_dfl.transport.base import Memory, distinct, update_from_tree, update_to_tree
from flower_dfl.transport.slots import Parcel, Slots
from flower_dfl.types import NodeId, Update
from flower_dfl.wire import START_TIMEOUT

__all__ = ["Mailbox", "MailboxTransport", "is_ray_running"]

_NAMESPACE = "flower-dfl"
_INLINE = 32 * 1024
"""Tensors of fewer bytes travel with the call: the object store would cost more than it saves."""
_ALIGNMENT = 64
"""Alignment of torch's own tensors, in bytes: kernels may add up in another order on tensors with a lesser one."""

_Reference: TypeAlias = Any


def is_ray_running() -> bool:
    """Return whether this process is connected to Ray."""
    return bool(ray.is_initialized())


class Mailbox:
    """The server's end: makes the actor, reads and restores what it holds, and ends it.

    Args:
        timeout: Bound of every wait, in seconds; beside it, the actor's process may take its time to start.
        rounds_kept: Rounds whose letters can still arrive during the next one: 2 with late messages, else 1.
    """

    def __init__(self, timeout: float, rounds_kept: int) -> None:
        self.name = f"mailbox-{uuid.uuid4().hex}"
        self._timeout = timeout
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"name": self.name, "namespace": _NAMESPACE, "num_cpus": 0, "scheduling_strategy": here}
        self._actor = ray.remote(Slots).options(**options).remote(rounds_kept)
        _get(self._actor.ready.remote(), timeout + START_TIMEOUT)

    def progress(self, node: NodeId, message: int) -> str | None:
        """Return ``"committed:"`` and the report of a step that is done, ``"begun"``, or None."""
        found: str | None = _get(self._actor.progress.remote(node, message), self._timeout)
        return found

    def distances_to_mean(self, nodes: list[NodeId]) -> list[float]:
        """Return each node's distance from the mean of their start-of-round models, which are mapped, not copied."""
        starts = _get(self._actor.starts.remote(nodes), self._timeout)
        return distances_to_mean(_tensors(starts, self._timeout)).tolist()

    def memories(self, nodes: Iterable[NodeId]) -> Iterable[tuple[NodeId, Memory]]:
        """Yield each node's memory, one node at a time."""
        for node in nodes:
            parcel = _get(self._actor.memory.remote(node), self._timeout)
            if parcel is None:
                raise LostError(f"the mailbox has no memory of node {node}")
            yield node, Memory.from_tree(_trees([parcel], self._timeout)[0])

    def letters_of(self, sender: NodeId, round: int) -> dict[NodeId, Update]:
        """Return what a node sent in a round, by receiver."""
        routes, parcels = _get(self._actor.sent.remote(sender, round), self._timeout)
        letters = [update_from_tree(tree) for tree in _trees(parcels, self._timeout)]
        return {receiver: letters[index] for receiver, index in routes.items()}

    def restore(
        self, memories: Mapping[NodeId, Memory], letters: Iterable[tuple[NodeId, int, Mapping[NodeId, Update]]]
    ) -> None:
        """Put back what a checkpoint holds: memories, and letters by sender and round."""
        shelf = _Shelf(self._actor)
        for node, memory in memories.items():
            parcel = shelf.parcel(memory.to_tree())
            _get(self._actor.commit.remote(node, memory.round, parcel, ({}, []), ""), self._timeout)
        for sender, round, sent in letters:
            _get(self._actor.post.remote(round, sender, shelf.letters(sent)), self._timeout)

    def close(self) -> None:
        """End the actor; the object store frees what it owned."""
        ray.kill(self._actor)


class MailboxTransport:
    """A node's end of the mailbox.

    Args:
        name: Name of the mailbox actor.
        timeout: Bound of every wait, in seconds.
    """

    shares_digests: ClassVar[bool] = True

    def __init__(self, name: str, timeout: float) -> None:
        self._timeout = timeout
        try:
            self._actor = _find_actor(name)
        except ValueError as error:
            raise LostError(f"the mailbox {name!r} is gone") from error

    def recall(self, node: NodeId, before: int) -> Memory | None:
        """Return the node's newest memory."""
        parcel = _get(self._actor.recall.remote(node, before), self._timeout)
        if parcel is None:
            return None
        memory = Memory.from_tree(_trees([parcel], self._timeout)[0])
        if memory.round >= before:
            raise LostError(f"node {node} has entered round {memory.round} already; its reply was lost")
        return memory

    def commit(self, node: NodeId, memory: Memory, letters: Mapping[NodeId, Update], report: str) -> None:
        """Hand over what a step made, in one call: a step has happened as a whole, or not at all."""
        shelf = _Shelf(self._actor)
        parcel = shelf.parcel(memory.to_tree())
        _get(self._actor.commit.remote(node, memory.round, parcel, shelf.letters(letters), report), self._timeout)

    def publish(self, sender: NodeId, round: int, letters: Mapping[NodeId, Update]) -> None:
        """Send one letter to each receiver; a letter to several is stored once."""
        _get(self._actor.post.remote(round, sender, _Shelf(self._actor).letters(letters)), self._timeout)

    def collect(self, receiver: NodeId, expected: Sequence[tuple[NodeId, int]]) -> tuple[Update, ...]:
        """Return the letters of the given senders and rounds."""
        parcels = _get(self._actor.letters.remote(receiver, list(expected)), self._timeout)
        return tuple(update_from_tree(tree) for tree in _trees(parcels, self._timeout))

    def half_steps(self, nodes: Iterable[NodeId], round: int) -> tuple[Update, ...]:
        """Return the half-steps of those of the nodes that take part in a round, in order."""
        parcels = _get(self._actor.half_steps.remote(list(nodes), round), self._timeout)
        found = (Memory.from_tree(tree).half_step for tree in _trees(parcels, self._timeout))
        return tuple(half for half in found if half is not None)


@functools.lru_cache(maxsize=1)
def _find_actor(name: str) -> _Reference:
    """Return a mailbox's actor; asking where it is takes longer than asking it."""
    return ray.get_actor(name, namespace=_NAMESPACE)


class _Shelf:
    """Puts the large tensors of several trees into the object store, each once."""

    def __init__(self, owner: _Reference) -> None:
        self._owner = owner
        self._stored: dict[int, tuple[Tensor, _Reference]] = {}  # the tensor is kept so that its id stays its own

    def parcel(self, tree: codec.Tree) -> Parcel:
        """Return a tree as the actor keeps it."""
        skeleton, tensors = codec.split(tree)
        return skeleton, [self._put(tensor) for tensor in tensors]

    def letters(self, letters: Mapping[NodeId, Update]) -> tuple[dict[NodeId, int], list[Parcel]]:
        """Return which receiver gets which letter, and the distinct letters."""
        routes, found = distinct(letters)
        return routes, [self.parcel(update_to_tree(letter, with_base=True, with_digest=True)) for letter in found]

    def _put(self, tensor: Tensor) -> _Reference:
        if tensor.numel() * tensor.element_size() < _INLINE:
            return tensor.cpu().numpy()
        if id(tensor) not in self._stored:
            try:
                self._stored[id(tensor)] = (tensor, ray.put(tensor.cpu().numpy(), _owner=self._owner))
            except RpcError as error:
                raise _lost(error) from error
        return self._stored[id(tensor)][1]


def _trees(parcels: Sequence[Parcel], timeout: float) -> list[codec.Tree]:
    """Open parcels; large tensors stay where they are in the object store."""
    tensors = iter(_tensors([item for _, items in parcels for item in items], timeout))
    return [codec.unite(skeleton, [next(tensors) for _ in items]) for skeleton, items in parcels]


def _tensors(items: Sequence[_Reference], timeout: float) -> list[Tensor]:
    references = [item for item in items if isinstance(item, ray.ObjectRef)]
    fetched = iter(_get(references, timeout))
    return [_tensor(next(fetched) if isinstance(item, ray.ObjectRef) else item) for item in items]


def _tensor(array: np.ndarray) -> Tensor:
    """Return an array as a tensor, without a copy unless it is small or badly aligned."""
    if array.nbytes < _INLINE or array.ctypes.data % _ALIGNMENT:
        return torch.from_numpy(np.array(array))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)


def _get(reference: _Reference, timeout: float) -> Any:  # noqa: ANN401 - whatever it refers to
    try:
        return ray.get(reference, timeout=timeout)
    except GetTimeoutError as error:
        raise TransportError(f"the mailbox did not answer within {timeout:.0f} s") from error
    except RayError as error:
        raise _lost(error) from error


def _lost(error: RayError) -> LostError:
    what = str(error).partition("\n")[0]  # Ray goes on for many lines
    return LostError(f"the mailbox or what it held is lost: {type(error).__name__}: {what}")
