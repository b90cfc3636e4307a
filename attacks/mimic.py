"""Mimic: copies one honest node, so that its data count many times over."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from flower_dfl import randomness
from flower_dfl.attacks.observation import half_step_of
from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import Attack
from flower_dfl.types import AttackContext, AttackView, Knowledge, NodeId

__all__ = ["Mimic"]


@dataclass(frozen=True, slots=True)
class Mimic(Attack):
    r"""Send a copy of an honest node's half-step (untargeted; works where data differ between nodes).

    .. math:: m_{b \to i} = h_{k^*}

    No filter of models can tell the copy from the original. A rule that is also sent the start-of-round model gets the
    attacker's own.

    Convention: the copied node is given, or drawn with one key a run for every receiver, alike for all attackers. Where
    the graph changes, so does whom the key means. The authors learn a direction in a warm-up and copy the node that
    lies farthest along it.

    Args:
        target: Honest node that is copied for every receiver; ``random`` draws one of the receiver's honest neighbours
            of the round, or of all honest nodes where it has none, as in schedules with one peer a round.

    Raises:
        ConfigurationError: ``target`` is not an honest node.

    References:
        Karimireddy, He, Jaggi, *Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing*, ICLR 2022.
        https://arxiv.org/abs/2006.09365
    """

    knowledge: ClassVar[Knowledge] = Knowledge.OMNISCIENT
    target: int | Literal["random"] = "random"

    def __post_init__(self) -> None:
        if self.target != "random" and self.target < 0:
            raise ConfigurationError(f'target must be "random" or a node, got {self.target}')

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the copy ``(d,)``; the own half-step if the target has none, or there is nobody to copy."""
        target = self._target(receiver, ctx)
        copied = None if target is None else half_step_of(view, target)
        return (copied or view.own).vector.clone()

    def _target(self, receiver: NodeId, ctx: AttackContext) -> NodeId | None:
        if self.target != "random":
            if self.target not in ctx.neighbours or self.target in ctx.byzantine:
                raise ConfigurationError(f"mimic's target must be an honest node, got {self.target}")
            return self.target
        near = ctx.neighbours[receiver] - ctx.byzantine
        candidates = sorted(near or ctx.neighbours.keys() - ctx.byzantine - {receiver})
        if not candidates:
            return None
        key = randomness.generator(ctx.seed, f"mimic/{receiver}")
        return candidates[int(torch.randint(len(candidates), (), generator=key))]
