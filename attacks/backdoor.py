"""Backdoor: train on stamped and relabelled samples, and send the model without boosting it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flower_dfl.attacks.poisoning import base_of, check_share, stamp_share
from flower_dfl.attacks.triggers import Corner, SquareTrigger
from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import Attack
from flower_dfl.types import AttackContext, AttackView, Knowledge, LabelledData, NodeId

__all__ = ["Backdoor"]


@dataclass(frozen=True, slots=True)
class Backdoor(Attack):
    r"""Train on data of which a share is backdoored, and send all or a fraction of the update.

    .. math:: m_{b \to i} = \theta_b^t + \rho \, (h_b - \theta_b^t)

    Data poisoning, targeted, hard to see: with ``drip = 1`` the attacker follows the protocol on poisoned data. Small
    shares (0.05) and small drips (0.2) cost each message much of its effect and make it look more like an honest one;
    over the rounds they add up. A rule should be judged by the worst of them.
    :class:`~flower_dfl.attacks.scaling.Scaling` is the loud relative.

    Args:
        poison_share: Fraction of the local samples that get trigger and target label, in (0, 1].
        drip: Fraction :math:`\rho` of the update that is sent, in (0, 1].
        size: Side of the square trigger in pixels.
        corner: Its corner.
        row: Row of its top left pixel; with ``column`` it takes the place of ``corner``.
        column: Column of that pixel.
        value: Its brightness, a fraction of the input range.
        target: Label that it leads to.

    References:
        Gu, Dolan-Gavitt, Garg, *BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain*, 2017.
        https://arxiv.org/abs/1708.06733
    """

    knowledge: ClassVar[Knowledge] = Knowledge.LOCAL
    poison_share: float = 0.5
    drip: float = 1.0
    size: int = 4
    corner: Corner = "bottom-right"
    row: int | None = None
    column: int | None = None
    value: float = 1.0
    target: int = 0

    def __post_init__(self) -> None:
        check_share(self.poison_share)
        if not 0 < self.drip <= 1:
            raise ConfigurationError(f"drip must be in (0, 1], got {self.drip}")
        _ = self.trigger  # checks the remaining parameters

    @property
    def trigger(self) -> SquareTrigger:
        """The square that activates the backdoor."""
        return SquareTrigger(self.size, self.corner, self.value, self.target, self.row, self.column)

    def poison(self, data: LabelledData, ctx: AttackContext) -> LabelledData:
        """Stamp and relabel a random share of the samples."""
        return stamp_share(data, self.trigger, self.poison_share, ctx.generator("poison"))

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the start-of-round model moved by a fraction of the update ``(d,)``; by all of it exactly."""
        del receiver, ctx
        return torch.lerp(base_of(view.own), view.own.vector, self.drip)
