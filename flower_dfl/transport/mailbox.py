"""Models through Ray's object store: the transport of Flower's simulation engine.

One named actor, the *mailbox*, knows where the values of a run are: letters and memories, keyed by round and node. The
values themselves lie in the object store, owned by the mailbox, so that they outlive the worker that put them there.
Nothing passes through the actor, nor through the server, but references. Rounds older than the previous one are
dropped.

Everything here happens inside one simulation, between processes of the same user. It is no wire format.
"""

import uuid
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import ray
import torch
from ray.exceptions import GetTimeoutError, RayError
from torch import Tensor

from flower_dfl import codec
from flower_dfl.errors import TransportError
from flower_dfl.metrics import distances_to_mean
from flower_dfl.transport.base import Memory, update_from_tree, update_to_tree
from flower_dfl.types import NodeId, Update

__all__ = ["Mailbox", "MailboxTransport", "is_ray_running"]

_NAMESPACE = "flower-dfl"

_Parcel = tuple[str, list[np.ndarray]]
"""A tree as Ray stores it: its skeleton, and arrays that readers map without copying."""


def is_ray_running() -> bool:
    """Return whether this process is connected to Ray."""
    return bool(ray.is_initialized())


class _Slots:
    """What the actor keeps: references by round, and by node within it."""

    def __init__(self) -> None:
        self._memories: dict[int, dict[NodeId, Any]] = {}
        self._letters: dict[int, dict[NodeId, tuple[dict[NodeId, int], list[Any]]]] = {}

    def ready(self) -> bool:
        """Answer, once the actor is up."""
        return True

    def put_memory(self, round: int, node: NodeId, boxed: list[Any]) -> None:
        """Keep a reference (in a list, so that Ray does not fetch it), and drop rounds that nobody will ask for."""
        self._memories.setdefault(round, {})[node] = boxed[0]
        for kept in (self._memories, self._letters):
            for old in [r for r in kept if r < round - 1]:
                del kept[old]

    def put_letters(self, round: int, sender: NodeId, routes: dict[NodeId, int], boxed: list[Any]) -> None:
        """Keep references to a sender's distinct letters, and which receiver gets which."""
        self._letters.setdefault(round, {})[sender] = (routes, boxed)

    def memories(self, round: int, nodes: list[NodeId]) -> list[Any]:
        """Return references to memories, None where there is none."""
        kept = self._memories.get(round, {})
        return [kept.get(node) for node in nodes]

    def letters(self, round: int, receiver: NodeId, senders: list[NodeId]) -> list[Any]:
        """Return references to the letters that have arrived."""
        posted = self._letters.get(round, {})
        found = []
        for sender in senders:
            routes, boxed = posted.get(sender, ({}, []))
            if receiver in routes:
                found.append(boxed[routes[receiver]])
        return found

    def distances_to_mean(self, round: int, nodes: list[NodeId]) -> list[float]:
        """Compute consensus where the values are, so that no model passes through the server."""
        parcels = ray.get([self._memories[round][node] for node in nodes])
        return distances_to_mean([_tree(parcel)["start"][0] for parcel in parcels]).tolist()


class Mailbox:
    """The server's end: makes the actor, reads results, and ends it."""

    def __init__(self, timeout: float) -> None:
        self.name = f"mailbox-{uuid.uuid4().hex}"
        self._timeout = timeout
        self._actor = ray.remote(_Slots).options(name=self.name, namespace=_NAMESPACE, num_cpus=0).remote()
        _get(self._actor.ready.remote(), timeout)

    def distances_to_mean(self, round: int, nodes: list[NodeId]) -> list[float]:
        """Return each node's distance from the mean of their start-of-round models."""
        return list(_get(self._actor.distances_to_mean.remote(round, nodes), self._timeout))

    def models(self, round: int, nodes: Iterable[NodeId]) -> Iterable[tuple[NodeId, Tensor, Tensor]]:
        """Yield vector and buffers of each node's start-of-round model, one node at a time."""
        for node in nodes:
            (reference,) = _get(self._actor.memories.remote(round, [node]), self._timeout)
            vector, buffers, _ = _tree(_get(reference, self._timeout))["start"]
            yield node, vector, buffers

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
            self._actor = ray.get_actor(name, namespace=_NAMESPACE)
        except ValueError as error:
            raise TransportError(f"the mailbox {name!r} is gone") from error

    def recall(self, node: NodeId, round: int) -> Memory:
        """Return what the node remembered in a round."""
        return self._memories([node], round)[0]

    def remember(self, node: NodeId, round: int, memory: Memory) -> None:
        """Keep the node's memory of a round."""
        reference = self._store(memory.to_tree())
        _get(self._actor.put_memory.remote(round, node, [reference]), self._timeout)

    def publish(self, sender: NodeId, round: int, letters: Mapping[NodeId, Update]) -> None:
        """Send one letter to each receiver; a letter to several is stored once."""
        distinct: dict[int, Update] = {id(letter): letter for letter in letters.values()}
        position = {key: index for index, key in enumerate(distinct)}
        stored = [self._store(update_to_tree(letter, with_base=True, with_digest=True)) for letter in distinct.values()]
        routes = {receiver: position[id(letter)] for receiver, letter in letters.items()}
        _get(self._actor.put_letters.remote(round, sender, routes, stored), self._timeout)

    def collect(self, receiver: NodeId, round: int, senders: Iterable[NodeId]) -> tuple[Update, ...]:
        """Return the letters of a round that have arrived."""
        references = _get(self._actor.letters.remote(round, receiver, list(senders)), self._timeout)
        return tuple(update_from_tree(_tree(parcel)) for parcel in _get(references, self._timeout))

    def half_steps(self, nodes: Iterable[NodeId], round: int) -> tuple[Update, ...]:
        """Return other nodes' own half-steps, in order."""
        found = (memory.half_step for memory in self._memories(list(nodes), round))
        return tuple(half for half in found if half is not None)

    def _memories(self, nodes: list[NodeId], round: int) -> list[Memory]:
        references = _get(self._actor.memories.remote(round, nodes), self._timeout)
        missing = [node for node, reference in zip(nodes, references, strict=True) if reference is None]
        if missing:
            raise TransportError(f"the mailbox has no memory of round {round} for nodes {missing}")
        return [Memory.from_tree(_tree(parcel)) for parcel in _get(references, self._timeout)]

    def _store(self, tree: codec.Tree) -> Any:  # noqa: ANN401 - an object reference
        skeleton, tensors = codec.split(tree)
        parcel: _Parcel = (skeleton, [tensor.cpu().numpy() for tensor in tensors])
        return ray.put(parcel, _owner=self._actor)


def _tree(parcel: _Parcel) -> codec.Tree:
    """Copy arrays out of the object store: readers must not depend on its alignment, nor write to it."""
    skeleton, arrays = parcel
    return codec.unite(skeleton, [torch.from_numpy(np.array(array)) for array in arrays])


def _get(reference: Any, timeout: float) -> Any:  # noqa: ANN401 - an object reference and its value
    try:
        return ray.get(reference, timeout=timeout)
    except GetTimeoutError as error:
        raise TransportError(f"the mailbox did not answer within {timeout:.0f} s") from error
    except RayError as error:
        raise TransportError(f"the mailbox failed: {type(error).__name__}: {error}") from error
