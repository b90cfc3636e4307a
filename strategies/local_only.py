"""Training alone: the floor that collaboration has to beat, and the one rule that nobody can attack."""

from dataclasses import dataclass
from typing import ClassVar

from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.clipping import by_sender
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["LocalOnly"]


@dataclass(frozen=True, slots=True)
class LocalOnly(PeerStrategy[None]):
    r"""Ignore every neighbour (a reference, not a defence).

    .. math:: \theta_i^{t+1} = h_i

    Stateless, without parameters. A defence that ends below it has made collaboration harmful.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return a copy of the own half-step."""
        del ctx
        return Aggregate(inbox.own.vector.clone(), state, by_sender(inbox, 1.0, [0.0] * len(inbox.received)))
