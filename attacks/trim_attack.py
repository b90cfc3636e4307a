"""The trim attack: values just outside the honest range, on the side that honest updates move away from."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flower_dfl import randomness
from flower_dfl.attacks.observation import KNOWLEDGE, Level, check_level, craft_columns, observe
from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import Attack
from flower_dfl.types import AttackContext, AttackView, Knowledge, NodeId

__all__ = ["TrimAttack"]


@dataclass(frozen=True, slots=True)
class TrimAttack(Attack):
    r"""Draw every coordinate just outside the range of the others, against the direction of the mean update.

    With updates :math:`u_k = h_k - o`, their mean's sign s and, coordinate by coordinate, for ``full`` knowledge

    .. math:: m - o \sim U[u_{\min} / b, u_{\min}] \text{ if } u_{\min} > 0 \text{, else } U[b\,u_{\min}, u_{\min}]
              \quad (s > 0), \qquad
              U[u_{\max}, b\,u_{\max}] \text{ if } u_{\max} > 0 \text{, else } U[u_{\max}, u_{\max} / b] \quad (s < 0)

    over the honest members of the receiver's closed neighbourhood, with its start-of-round model as the origin. For
    ``partial`` knowledge, with mean and deviation over the Byzantine half-steps and the mean of their starts as origin,

    .. math:: m - o \sim U[\mu - 4\sigma, \mu - 3\sigma] \quad (s > 0), \qquad
              U[\mu + 3\sigma, \mu + 4\sigma] \quad (s < 0)

    Where the mean update is zero it is sent as it is. Every attacker draws anew for every receiver and round. Against
    the trimmed mean and the median (untargeted); ``full`` with ``b = 1`` sends the extreme honest values themselves.

    Convention: in update space, because on raw weights ``b * u_min`` depends on the size of the weights. The authors'
    code shifts by a fixed 3.5 deviations under partial knowledge; the paper's range is kept here. Deviations are those
    of the population.

    Args:
        b: Width of the range. At least 1.
        knowledge_level: Whose updates are seen.

    References:
        Fang, Cao, Jia, Gong, *Local Model Poisoning Attacks to Byzantine-Robust Federated Learning*, USENIX Security
        2020. https://www.usenix.org/conference/usenixsecurity20/presentation/fang
    """

    b: float = 2.0
    knowledge_level: Level = "full"

    def __post_init__(self) -> None:
        if not 1 <= self.b < float("inf"):
            raise ConfigurationError(f"b must be at least 1 and finite, got {self.b}")
        check_level(self.knowledge_level)

    @property
    def knowledge(self) -> Knowledge:
        """What the knowledge level asks for."""
        return KNOWLEDGE[self.knowledge_level]

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the drawn model ``(d,)``; the own half-step if nothing is seen."""
        seen = observe(view, receiver, ctx, self.knowledge_level)
        if seen is None:
            return view.own.vector
        key = randomness.generator(ctx.seed, f"trim-attack/{receiver}", ctx.round, ctx.node)
        draws = torch.rand(seen.origin.numel(), generator=key).to(seen.origin.device)

        def outside(updates: Tensor, part: slice) -> Tensor:
            near, far = self._range(updates)
            return near + draws[part].double() * (far - near)

        return craft_columns(seen, outside)

    def _range(self, updates: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two ends of each coordinate's range ``(block,)``, from the updates ``(n, block)``."""
        mean = updates.mean(dim=0)
        sign = mean.sign()
        if self.knowledge_level == "partial":
            deviation = updates.std(dim=0, correction=0)
            return mean - 3 * sign * deviation, mean - 4 * sign * deviation
        extreme = torch.where(sign > 0, updates.amin(dim=0), updates.amax(dim=0))
        # Away from the honest values: a value on the direction's side shrinks, one on the other side grows.
        far = torch.where(extreme * sign > 0, extreme / self.b, extreme * self.b)
        return torch.where(sign == 0, mean, extreme), torch.where(sign == 0, mean, far)
