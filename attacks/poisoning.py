"""What targeted attacks share: a share of stamped samples, a boosted update."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from flower_dfl.errors import ConfigurationError
from flower_dfl.types import AttackContext, LabelledData, Learner, NodeId, Trigger, Update

__all__ = [
    "Gamma",
    "base_of",
    "boost_for",
    "boosted",
    "check_gamma",
    "check_share",
    "learner_of",
    "pick_share",
    "stamp_share",
]

Gamma: TypeAlias = float | Literal["auto"]
"""A boost, at least 1; ``auto`` is the one that replaces plain averaging."""


def check_share(share: float, name: str = "poison_share") -> None:
    """Raise unless a share of poisoned samples is in (0, 1]."""
    if not 0 < share <= 1:
        raise ConfigurationError(f"{name} must be in (0, 1], got {share}")


def check_gamma(gamma: Gamma) -> None:
    """Raise unless a boost is ``auto``, or at least 1 and finite."""
    if gamma != "auto" and not 1 <= gamma < float("inf"):
        raise ConfigurationError(f'gamma must be "auto" or at least 1 and finite, got {gamma}')


def pick_share(count: int, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw a share of ``count`` samples, at least one; return the indices drawn and the others, both in random order.

    >>> chosen, rest = pick_share(10, 0.25, torch.Generator().manual_seed(0))
    >>> len(chosen), len(rest)
    (2, 8)
    """
    order = torch.randperm(count, generator=generator)
    chosen = max(1, round(share * count))
    return order[:chosen], order[chosen:]


def stamp_share(data: LabelledData, trigger: Trigger, share: float, generator: torch.Generator) -> LabelledData:
    """Return the data with trigger and target label on a random share of the samples."""
    if trigger.target >= data.num_classes:
        raise ConfigurationError(f"target must be below the number of labels {data.num_classes}, got {trigger.target}")
    chosen = pick_share(len(data), share, generator)[0].to(data.labels.device)
    inputs, labels = data.inputs.clone(), data.labels.clone()
    inputs[chosen] = trigger.stamp(inputs[chosen], data.input_range)
    labels[chosen] = trigger.target
    return LabelledData(inputs, labels, data.num_classes, data.input_range)


def base_of(own: Update) -> Tensor:
    """Return the start-of-round model ``(d,)`` of the attacker's own half-step, which its engine always supplies."""
    if own.base is None:
        raise ConfigurationError("the attack needs the attacker's own start-of-round model")
    return own.base


def learner_of(ctx: AttackContext) -> Learner:
    """Return the local model, which every engine supplies."""
    if ctx.learner is None:
        raise ConfigurationError("the attack needs the local model: give a learner")
    return ctx.learner


def boost_for(gamma: Gamma, receiver: NodeId, ctx: AttackContext) -> float:
    r"""Return a boost as a number: ``auto`` is :math:`|G_i| / |N_i \cap B|` of the receiver."""
    if gamma != "auto":
        return gamma
    around = ctx.neighbours[receiver]
    return (len(around) + 1) / max(1, len(around & ctx.byzantine))


def boosted(own: Update, factor: float) -> Tensor:
    """Return the start-of-round model plus ``factor`` times the update ``(d,)``."""
    base = base_of(own)
    return base + factor * (own.vector - base)
