"""Equivocate: tells every neighbour a different version of a lie."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flower_dfl import randomness
from flower_dfl.attacks.observation import combine
from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import Attack
from flower_dfl.types import AttackContext, AttackView, Knowledge, LabelledData, NodeId, Trigger
from flower_dfl.validation import check_known

__all__ = ["Equivocate"]


@dataclass(frozen=True, slots=True)
class Equivocate(Attack):
    r"""Change the inner attack's lie by receiver.

    The lie is what the inner attack's message :math:`A(i)` adds to a truth :math:`t`:

    .. math:: m_{b \to i} = t + c_i \, (A(i) - t) + \rho \, \|A(i) - t\| \, z_i / \|z_i\|

    - ``sign``: :math:`c_i = \pm 1`; one half of the honest nodes, drawn anew each round, is lied to in one direction,
      the other half in the opposite one.
    - ``scale``: :math:`c_i \sim U[1 - \text{spread}, 1 + \text{spread}]`.
    - ``noise``: :math:`c_i = 1` and :math:`\rho` = spread, with a Gaussian direction :math:`z_i`.

    Draws have the key (receiver, round) and not the attacker: colluders change their lies to a receiver alike.
    ``spread = 0`` is the inner attack.

    Args:
        attack: The attack; in configurations a name, or ``{name = "alie", params = {}}``.
        mode: What differs between receivers.
        spread: How much, relative to the lie, for ``scale`` and ``noise``; not negative.
        truth: What the lie is measured from: the attacker's own half-step, or its start-of-round model (``base``), with
            which a poisoned training counts as a lie too.
    """

    attack: Attack
    mode: Literal["sign", "scale", "noise"] = "sign"
    spread: float = 0.5
    truth: Literal["half-step", "base"] = "half-step"

    def __post_init__(self) -> None:
        if not isinstance(self.attack, Attack):
            raise ConfigurationError(f"attack must be an attack, got {self.attack!r}")
        check_known("mode", self.mode, ["sign", "scale", "noise"])
        check_known("truth", self.truth, ["half-step", "base"])
        if not 0 <= self.spread < float("inf"):
            raise ConfigurationError(f"spread must not be negative, and finite, got {self.spread}")

    @property
    def knowledge(self) -> Knowledge:
        """The inner attack's."""
        return self.attack.knowledge

    @property
    def trigger(self) -> Trigger | None:
        """The inner attack's."""
        return self.attack.trigger

    def poison(self, data: LabelledData, ctx: AttackContext) -> LabelledData:
        """Return what the inner attack makes of the data."""
        return self.attack.poison(data, ctx)

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the receiver's version of the inner attack's message ``(d,)``."""
        message = self.attack.craft(view, receiver, ctx)
        truth = view.own.vector if self.truth == "half-step" else view.own.base
        if truth is None:
            raise ConfigurationError("equivocate needs the attacker's own start-of-round model")
        if self.mode == "sign":
            factor = _sign(receiver, ctx)
            return combine([truth, message], [1 - factor, factor])
        key = randomness.generator(ctx.seed, f"equivocate/{receiver}", ctx.round)
        if self.mode == "scale":
            factor = 1 + self.spread * (2 * float(torch.rand((), generator=key)) - 1)
            return combine([truth, message], [1 - factor, factor])
        noise = torch.randn(message.numel(), generator=key)
        length = float((message.double() - truth.double()).norm()) / max(float(noise.double().norm()), 1e-30)
        return combine([message, noise.to(message.device)], [1.0, self.spread * length])


def _sign(receiver: NodeId, ctx: AttackContext) -> float:
    """Return 1 for the half of the honest nodes that a shuffle of the round puts on even places, else -1."""
    honest = sorted(set(ctx.neighbours) - ctx.byzantine)
    if receiver not in honest:
        return 1.0
    places = torch.randperm(len(honest), generator=randomness.generator(ctx.seed, "equivocate", ctx.round)).tolist()
    return 1.0 if places[honest.index(receiver)] % 2 == 0 else -1.0
