"""Gaussian: sends noise."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flower_dfl import randomness
from flower_dfl.attacks.observation import combine, observe
from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import Attack
from flower_dfl.types import AttackContext, AttackView, Knowledge, NodeId
from flower_dfl.validation import check_known

__all__ = ["Gaussian"]


@dataclass(frozen=True, slots=True)
class Gaussian(Attack):
    r"""Send a centre plus independent Gaussian noise, drawn anew for every receiver and round (untargeted).

    .. math:: m_{b \to i} = c + \sigma \, z, \qquad z \sim \mathcal{N}(0, I_d)

    Args:
        sigma: Standard deviation of the noise, in the units of the models. Positive.
        center: ``mean`` is the mean over the honest members of the receiver's closed neighbourhood (needs to see them;
            published with ``sigma = 30``), ``own`` the attacker's own half-step, ``zero`` the origin (published with a
            variance of 200).

    References:
        Wu, Chen, Ling, *Byzantine-Resilient Decentralized Stochastic Optimization With Robust Aggregation Rules*, IEEE
        TSP 2023. https://arxiv.org/abs/2206.04568
    """

    sigma: float = 30.0
    center: Literal["mean", "own", "zero"] = "mean"

    def __post_init__(self) -> None:
        if not 0 < self.sigma < float("inf"):
            raise ConfigurationError(f"sigma must be positive and finite, got {self.sigma}")
        check_known("center", self.center, ["mean", "own", "zero"])

    @property
    def knowledge(self) -> Knowledge:
        """Full for the mean of the honest models, else local."""
        return Knowledge.OMNISCIENT if self.center == "mean" else Knowledge.LOCAL

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the noisy model ``(d,)``; the own half-step if there is no centre to be seen."""
        own = view.own.vector
        seen = observe(view, receiver, ctx, "full" if self.center == "mean" else "local")
        if seen is None:
            return own
        key = randomness.generator(ctx.seed, f"gaussian/{receiver}", ctx.round, ctx.node)
        noise = torch.randn(own.numel(), generator=key).to(own.device)
        share = 0.0 if self.center == "zero" else 1 / len(seen.rows)
        return combine([noise, *seen.rows], [self.sigma, *[share] * len(seen.rows)])
