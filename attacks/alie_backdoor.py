"""A Little Is Enough, backdoor variant: a backdoor that stays within the colluders' own spread."""

import functools
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from flower_dfl.attacks.observation import columns
from flower_dfl.attacks.poisoning import check_share, learner_of, stamp_share
from flower_dfl.attacks.triggers import Corner, SquareTrigger
from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import Attack
from flower_dfl.randomness import Sampling, epoch_order
from flower_dfl.types import AttackContext, AttackView, Knowledge, LabelledData, NodeId, Update
from flower_dfl.vectors import all_finite

__all__ = ["AlieBackdoor"]


@dataclass(frozen=True, slots=True)
class AlieBackdoor(Attack):
    r"""Train a backdoor into a clean half-step, boost the deviation and clip it into the colluders' spread.

    .. math:: \theta^* \approx \arg\min_\theta \ell_{\mathrm{backdoor}}(\theta)
              + \frac{\alpha}{d} \|\theta - h_b\|^2, \qquad
              m_{b \to i} = \mathrm{clip}\big(h_b + \kappa (\theta^* - h_b),\; \mu - z\sigma,\; \mu + z\sigma\big)

    coordinate by coordinate, with mean :math:`\mu` and standard deviation :math:`\sigma` (divided by n) of all
    colluders' half-steps, which are trained on clean data. The same message goes to every receiver. The local model is
    used in evaluation mode.

    One setting says little about a rule. Small ``z`` pass most rules and harm nobody: on Fashion-MNIST, plain averaging
    itself ends at a few per cent attack success with ``z = 1.5``. Large ``z`` are seen. How a rule stands is the worst
    attack success over a sweep of ``z`` (1 to 8). A single attacker has no spread and sends its clean half-step.

    Args:
        z: Width of the allowed interval in standard deviations. Positive.
        boost: Factor :math:`\kappa` on the deviation before clipping. At least 1.
        epochs: Epochs of backdoor training a round. At least 1.
        alpha: Pull back to the clean half-step; 0 is none. Not negative.
        lr: Learning rate of the backdoor training; ``auto`` is that of local training.
        batch_size: Samples of a step. At least 1.
        sampling: How the backdoor training draws: ``shuffle`` goes through the data once an epoch, ``class-balanced``
            draws the clean labels equally often, which hides better among nodes that train so.
        poison_share: Fraction of the attacker's samples that get trigger and target label, in (0, 1].
        size: Side of the square trigger in pixels.
        corner: Its corner.
        value: Its brightness, a fraction of the input range.
        target: Label that it leads to.

    References:
        Baruch, Baruch, Goldberg, *A Little Is Enough: Circumventing Defenses For Distributed Learning*, NeurIPS 2019.
        https://arxiv.org/abs/1902.06156
    """

    knowledge: ClassVar[Knowledge] = Knowledge.COLLUDING
    z: float = 3.0
    boost: float = 5.0
    epochs: int = 3
    alpha: float = 4.0
    lr: float | Literal["auto"] = "auto"
    batch_size: int = 32
    sampling: Sampling = "shuffle"
    poison_share: float = 0.5
    size: int = 4
    corner: Corner = "bottom-right"
    value: float = 1.0
    target: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.z < float("inf"):
            raise ConfigurationError(f"z must be positive and finite, got {self.z}")
        if not 1 <= self.boost < float("inf"):
            raise ConfigurationError(f"boost must be at least 1 and finite, got {self.boost}")
        if min(self.epochs, self.batch_size) < 1:
            raise ConfigurationError(
                f"epochs and batch_size must be at least 1, got {self.epochs} and {self.batch_size}"
            )
        if self.sampling not in get_args(Sampling):
            raise ConfigurationError(f'sampling must be "shuffle" or "class-balanced", got {self.sampling!r}')
        if not 0 <= self.alpha < float("inf"):
            raise ConfigurationError(f"alpha must not be negative, and finite, got {self.alpha}")
        if self.lr != "auto" and not 0 < self.lr < float("inf"):
            raise ConfigurationError(f'lr must be "auto" or positive and finite, got {self.lr}')
        check_share(self.poison_share)
        _ = self.trigger  # checks the remaining parameters

    @property
    def trigger(self) -> SquareTrigger:
        """The square that activates the backdoor."""
        return SquareTrigger(self.size, self.corner, self.value, self.target)

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the clipped backdoored model ``(d,)``."""
        del receiver
        return _message(self, view, ctx).clone()

    def backdoored(self, own: Update, data: LabelledData, ctx: AttackContext) -> Tensor:
        """Return the clean half-step trained further on backdoored data ``(d,)``, neither boosted nor clipped."""
        learner, draw = learner_of(ctx), ctx.generator("alie-backdoor")
        poisoned = stamp_share(data, self.trigger, self.poison_share, draw)
        lr = ctx.lr if self.lr == "auto" else self.lr
        pull = 2 * self.alpha / own.vector.numel()
        vector = own.vector.clone()
        for _ in range(self.epochs):
            order = epoch_order(data.labels, self.sampling, draw)
            for batch in torch.split(order, self.batch_size):
                slope = learner.gradient(vector, poisoned.inputs[batch], poisoned.labels[batch])
                vector -= lr * (slope + pull * (vector - own.vector))
        return vector


@functools.lru_cache(maxsize=1)
def _message(attack: AlieBackdoor, view: AttackView, ctx: AttackContext) -> Tensor:
    """Return what an attacker sends in a round; remembered, as every receiver gets it. Views compare by identity."""
    mine = next(k for k, update in enumerate(view.byzantine) if update.sender == view.own.sender)
    vector = attack.backdoored(view.own, view.byzantine_data[mine], ctx)
    message = torch.empty_like(vector)
    colluders = [update for update in view.byzantine if all_finite(update.vector)] or [view.own]
    for part in columns(len(vector)):
        clean = view.own.vector[part].double()
        seen = torch.stack([update.vector[part] for update in colluders]).double()  # (b, block)
        spread, mean = torch.std_mean(seen, dim=0, correction=0)
        wanted = clean + attack.boost * (vector[part].double() - clean)
        message[part] = wanted.clamp(mean - attack.z * spread, mean + attack.z * spread)
    return message
