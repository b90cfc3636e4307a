"""The oracle: averages honest nodes only, because it is told who they are."""

from dataclasses import dataclass
from typing import ClassVar

from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.kernels import weighted_mean
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["Oracle"]


@dataclass(frozen=True, slots=True)
class Oracle(PeerStrategy[None]):
    """Average the honest members of the closed neighbourhood (a reference, not a defence).

    The ceiling that a perfect filter reaches: no real node knows who is honest.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.HONEST_NODES})

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return the uniform mean of own and honest received models."""
        if ctx.honest is None:
            raise ConfigurationError("the oracle must be told who is honest, got ctx.honest = None")
        kept = [u for u in inbox.members if u.sender in ctx.honest or u.sender == inbox.own.sender]
        weights = dict.fromkeys((u.sender for u in inbox.members), 0.0) | {u.sender: 1 / len(kept) for u in kept}
        return Aggregate(weighted_mean([u.vector for u in kept], [1.0] * len(kept)), state, weights)
