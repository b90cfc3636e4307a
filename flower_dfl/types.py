"""The vocabulary: frozen values that nodes, strategies and attacks hand to one another.

Shapes: ``d`` trainable parameters, ``m`` received messages, ``n`` members of a closed neighbourhood. A *vector* is a
flat float32 tensor ``(d,)`` in ``named_parameters()`` order. Values that hold tensors compare by identity.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from typing import Generic, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

from flower_dfl import randomness

__all__ = [
    "Aggregate",
    "AttackContext",
    "AttackView",
    "DigestContext",
    "Inbox",
    "Knowledge",
    "LabelledData",
    "Learner",
    "Need",
    "NodeId",
    "Rejection",
    "RoundContext",
    "StateT",
    "Trigger",
    "Update",
]

NodeId: TypeAlias = int
"""One participant, 0..n-1: the graph's label and Flower's ``partition-id``."""

StateT = TypeVar("StateT")
"""What a strategy remembers between rounds: None, numbers, strings, tensors, and tuples or dicts of these."""


class Need(Enum):
    """What a strategy must be given beyond the vectors; the engine supplies only what is named."""

    SENDER_BASE = "every message also carries the sender's start-of-round model"
    LEARNER = "the local loss and its gradient"
    OWN_DATA = "the node's own training data"
    HONEST_NODES = "who is honest; for reference rules only, no real node knows it"


class Knowledge(IntEnum):
    """How much an attack sees; a higher level contains the lower ones."""

    LOCAL = 0
    """The attacker's own data and model."""
    COLLUDING = 1
    """Every Byzantine node's data and model: the literature's *partial* knowledge."""
    OMNISCIENT = 2
    """Also every honest half-step of the round: *full* knowledge."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledData:
    """Inputs with labels.

    Attributes:
        inputs: float32 ``(n, ...)``, already standardised.
        labels: int64 ``(n,)`` in ``0..num_classes-1``.
        num_classes: Number of labels.
        input_range: Smallest and largest value that an input may take (black and white, for images).
    """

    inputs: Tensor
    labels: Tensor
    num_classes: int
    input_range: tuple[float, float]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> "LabelledData":
        """Return the samples at ``indices``, copied."""
        return LabelledData(self.inputs[indices], self.labels[indices], self.num_classes, self.input_range)

    def to(self, device: torch.device) -> "LabelledData":
        """Return the same samples on ``device``."""
        return LabelledData(self.inputs.to(device), self.labels.to(device), self.num_classes, self.input_range)


class Learner(Protocol):
    """What a rule may ask of the local model: its loss and gradient at any vector, in evaluation mode."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch."""
        ...

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        ...

    def loss(self, vector: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy, a scalar without gradient."""
        ...

    def logits(self, vector: Tensor, inputs: Tensor) -> Tensor:
        """Return the class scores ``(n, num_classes)``; differentiable in ``inputs`` if they ask for it."""
        ...

    def gradient(self, vector: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the gradient ``(d,)`` of the mean cross-entropy; differentiable in ``inputs`` if they ask for it.

        ``labels`` are class numbers ``(n,)``, or the probabilities of the classes ``(n, num_classes)``.
        """
        ...


class Trigger(Protocol):
    """The pattern of a backdoor."""

    @property
    def target(self) -> int:
        """Label that a backdoored model gives to every stamped input."""
        ...

    def stamp(self, inputs: Tensor, input_range: tuple[float, float]) -> Tensor:
        """Return a copy of ``inputs`` ``(n, c, h, w)`` with the pattern pasted in."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """One message: a node's half-step, and what goes with it.

    ``num_examples``, ``epochs`` and ``batch_size`` are claims by the sender: no rule may use them as a weight.

    Attributes:
        sender: Who sent it.
        round: Round in which the half-step was trained, from 1.
        vector: Half-step ``(d,)``.
        base: Start-of-round model ``(d,)``, only where the strategy names :attr:`Need.SENDER_BASE`.
        buffers: Float buffers of the model, flat; averaged with the weights that the rule gives to the vectors.
        num_examples: Claimed number of training examples.
        epochs: Claimed number of local epochs.
        batch_size: Claimed batch size.
        digest: The strategy's digest of this message. Computed by the receiving side, never read from the wire.
    """

    sender: NodeId
    round: int
    vector: Tensor
    base: Tensor | None = None
    buffers: Tensor = field(default_factory=lambda: torch.empty(0))
    num_examples: int = 0
    epochs: int = 1
    batch_size: int = 1
    digest: Tensor | None = None

    def to(self, device: torch.device) -> "Update":
        """Return the same message on ``device``."""
        return replace(
            self,
            vector=self.vector.to(device),
            base=None if self.base is None else self.base.to(device),
            buffers=self.buffers.to(device),
            digest=None if self.digest is None else self.digest.to(device),
        )


@dataclass(frozen=True, slots=True)
class Rejection:
    """A message that ingress dropped, and why."""

    sender: NodeId
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Inbox:
    """What a node has to aggregate.

    Attributes:
        own: The node's own half-step.
        received: Screened neighbour messages, sorted by sender: finite, of the right shape, dtype and round.
        mixing_weights: Gossip weight ``(m,)`` of each received message; the node's own weight is one minus their sum,
            so the weight of a missing neighbour falls to the node itself.
        rejected: What was dropped.
    """

    own: Update
    received: tuple[Update, ...]
    mixing_weights: Tensor
    rejected: tuple[Rejection, ...] = ()

    @property
    def members(self) -> tuple[Update, ...]:
        """The closed neighbourhood, own included, sorted by sender."""
        return tuple(sorted((self.own, *self.received), key=lambda update: update.sender))


@dataclass(frozen=True, slots=True, eq=False)
class Aggregate(Generic[StateT]):
    """What a rule returns.

    Attributes:
        vector: Start-of-round model of the next round ``(d,)``.
        state: What the rule remembers.
        weights: How much each member of the closed neighbourhood counted; 0 is left out.
        scores: Any numbers worth recording, by name and member.
        flags: Remarks worth recording, such as a neighbourhood in which the rule cannot protect.
    """

    vector: Tensor
    state: StateT
    weights: Mapping[NodeId, float]
    scores: Mapping[str, Mapping[NodeId, float]] = field(default_factory=dict)
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class DigestContext:
    """What every node of the network knows about a round; nothing of any receiver is in it.

    Attributes:
        round: Current round, 1..num_rounds.
        num_rounds: Rounds of the whole run.
        lr: Learning rate of local training, a constant of the protocol.
        num_steps: Mini-batch steps of an average node's local training, a constant of the protocol; need not be whole.
        seed: Seed of the run.
        learner: The local model, where the strategy names :attr:`Need.LEARNER`.
    """

    round: int
    num_rounds: int
    lr: float
    num_steps: float
    seed: int
    learner: Learner | None = None

    def generator(self, purpose: str) -> torch.Generator:
        """Return the generator that all nodes share in this round."""
        return randomness.generator(self.seed, purpose, self.round)


@dataclass(frozen=True, slots=True, eq=False)
class RoundContext:
    """What a rule is told about the round and the node.

    Attributes:
        node: Whose neighbourhood it is.
        round: Current round, 1..num_rounds.
        num_rounds: Rounds of the whole run.
        base: The node's own start-of-round model ``(d,)``.
        budget: Number of Byzantine neighbours that the rule should withstand here (the literature's ``f``).
        lr: Learning rate of local training.
        num_steps: Mini-batch steps of an average node's local training.
        seed: Seed of the run.
        learner: The local model, where the strategy names :attr:`Need.LEARNER`.
        data: The node's own training data, where it names :attr:`Need.OWN_DATA`.
        honest: The honest nodes, where it names :attr:`Need.HONEST_NODES`.
    """

    node: NodeId
    round: int
    num_rounds: int
    base: Tensor
    budget: int
    lr: float
    num_steps: float
    seed: int
    learner: Learner | None = None
    data: LabelledData | None = None
    honest: frozenset[NodeId] | None = None

    def generator(self, purpose: str) -> torch.Generator:
        """Return this node's generator for this round."""
        return randomness.generator(self.seed, purpose, self.round, self.node)

    def for_digest(self) -> DigestContext:
        """Return the part of this context that all nodes share."""
        return DigestContext(self.round, self.num_rounds, self.lr, self.num_steps, self.seed, self.learner)


@dataclass(frozen=True, slots=True, eq=False)
class AttackView:
    """Everything an attacker can see when it crafts a message; the engine fills it by :class:`Knowledge`.

    Attributes:
        own: The attacker's own half-step, trained on its poisoned data, with its base.
        byzantine: Half-steps of all Byzantine nodes, sorted, own included; only own under LOCAL.
        byzantine_data: Their clean training data, in the same order.
        honest: Honest half-steps of this round, sorted; empty unless OMNISCIENT.
    """

    own: Update
    byzantine: tuple[Update, ...]
    byzantine_data: tuple[LabelledData, ...]
    honest: tuple[Update, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class AttackContext:
    """What an attacker is told about the round and the graph.

    Attributes:
        node: The attacker.
        round: Current round, 1..num_rounds.
        num_rounds: Rounds of the whole run.
        byzantine: All Byzantine nodes.
        neighbours: Open neighbourhood of every node: colluders know the graph.
        lr: Learning rate of local training.
        seed: Seed of the run.
        learner: The local model.
        num_steps: Mini-batch steps of an average node's local training.
        base: The attacker's own start-of-round model ``(d,)``.
    """

    node: NodeId
    round: int
    num_rounds: int
    byzantine: frozenset[NodeId]
    neighbours: Mapping[NodeId, frozenset[NodeId]]
    lr: float
    seed: int
    learner: Learner | None = None
    num_steps: float = 1.0
    base: Tensor | None = None

    def generator(self, purpose: str) -> torch.Generator:
        """Return the attacker's generator for this round."""
        return randomness.generator(self.seed, purpose, self.round, self.node)
