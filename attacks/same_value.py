"""Same value: every coordinate is one number; the zero attack is its special case."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import Attack
from flower_dfl.types import AttackContext, AttackView, Knowledge, NodeId
from flower_dfl.validation import check_known

__all__ = ["SameValue"]


@dataclass(frozen=True, slots=True)
class SameValue(Attack):
    r"""Send the same number in every coordinate (untargeted).

    .. math:: m = v \, \mathbf{1} \quad\text{(model)}, \qquad m = \theta_b^t + v \, \mathbf{1} \quad\text{(update)}

    ``value = 0`` is the zero attack: a model of zeros, or an attacker that pretends to have learned nothing.

    Args:
        value: The number, in the units of the models. Finite.
        space: Whether the model or the update is constant.

    References:
        Li, Xu, Chen, Giannakis, Ling, *RSA: Byzantine-Robust Stochastic Aggregation Methods for Distributed Learning
        from Heterogeneous Datasets*, AAAI 2019. https://arxiv.org/abs/1811.03761
    """

    knowledge: ClassVar[Knowledge] = Knowledge.LOCAL
    value: float = 0.0
    space: Literal["model", "update"] = "model"

    def __post_init__(self) -> None:
        if not abs(self.value) <= torch.finfo(torch.float32).max:
            raise ConfigurationError(f"value must be finite in float32, got {self.value}")
        check_known("space", self.space, ["model", "update"])

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the constant model or the start-of-round model plus a constant ``(d,)``."""
        del receiver, ctx
        constant = torch.full_like(view.own.vector, self.value)
        if self.space == "model":
            return constant
        if view.own.base is None:
            raise ConfigurationError("same-value needs the attacker's own start-of-round model")
        return view.own.base + constant
