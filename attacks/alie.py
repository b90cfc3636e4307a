"""A Little Is Enough (ALIE): hides inside the spread of the honest models."""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from torch import Tensor

from flower_dfl.attacks.observation import KNOWLEDGE, Level, check_level, craft_columns, observe
from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import Attack
from flower_dfl.types import AttackContext, AttackView, Knowledge, NodeId
from flower_dfl.validation import check_known

__all__ = ["Alie"]


@dataclass(frozen=True, slots=True)
class Alie(Attack):
    r"""Send the mean model shifted by ``z`` standard deviations in every coordinate (untargeted).

    .. math:: m = \mu - z \, \sigma, \qquad z = \Phi^{-1}\!\left(\frac{n - f - s}{n - f}\right), \quad
              s = \lfloor n / 2 + 1 \rfloor - f

    with mean and standard deviation over the models that are seen: those of the Byzantine nodes (``partial``) or of the
    honest members of the receiver's closed neighbourhood (``full``). ``n`` is the size of that neighbourhood and ``f``
    the number of Byzantine nodes in it (both in the graph, whoever is away), so ``z`` differs by receiver:
    :meth:`z_value` reports it. On models that agree the attack is none.

    Convention: on small neighbourhoods the formula gives ``z <= 0``, an attack that helps; where the Byzantine nodes
    already are the majority it is infinite. Both are refused, never clamped: set ``z`` there. The standard deviation is
    that of the population, as in the authors' code.

    Args:
        z: Shift in standard deviations, positive and finite, or ``auto`` by the formula.
        knowledge_level: Whose models give mean and deviation.
        direction: ``minus`` subtracts in every coordinate, as the authors do; ``against-update`` moves every coordinate
            against the sign of the mean update.

    Raises:
        ConfigurationError: ``z`` is ``auto`` and the receiver's neighbourhood has no positive finite value.

    References:
        Baruch, Baruch, Goldberg, *A Little Is Enough: Circumventing Defenses For Distributed Learning*, NeurIPS 2019.
        https://arxiv.org/abs/1902.06156
    """

    z: float | Literal["auto"] = "auto"
    knowledge_level: Level = "partial"
    direction: Literal["minus", "against-update"] = "minus"

    def __post_init__(self) -> None:
        if self.z != "auto" and not 0 < self.z < float("inf"):
            raise ConfigurationError(f'z must be "auto" or positive and finite, got {self.z}')
        check_level(self.knowledge_level)
        check_known("direction", self.direction, ["minus", "against-update"])

    @property
    def knowledge(self) -> Knowledge:
        """What the knowledge level asks for."""
        return KNOWLEDGE[self.knowledge_level]

    def z_value(self, n: int, f: int) -> float:
        """Return the shift that is used in a closed neighbourhood of ``n`` with ``f`` Byzantine members.

        >>> round(Alie().z_value(n=50, f=24), 4)
        1.4261
        """
        if self.z != "auto":
            return self.z
        supporters, honest = n // 2 + 1 - f, n - f
        if supporters <= 0 or 2 * supporters >= honest:
            kind = "infinite" if supporters <= 0 else "not positive"
            raise ConfigurationError(
                f"ALIE's z is {kind} in a closed neighbourhood of n={n} with f={f} Byzantine members: "
                f"it needs 0 < 2 s < n - f, and s = floor(n/2 + 1) - f = {supporters}; set z"
            )
        return NormalDist().inv_cdf((honest - supporters) / honest)

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the shifted mean ``(d,)``; the own half-step for a receiver without Byzantine neighbours."""
        around = ctx.neighbours[receiver]
        f = len(around & ctx.byzantine)
        seen = observe(view, receiver, ctx, self.knowledge_level)
        if f == 0 or seen is None:
            return view.own.vector
        z = self.z_value(len(around) + 1, f)

        def shifted(updates: Tensor, _: slice) -> Tensor:
            mean, deviation = updates.mean(dim=0), updates.std(dim=0, correction=0)
            return mean - z * deviation * (1 if self.direction == "minus" else mean.sign())

        return craft_columns(seen, shifted)
