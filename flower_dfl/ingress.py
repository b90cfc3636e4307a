"""What a peer sent becomes data, or nothing: no message can raise, and none that is malformed reaches a rule."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from flower_dfl.types import NodeId, Rejection, Update
from flower_dfl.vectors import all_finite

__all__ = ["Expectation", "screen"]

_LARGEST_CLAIM = 2**53


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a well-formed message of this round looks like.

    Attributes:
        senders: Neighbours in this round.
        round: The round.
        dimension: Number of trainable parameters ``d``.
        buffer_size: Number of float-buffer values.
        with_base: Whether the message must carry the sender's base.
        staleness: How many rounds older than ``round`` a message may be.
        device: Where the rule runs.
    """

    senders: frozenset[NodeId]
    round: int
    dimension: int
    buffer_size: int = 0
    with_base: bool = False
    staleness: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def screen(messages: Iterable[Update], expected: Expectation) -> tuple[tuple[Update, ...], tuple[Rejection, ...]]:
    """Sort messages into well-formed ones and rejections, both by sender.

    A message is dropped for an unknown sender, a wrong round, a tensor of the wrong type, dtype, shape or with values
    that are not finite, a missing base, and claims that are not positive whole numbers. If a sender sent more than one
    message of the same round, all of them are dropped: the order of arrival must not decide which one counts. A message
    of an earlier round gives way to one of this round from the same sender.

    Order of arrival never matters. A base that the rule did not ask for is removed. A digest is kept: transports fill
    it only where the engine itself computed it, and drop what a peer may have sent in its place.
    """
    accepted: list[Update] = []
    rejected: list[Rejection] = []
    known: list[Update] = []
    for message in messages:
        sender = message.sender
        if isinstance(sender, int) and not isinstance(sender, bool) and sender in expected.senders:
            known.append(message)
        else:
            rejected.append(Rejection(sender if type(sender) is int else -1, "unknown sender"))
    counts = Counter(_origin(message) for message in known)
    for message in known:
        reason = "duplicate sender" if counts[_origin(message)] > 1 else _fault(message, expected)
        if reason is None and message.round < expected.round and counts[message.sender, expected.round] > 0:
            reason = "superseded"
        if reason is not None:
            rejected.append(Rejection(message.sender, reason))
        else:
            accepted.append(_placed(message, expected))
    return (
        tuple(sorted(accepted, key=lambda update: update.sender)),
        tuple(sorted(rejected, key=lambda rejection: (rejection.sender, rejection.reason))),
    )


def _origin(message: Update) -> tuple[NodeId, object]:
    """Return what at most one message may have: sender and round."""
    return message.sender, message.round if type(message.round) is int else None


def _fault(message: Update, expected: Expectation) -> str | None:
    if type(message.round) is not int or not expected.round - expected.staleness <= message.round <= expected.round:
        return "wrong round"
    tensors: list[tuple[str, object, int]] = [
        ("vector", message.vector, expected.dimension),
        ("buffers", message.buffers, expected.buffer_size),
    ]
    if expected.with_base:
        tensors.append(("base", message.base, expected.dimension))
    for name, tensor, size in tensors:
        reason = _tensor_fault(tensor, size)
        if reason is not None:
            return f"{name}: {reason}"
    for name in ("num_examples", "epochs", "batch_size"):
        claim = getattr(message, name)
        if type(claim) is not int or not 0 < claim <= _LARGEST_CLAIM:
            return f"{name}: not a positive whole number"
    return None


def _tensor_fault(tensor: object, size: int) -> str | None:
    if not isinstance(tensor, Tensor):
        return "not a tensor"
    if tensor.dtype != torch.float32:
        return "not float32"
    if tensor.layout != torch.strided or tensor.is_meta or tuple(tensor.shape) != (size,):
        return "wrong shape"
    if not all_finite(tensor):
        return "not finite"
    return None


def _placed(message: Update, expected: Expectation) -> Update:
    base = message.base if expected.with_base else None
    digest = message.digest if isinstance(message.digest, Tensor) else None
    return replace(message, base=base, digest=digest).to(expected.device)
