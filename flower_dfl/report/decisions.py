"""What became of each message between neighbours, as one byte, and how well a round's decisions find the attackers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flower_dfl.types import NodeId

__all__ = ["DROPPED", "MISSING", "REJECTED", "TRUSTED", "UNKNOWN", "Decisions", "code", "count"]

MISSING, DROPPED, REJECTED, UNKNOWN, TRUSTED = 1, 2, 3, 4, 5
"""No message came; ingress dropped it; the rule gave it weight 0; a weight that is not finite; a positive weight.

A trusted message has the code ``TRUSTED`` plus its weight in steps of 1/250, so that code 255 is weight 1.
"""

_STEPS = 255 - TRUSTED


@dataclass(frozen=True, slots=True)
class Decisions:
    """The decisions of the honest nodes in one round, on what their neighbours sent.

    Attributes:
        trusted_honest: Messages of honest senders with a positive weight.
        rejected_honest: Messages of honest senders with weight 0, or dropped by ingress.
        trusted_byzantine: The same for Byzantine senders.
        rejected_byzantine: The same for Byzantine senders.
        dropped: Those of the rejected that ingress dropped.
        missing: Messages that did not come.
    """

    trusted_honest: int
    rejected_honest: int
    trusted_byzantine: int
    rejected_byzantine: int
    dropped: int
    missing: int

    @property
    def precision(self) -> float | None:
        """Share of the rejected that are Byzantine; None if nobody was rejected."""
        return _share(self.rejected_byzantine, self.rejected_byzantine + self.rejected_honest)

    @property
    def recall(self) -> float | None:
        """Share of the Byzantine that were rejected; None if there were none."""
        return _share(self.rejected_byzantine, self.rejected_byzantine + self.trusted_byzantine)

    @property
    def false_alarm(self) -> float | None:
        """Share of the honest that were rejected; None if there were none."""
        return _share(self.rejected_honest, self.rejected_honest + self.trusted_honest)


def code(line: Mapping[str, Any]) -> int:
    """Return what became of the message that a line of ``edges.jsonl`` describes.

    >>> [code({"weight": weight}) for weight in (0.0, 0.5, 1.0, None)]
    [3, 130, 255, 4]
    """
    if line.get("missing"):
        return MISSING
    if line.get("rejected"):
        return DROPPED
    weight = line["weight"]
    if weight is None:
        return UNKNOWN
    return TRUSTED + min(max(round(weight * _STEPS), 1), _STEPS) if weight > 0 else REJECTED


def count(
    receivers: NDArray[np.int64], senders: NDArray[np.int64], codes: NDArray[np.uint8], byzantine: Iterable[NodeId]
) -> Decisions:
    """Count the decisions of one round; what Byzantine nodes decide does not matter."""
    liars = np.fromiter(byzantine, dtype=np.int64)
    mine = ~np.isin(receivers, liars)
    lying = np.isin(senders[mine], liars)
    codes = codes[mine]
    trusted, rejected = codes >= TRUSTED, (codes == REJECTED) | (codes == DROPPED)
    return Decisions(
        trusted_honest=int((trusted & ~lying).sum()),
        rejected_honest=int((rejected & ~lying).sum()),
        trusted_byzantine=int((trusted & lying).sum()),
        rejected_byzantine=int((rejected & lying).sum()),
        dropped=int((codes == DROPPED).sum()),
        missing=int((codes == MISSING).sum()),
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
