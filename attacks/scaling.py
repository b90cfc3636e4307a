"""Scaling, also called model replacement: a boosted backdoor."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from flower_dfl.attacks.poisoning import Gamma, boost_for, boosted, check_gamma, check_share, stamp_share
from flower_dfl.attacks.triggers import Corner, SquareTrigger
from flower_dfl.protocols import Attack
from flower_dfl.types import AttackContext, AttackView, Knowledge, LabelledData, NodeId

__all__ = ["Scaling"]


@dataclass(frozen=True, slots=True)
class Scaling(Attack):
    r"""Train on data that are half backdoored, and send the update multiplied by ``gamma``.

    .. math:: m_{b \to i} = \theta_b^t + \gamma \, (h_b - \theta_b^t)

    ``gamma = 1`` is the unscaled backdoor. Data poisoning and model poisoning, targeted.

    Args:
        gamma: Boost, at least 1; ``auto`` is :math:`|G_i| / |N_i \cap B|` of the receiver, with which plain averaging
            of otherwise unmoved models is replaced by the backdoored one.
        poison_share: Fraction of the local samples that get trigger and target label, in (0, 1].
        size: Side of the square trigger in pixels.
        corner: Its corner.
        value: Its brightness, a fraction of the input range.
        target: Label that it leads to.

    References:
        Bagdasaryan, Veit, Hua, Estrin, Shmatikov, *How To Backdoor Federated Learning*, AISTATS 2020.
        https://proceedings.mlr.press/v108/bagdasaryan20a.html
    """

    knowledge: ClassVar[Knowledge] = Knowledge.LOCAL
    gamma: Gamma = 10.0
    poison_share: float = 0.5
    size: int = 4
    corner: Corner = "bottom-right"
    value: float = 1.0
    target: int = 0

    def __post_init__(self) -> None:
        check_gamma(self.gamma)
        check_share(self.poison_share)
        _ = self.trigger  # checks the remaining parameters

    @property
    def trigger(self) -> SquareTrigger:
        """The square that activates the backdoor."""
        return SquareTrigger(self.size, self.corner, self.value, self.target)

    def poison(self, data: LabelledData, ctx: AttackContext) -> LabelledData:
        """Stamp and relabel a random share of the samples."""
        return stamp_share(data, self.trigger, self.poison_share, ctx.generator("poison"))

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the boosted model ``(d,)``."""
        return boosted(view.own, boost_for(self.gamma, receiver, ctx))
