"""Messages that are means of messages: what the pre-aggregations hand to the rule they wrap."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from flower_dfl.strategies.kernels import weighted_mean
from flower_dfl.types import Update

__all__ = ["mixed"]


def mixed(update: Update, others: Sequence[Update], weights: Sequence[float]) -> Update:
    """Return ``update`` with the weighted mean of other messages' models, and of their bases where all have one.

    So the mean of the updates is what lies between the two. A digest is that of another message and falls away.
    """

    def mean(rows: list[Tensor | None]) -> Tensor | None:
        present = [row for row in rows if row is not None]
        return weighted_mean(present, weights) if len(present) == len(rows) else None

    vector = weighted_mean([other.vector for other in others], weights)
    return replace(update, vector=vector, base=mean([other.base for other in others]), digest=None)
