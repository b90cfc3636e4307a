"""Min-sum: as far from all honest models together as the most remote, or the most central, of them."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from flower_dfl.attacks.deviation import Direction, measure, pushed
from flower_dfl.attacks.observation import KNOWLEDGE, Level, check_level, observe
from flower_dfl.protocols import Attack
from flower_dfl.types import AttackContext, AttackView, Knowledge, NodeId
from flower_dfl.validation import check_known

__all__ = ["MinSum"]


@dataclass(frozen=True, slots=True)
class MinSum(Attack):
    r"""Push the mean update as far as its summed squared distances stay those of one of the updates (untargeted).

    .. math:: m = o + \mu - \lambda p, \qquad
              \sum_k \|\mu - \lambda p - u_k\|^2 \le \max_k \sum_l \|u_k - u_l\|^2

    with the largest such :math:`\lambda`; origin, updates, directions and limit cases are those of min-max. Since the
    updates lie around their mean, :math:`\lambda = \sqrt{(S - \sum_k \|\mu - u_k\|^2) / (n \|p\|^2)}` for the bound S.

    Convention: the paper bounds by the largest sum, ``max``; the authors' code by the smallest, ``min``, which pushes
    less far.

    Args:
        direction: Direction p: the mean update (``unit``), standard deviations (``std``) or signs (``sign``).
        knowledge_level: Whose updates count.
        bound: Which of the sums is the bound.

    References:
        Shejwalkar, Houmansadr, *Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses for
        Federated Learning*, NDSS 2021.
        https://www.ndss-symposium.org/ndss-paper/manipulating-the-byzantine-optimizing-model-poisoning-attacks-and-defenses-for-federated-learning/
    """

    direction: Direction = "unit"
    knowledge_level: Level = "full"
    bound: Literal["max", "min"] = "max"

    def __post_init__(self) -> None:
        check_known("direction", self.direction, ["unit", "std", "sign"])
        check_known("bound", self.bound, ["max", "min"])
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
        spread, _, length, squared = measure(seen, self.direction)
        if float(length) == 0:
            return pushed(seen, self.direction, 0.0)
        sums = squared.sum(dim=1)
        room = (sums.max() if self.bound == "max" else sums.min()) - spread.sum()
        return pushed(seen, self.direction, float((room.clamp(min=0) / (len(seen.rows) * length)).sqrt()))
