"""Sybil: all Byzantine nodes send one attacker's message."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flower_dfl import randomness
from flower_dfl.attacks.observation import combine, leader, led_by
from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import Attack
from flower_dfl.types import AttackContext, AttackView, Knowledge, LabelledData, NodeId, Trigger

__all__ = ["Sybil"]


@dataclass(frozen=True, slots=True)
class Sybil(Attack):
    r"""One attacker with many identities: every Byzantine node sends what the first of them would.

    .. math:: m_{b \to i} = A_{b_0}(i) + \sigma \, z_b, \qquad b_0 = \min B, \quad z_b \sim \mathcal{N}(0, I_d)

    The inner attack ``A`` sees no more than its own knowledge level allows, from the place of :math:`b_0`; copying its
    messages takes colluding. Receivers still get different messages if the inner attack lies to each of them
    differently. A node that has diverged leads nobody. Every Byzantine node poisons its own data as the inner attack
    does. ``sigma = 0`` sends exact copies; start-of-round models and buffers that travel with them are each attacker's
    own.

    Args:
        attack: The attack that is multiplied; in configurations a name, or ``{name = "alie", params = {}}``.
        sigma: Standard deviation of noise that hides the copies from a search for duplicates, in the units of the
            models. Not negative.

    References:
        Fung, Yoon, Beschastnikh, *The Limitations of Federated Learning in Sybil Settings*, RAID 2020.
        https://www.usenix.org/conference/raid2020/presentation/fung
    """

    attack: Attack
    sigma: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.attack, Attack):
            raise ConfigurationError(f"attack must be an attack, got {self.attack!r}")
        if not 0 <= self.sigma < float("inf"):
            raise ConfigurationError(f"sigma must not be negative, and finite, got {self.sigma}")

    @property
    def knowledge(self) -> Knowledge:
        """The inner attack's, but at least colluding."""
        return max(self.attack.knowledge, Knowledge.COLLUDING)

    @property
    def trigger(self) -> Trigger | None:
        """The inner attack's."""
        return self.attack.trigger

    def poison(self, data: LabelledData, ctx: AttackContext) -> LabelledData:
        """Return what the inner attack makes of the data."""
        return self.attack.poison(data, ctx)

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the first Byzantine node's message ``(d,)``, with noise."""
        borrowed, told = led_by(view, ctx, leader(view, ctx.byzantine), self.attack.knowledge)
        message = self.attack.craft(borrowed, receiver, told)
        if self.sigma == 0:
            return message
        key = randomness.generator(ctx.seed, f"sybil/{receiver}", ctx.round, ctx.node)
        noise = torch.randn(message.numel(), generator=key).to(message.device)
        return combine([message, noise], [1.0, self.sigma])
