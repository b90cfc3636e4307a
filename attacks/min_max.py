"""Min-max: as far from the mean as no honest model is from the next."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flower_dfl.attacks.deviation import Direction, measure, pushed
from flower_dfl.attacks.observation import KNOWLEDGE, Level, check_level, observe
from flower_dfl.protocols import Attack
from flower_dfl.types import AttackContext, AttackView, Knowledge, NodeId
from flower_dfl.validation import check_known

__all__ = ["MinMax"]


@dataclass(frozen=True, slots=True)
class MinMax(Attack):
    r"""Push the mean update as far as its largest distance from an update stays one between two of them (untargeted).

    .. math:: m = o + \mu - \lambda p, \qquad
              \max_k \|\mu - \lambda p - u_k\|^2 \le \max_{k,l} \|u_k - u_l\|^2

    with the largest such :math:`\lambda`, and :math:`p` = :math:`\mu` (``unit``), the coordinates' standard deviations
    (``std``) or :math:`\operatorname{sign} \mu` (``sign``); the length of p cancels out. Under ``full`` knowledge the
    origin ``o`` is the receiver's start-of-round model and the updates are those of the honest members of its closed
    neighbourhood; under ``partial`` they are the mean start of the Byzantine nodes and their updates. Models that
    agree, and a single one, leave no room: their mean is sent.

    Convention: the bound is solved exactly; the authors approach it by halving steps from 10. Their deviations are
    those of a sample, which changes p by a factor only.

    Args:
        direction: Direction p.
        knowledge_level: Whose updates count.

    References:
        Shejwalkar, Houmansadr, *Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses for
        Federated Learning*, NDSS 2021.
        https://www.ndss-symposium.org/ndss-paper/manipulating-the-byzantine-optimizing-model-poisoning-attacks-and-defenses-for-federated-learning/
    """

    direction: Direction = "unit"
    knowledge_level: Level = "full"

    def __post_init__(self) -> None:
        check_known("direction", self.direction, ["unit", "std", "sign"])
        check_level(self.knowledge_level)

    @property
    def knowledge(self) -> Knowledge:
        """What the knowledge level asks for."""
        return KNOWLEDGE[self.knowledge_level]

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the pushed mean ``(d,)``; the own half-step if nothing is seen."""
        seen = observe(view, receiver, ctx, self.knowledge_level)
        if seen is None:
            return view.own.vector
        spread, slope, length, squared = measure(seen, self.direction)
        if float(length) == 0:
            return pushed(seen, self.direction, 0.0)
        room = (squared.max() - spread).clamp(min=0)  # the mean is no farther from an update than another update
        roots = (slope + torch.sqrt(slope.square() + length * room)) / length  # (n,)
        return pushed(seen, self.direction, float(roots.min().clamp(min=0)))
