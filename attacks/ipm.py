"""Inner-product manipulation (IPM): turns the aggregate's step against the honest one."""

from dataclasses import dataclass

from torch import Tensor

from flower_dfl.attacks.observation import KNOWLEDGE, Level, check_level, combine, observe
from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import Attack
from flower_dfl.types import AttackContext, AttackView, Knowledge, NodeId

__all__ = ["InnerProductManipulation"]


@dataclass(frozen=True, slots=True)
class InnerProductManipulation(Attack):
    r"""Send the mean update, multiplied by a negative number (untargeted).

    .. math:: m = o - \epsilon \, \bar u, \qquad \bar u = \frac{1}{|S|} \sum_{k \in S} (h_k - o)

    Under ``full`` knowledge the origin ``o`` is the receiver's start-of-round model and ``S`` the honest members of its
    closed neighbourhood; under ``partial`` they are the mean start of the Byzantine nodes and all of these. The inner
    product of the sent and the mean update is :math:`-\epsilon \|\bar u\|^2`. A small ``epsilon`` hides from distance
    filters; a plain mean with ``f`` of ``n`` Byzantine turns round only for ``epsilon > (n - f) / f``. The attack acts
    on updates: some code multiplies whole models instead.

    Args:
        epsilon: Length of the sent update in mean updates. Positive; 0.1 to 0.5 are stealthy, 100 is brutal.
        knowledge_level: Whose updates are averaged.

    References:
        Xie, Koyejo, Gupta, *Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product Manipulation*, UAI 2019.
        https://arxiv.org/abs/1903.03936
    """

    epsilon: float = 0.5
    knowledge_level: Level = "full"

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < float("inf"):
            raise ConfigurationError(f"epsilon must be positive and finite, got {self.epsilon}")
        check_level(self.knowledge_level)

    @property
    def knowledge(self) -> Knowledge:
        """What the knowledge level asks for."""
        return KNOWLEDGE[self.knowledge_level]

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the model whose update opposes the mean one ``(d,)``; the own half-step if nothing is seen."""
        seen = observe(view, receiver, ctx, self.knowledge_level)
        if seen is None:
            return view.own.vector
        n = len(seen.rows)
        return combine([seen.origin, *seen.rows], [1 + self.epsilon, *[-self.epsilon / n] * n])
