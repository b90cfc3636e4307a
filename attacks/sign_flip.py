"""Sign flip: sends what was learned, with the opposite sign."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from flower_dfl.attacks.observation import KNOWLEDGE, check_level, combine, observe
from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import Attack
from flower_dfl.types import AttackContext, AttackView, Knowledge, NodeId
from flower_dfl.validation import check_known

__all__ = ["SignFlip"]


@dataclass(frozen=True, slots=True)
class SignFlip(Attack):
    r"""Send the negative of an update or of a model (untargeted).

    .. math:: m = o - \kappa \, (\bar h - o) \quad\text{(update)}, \qquad m = -\kappa \, \bar h \quad\text{(model)}

    :math:`\bar h` is the attacker's own half-step under ``local`` knowledge, the mean of all Byzantine ones under
    ``partial``, and the mean over the honest members of the receiver's closed neighbourhood under ``full``; the origin
    ``o`` is the attacker's own start-of-round model, the mean of the Byzantine ones, or the receiver's. On updates with
    full knowledge it is inner-product manipulation with ``epsilon = kappa``.

    Args:
        kappa: Factor. Positive.
        space: What changes its sign.
        knowledge_level: Whose half-step is flipped.

    References:
        Wu, Chen, Ling, *Byzantine-Resilient Decentralized Stochastic Optimization With Robust Aggregation Rules*, IEEE
        TSP 2023: the models' mean, with factor 1. https://arxiv.org/abs/2206.04568
    """

    kappa: float = 1.0
    space: Literal["update", "model"] = "update"
    knowledge_level: Literal["local", "partial", "full"] = "local"

    def __post_init__(self) -> None:
        if not 0 < self.kappa < float("inf"):
            raise ConfigurationError(f"kappa must be positive and finite, got {self.kappa}")
        check_known("space", self.space, ["update", "model"])
        check_level(self.knowledge_level, ("local", "partial", "full"))

    @property
    def knowledge(self) -> Knowledge:
        """What the knowledge level asks for."""
        return KNOWLEDGE[self.knowledge_level]

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the flipped model ``(d,)``; the own half-step if nothing is seen."""
        seen = observe(view, receiver, ctx, self.knowledge_level)
        if seen is None:
            return view.own.vector
        n = len(seen.rows)
        start = 1 + self.kappa if self.space == "update" else 0.0
        return combine([seen.origin, *seen.rows], [start, *[-self.kappa / n] * n])
