"""Echo: sends every receiver its own half-step back, magnified."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from flower_dfl.attacks.observation import combine, half_step_of
from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import Attack
from flower_dfl.types import AttackContext, AttackView, Knowledge, NodeId

__all__ = ["Echo"]


@dataclass(frozen=True, slots=True)
class Echo(Attack):
    r"""Send every receiver its own half-step back, multiplied by a factor (untargeted).

    .. math:: m_{b \to i} = \gamma \, h_i

    The cosine of the message with the receiver's model is 1, whatever its length. A rule that asks for similarity by
    cosine alone finds nobody whom it should trust more; that of DFL-Dual (eqs. 9, 11 and 15) takes the cluster of the
    higher mean trust however far it is. ``gamma = 1`` is harmless by itself, and cuts the receiver off from its other
    neighbours as far as it believes in copies of itself.

    The attackers must have the receiver's message of the round before they send theirs, as every neighbour has that
    sends last.

    Args:
        gamma: Factor. Positive. What overflows float32 is dropped by its receiver.

    References:
        None: found while this library's DFL-Dual was audited, see ``experiments/dfl_dual/findings.md``.
    """

    knowledge: ClassVar[Knowledge] = Knowledge.OMNISCIENT
    gamma: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.gamma < float("inf"):
            raise ConfigurationError(f"gamma must be positive and finite, got {self.gamma}")

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the magnified half-step ``(d,)``; the attacker's own for a receiver that has none, or has diverged."""
        del ctx
        echoed = half_step_of(view, receiver)
        return view.own.vector if echoed is None else combine([echoed.vector], [self.gamma])
