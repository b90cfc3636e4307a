"""The two things people add: a :class:`PeerStrategy` and an :class:`Attack`.

Both are frozen, slotted dataclasses with pure methods. State goes in and comes out; nothing hides in ``self``. Subclass
the protocol to inherit its defaults; subclass nothing else.
"""

from abc import abstractmethod
from typing import Protocol, cast, runtime_checkable

import networkx as nx
from torch import Tensor

from flower_dfl.types import (
    Aggregate,
    AttackContext,
    AttackView,
    DigestContext,
    Inbox,
    Knowledge,
    LabelledData,
    Need,
    NodeId,
    RoundContext,
    StateT,
    Trigger,
    Update,
)

__all__ = ["Attack", "PeerStrategy", "Schedule", "Topology"]


@runtime_checkable
class PeerStrategy(Protocol[StateT]):
    """A peer aggregation rule."""

    @property
    def needs(self) -> frozenset[Need]:
        """What the rule must be given beyond the vectors: usually a class constant."""
        return frozenset()

    def init(self, own: Tensor) -> StateT:
        """Return the state before the first round; ``own`` is the node's initial vector ``(d,)``."""
        del own
        return cast("StateT", None)

    def digest(self, update: Update, ctx: DigestContext) -> Tensor | None:
        """Return a pure function of one message and the round, never of the receiver; None if the rule has none.

        An engine may compute it once for each distinct message and hand it to all receivers; that of a late message is
        computed anew in the round in which it arrives.
        """
        del update, ctx
        return None

    @abstractmethod
    def aggregate(self, inbox: Inbox, state: StateT, ctx: RoundContext) -> Aggregate[StateT]:
        """Return the next start-of-round model.

        Rows are finite. An empty inbox leaves the node at its own half-step. Inputs are neither modified nor aliased.
        """
        ...


@runtime_checkable
class Attack(Protocol):
    """What Byzantine nodes do.

    An attack chooses the vector of a message. Start-of-round model and buffers that travel with it are the attacker's
    true ones: rules that believe these (``Need.SENDER_BASE``) are not tested against lies about them.
    """

    @property
    def knowledge(self) -> Knowledge:
        """How much the attack sees: usually a class constant."""
        return Knowledge.LOCAL

    @property
    def trigger(self) -> Trigger | None:
        """The global trigger by which the attack success rate is measured; None for untargeted attacks."""
        return None

    def poison(self, data: LabelledData, ctx: AttackContext) -> LabelledData:
        """Return the data that the attacker trains on: data poisoning.

        Where these are as many samples as before, class-balanced sampling draws them by the labels that they had.
        """
        del ctx
        return data

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the vector ``(d,)`` that is sent to ``receiver``: model poisoning."""
        del receiver, ctx
        return view.own.vector


class Topology(Protocol):
    """A function that draws a communication graph on the labels ``0..num_nodes-1``."""

    def __call__(self, num_nodes: int, num_byzantine: int, seed: int) -> "nx.Graph[int]":
        """Return a connected undirected graph; the Byzantine nodes are the ``num_byzantine`` highest labels."""
        ...


class Schedule(Protocol):
    """A function that makes the communication graph change from round to round."""

    def __call__(self, graph: "nx.Graph[int]", round: int, seed: int) -> "nx.Graph[int]":
        """Return the graph of a round, from 1: undirected, on the labels of ``graph``, in which nodes may be isolated.

        Depends on the arguments and on nothing else; ``graph``, which the topology drew, stays as it is.
        """
        ...
