"""Distributed backdoor: each attacker trains on one part of a trigger that works as a whole."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from flower_dfl.attacks.poisoning import Gamma, boost_for, boosted, check_gamma, check_share, stamp_share
from flower_dfl.attacks.triggers import Auto, BarsTrigger
from flower_dfl.protocols import Attack
from flower_dfl.types import AttackContext, AttackView, Knowledge, LabelledData, NodeId

__all__ = ["Dba"]


@dataclass(frozen=True, slots=True)
class Dba(Attack):
    r"""Split a trigger of four bars among the attackers; the honest models are to learn their union.

    The attacker of rank a among the Byzantine nodes stamps part a mod 4 on a share of its samples. The attack success
    rate is measured with all four bars. What is sent is boosted as in :class:`~flower_dfl.attacks.scaling.Scaling`:

    .. math:: m_{b \to i} = \theta_b^t + \gamma \, (h_b - \theta_b^t)

    The paper's multi-shot attack, in every round without boost, is ``gamma = 1``; its single shot boosts by 100. The
    paper's target is label 2 and its CIFAR-10 share 5/64; ours are those of the other attacks and of its MNIST runs.

    Args:
        gamma: Boost, at least 1; ``auto`` is :math:`|G_i| / |N_i \cap B|` of the receiver.
        poison_share: Fraction of the local samples that get the part and the target label, in (0, 1].
        length: Pixels of a bar; ``auto`` by the size of the images.
        gap: Pixels between bars; ``auto`` likewise.
        value: Brightness of the bars, a fraction of the input range.
        target: Label that they lead to.

    References:
        Xie, Huang, Chen, Li, *DBA: Distributed Backdoor Attacks against Federated Learning*, ICLR 2020.
        https://openreview.net/forum?id=rkgyS0VFvr
    """

    knowledge: ClassVar[Knowledge] = Knowledge.LOCAL
    gamma: Gamma = 1.0
    poison_share: float = 20 / 64
    length: Auto = "auto"
    gap: Auto = "auto"
    value: float = 1.0
    target: int = 0

    def __post_init__(self) -> None:
        check_gamma(self.gamma)
        check_share(self.poison_share)
        _ = self.trigger  # checks the remaining parameters

    @property
    def trigger(self) -> BarsTrigger:
        """All four bars."""
        return BarsTrigger(self.length, self.gap, None, self.value, self.target)

    def poison(self, data: LabelledData, ctx: AttackContext) -> LabelledData:
        """Stamp the attacker's own part on a random share of the samples and relabel them."""
        part = sorted(ctx.byzantine).index(ctx.node) % 4
        return stamp_share(data, replace(self.trigger, part=part), self.poison_share, ctx.generator("poison"))

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the boosted model ``(d,)``."""
        return boosted(view.own, boost_for(self.gamma, receiver, ctx))
