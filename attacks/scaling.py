"""Scaling, also called model replacement: a boosted backdoor."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from flower_dfl.attacks.triggers import Corner, SquareTrigger
from flower_dfl.errors import ConfigurationError
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
    gamma: float | Literal["auto"] = 10.0
    poison_share: float = 0.5
    size: int = 4
    corner: Corner = "bottom-right"
    value: float = 1.0
    target: int = 0

    def __post_init__(self) -> None:
        if self.gamma != "auto" and not 1 <= self.gamma < float("inf"):
            raise ConfigurationError(f'gamma must be "auto" or at least 1 and finite, got {self.gamma}')
        if not 0 < self.poison_share <= 1:
            raise ConfigurationError(f"poison_share must be in (0, 1], got {self.poison_share}")
        _ = self.trigger  # checks the remaining parameters

    @property
    def trigger(self) -> SquareTrigger:
        """The square that activates the backdoor."""
        return SquareTrigger(self.size, self.corner, self.value, self.target)

    def poison(self, data: LabelledData, ctx: AttackContext) -> LabelledData:
        """Stamp and relabel a random share of the samples."""
        if self.target >= data.num_classes:
            raise ConfigurationError(f"target must be below the number of labels {data.num_classes}, got {self.target}")
        count = max(1, round(self.poison_share * len(data)))
        chosen = torch.randperm(len(data), generator=ctx.generator("poison"))[:count].to(data.labels.device)
        inputs, labels = data.inputs.clone(), data.labels.clone()
        inputs[chosen] = self.trigger.stamp(inputs[chosen], data.input_range)
        labels[chosen] = self.target
        return LabelledData(inputs, labels, data.num_classes, data.input_range)

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the boosted model ``(d,)``."""
        if view.own.base is None:
            raise ConfigurationError("scaling needs the attacker's own start-of-round model")
        update = view.own.vector - view.own.base
        return view.own.base + self._boost(receiver, ctx) * update

    def _boost(self, receiver: NodeId, ctx: AttackContext) -> float:
        if self.gamma != "auto":
            return self.gamma
        around = ctx.neighbours[receiver]
        return (len(around) + 1) / max(1, len(around & ctx.byzantine))
