"""What attacks share: whose models they see, where updates start, and sums in float64 on blocks of columns.

A crafted model is an *origin* plus a crafted update. All models that an attack looks at are taken relative to the same
origin, so distances between updates are the distances that the receiver will measure between models.
"""

import functools
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from flower_dfl.errors import ConfigurationError
from flower_dfl.strategies.kernels import weighted_mean
from flower_dfl.types import AttackContext, AttackView, Knowledge, NodeId, Update
from flower_dfl.validation import check_known
from flower_dfl.vectors import all_finite

__all__ = [
    "KNOWLEDGE",
    "Level",
    "Observation",
    "Weighting",
    "check_level",
    "columns",
    "combine",
    "craft_columns",
    "half_step_of",
    "leader",
    "led_by",
    "mixing_weights",
    "neighbourhood",
    "observe",
    "senders",
    "update_columns",
    "weight_of_attackers",
]

Level = Literal["full", "partial"]
"""The literature's names: every honest half-step of the round, or those of the Byzantine nodes."""

Weighting = Literal["metropolis", "uniform"]
"""The gossip weights that an attack expects its receiver to use."""

KNOWLEDGE: Mapping[str, Knowledge] = {
    "full": Knowledge.OMNISCIENT,
    "partial": Knowledge.COLLUDING,
    "local": Knowledge.LOCAL,
}

_BLOCK = 32_768
"""Columns at a time: torch starts no thread for so few, so sums never depend on the number of threads."""


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """The models that an attack imitates or harms.

    Attributes:
        senders: Whose they are, ascending.
        rows: Their finite half-steps, each ``(d,)``, at least one.
        origin: Where their updates start ``(d,)``.
    """

    senders: tuple[NodeId, ...]
    rows: tuple[Tensor, ...]
    origin: Tensor


def check_level(level: str, valid: Sequence[str] = ("full", "partial")) -> None:
    """Raise a :class:`ConfigurationError` unless ``level`` is one of ``valid``."""
    check_known("knowledge_level", level, list(valid))


def neighbourhood(view: AttackView, receiver: NodeId, ctx: AttackContext) -> tuple[Update, ...]:
    """Return the visible finite half-steps of the honest members of the receiver's closed neighbourhood, sorted."""
    members = ctx.neighbours[receiver] | {receiver}
    return tuple(u for u in view.honest if u.sender in members and all_finite(u.vector))


def half_step_of(view: AttackView, node: NodeId) -> Update | None:
    """Return an honest node's half-step; None if it takes no part in the round, or has diverged."""
    return next((u for u in view.honest if u.sender == node and all_finite(u.vector)), None)


def leader(view: AttackView, near: Container[NodeId]) -> int:
    """Return the index in the view of the first of some Byzantine nodes that has not diverged, or else of the first."""
    candidates = [k for k, update in enumerate(view.byzantine) if update.sender in near]
    return next((k for k in candidates if all_finite(view.byzantine[k].vector)), candidates[0])


@functools.lru_cache(maxsize=1)
def led_by(view: AttackView, ctx: AttackContext, first: int, knowledge: Knowledge) -> tuple[AttackView, AttackContext]:
    """Return what an inner attack that may know so much sees and is told in the place of a Byzantine node.

    It is remembered, so that receivers who are lied to alike are told from the same view: an inner attack that trains
    for its message does so once.

    Args:
        view: What the attacker sees.
        ctx: What it is told.
        first: Index in the view of the node in whose place it attacks.
        knowledge: Level of what the inner attack may see.
    """
    own = view.byzantine[first]
    seen = slice(first, first + 1) if knowledge is Knowledge.LOCAL else slice(None)
    borrowed = AttackView(
        own=own,
        byzantine=view.byzantine[seen],
        byzantine_data=view.byzantine_data[seen],
        honest=view.honest if knowledge is Knowledge.OMNISCIENT else (),
    )
    return borrowed, replace(ctx, node=own.sender, base=own.base)


def observe(view: AttackView, receiver: NodeId, ctx: AttackContext, level: str) -> Observation | None:
    """Return what an attack of a knowledge level works from; None if it sees no finite model.

    ``full`` takes the honest members of the receiver's closed neighbourhood, and the receiver's start-of-round model as
    the origin. ``partial`` takes the half-steps of all Byzantine nodes, and the mean of their start-of-round models,
    which colluders therefore agree on. ``local`` takes the attacker's own two.
    """
    if level == "full":
        seen = neighbourhood(view, receiver, ctx)
    else:
        candidates = view.byzantine if level == "partial" else (view.own,)
        seen = tuple(u for u in candidates if all_finite(u.vector))
    if not seen:
        return None
    starts = [u for u in seen if u.sender == receiver] or seen
    known = [u.base for u in starts if u.base is not None]
    if len(known) < len(starts):
        raise ConfigurationError("the attack needs the start-of-round models of the nodes that it sees")
    return Observation(
        senders=tuple(u.sender for u in seen),
        rows=tuple(u.vector for u in seen),
        origin=weighted_mean(known, [1.0] * len(known)),
    )


def senders(view: AttackView) -> frozenset[NodeId]:
    """Return who sends a model that counts: attackers and honest nodes who take part, but for the diverged honest."""
    return frozenset(u.sender for u in view.byzantine) | {u.sender for u in view.honest if all_finite(u.vector)}


def mixing_weights(
    ctx: AttackContext, receiver: NodeId, weighting: Weighting, present: Container[NodeId]
) -> dict[NodeId, float]:
    """Return the gossip weight of each neighbour that the receiver hears from, in ascending order.

    ``metropolis`` is 1 / (1 + the larger of both degrees in the graph): what is left is the receiver's own. ``uniform``
    is one over the number of models that the receiver has, its own included.
    """
    around = ctx.neighbours[receiver]
    heard = [j for j in sorted(around) if j in present]
    if weighting == "uniform":
        return dict.fromkeys(heard, 1 / (1 + len(heard)))
    return {j: 1 / (1 + max(len(around), len(ctx.neighbours[j]))) for j in heard}


def weight_of_attackers(ctx: AttackContext, weights: Mapping[NodeId, float]) -> float:
    """Return how much of these weights is given to attackers."""
    return sum(weight for node, weight in weights.items() if node in ctx.byzantine)


def columns(size: int) -> Iterator[slice]:
    """Yield slices that cover ``size`` columns."""
    for start in range(0, size, _BLOCK):
        yield slice(start, min(start + _BLOCK, size))


def update_columns(seen: Observation) -> Iterator[tuple[slice, Tensor]]:
    """Yield the observed updates block by block, float64 ``(n, block)``."""
    for part in columns(seen.origin.numel()):
        yield part, torch.stack([row[part] for row in seen.rows]).double() - seen.origin[part].double()


def craft_columns(seen: Observation, update: Callable[[Tensor, slice], Tensor]) -> Tensor:
    """Return the origin plus a crafted update, ``(d,)``.

    Args:
        seen: What the attack works from.
        update: Makes the crafted update of a block, float64 ``(block,)``, from the observed ones ``(n, block)``.
    """
    crafted = torch.empty_like(seen.origin)
    for part, updates in update_columns(seen):
        crafted[part] = seen.origin[part].double() + update(updates, part)
    return crafted


def combine(rows: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    r"""Return :math:`\sum_k c_k x_k`, summed in float64, ``(d,)`` of the rows' type; coefficients of any sign."""
    crafted = torch.empty_like(rows[0])
    for part in columns(crafted.numel()):
        total = torch.zeros_like(crafted[part], dtype=torch.float64)
        for row, coefficient in zip(rows, coefficients, strict=True):
            total.add_(row[part].double(), alpha=coefficient)
        crafted[part] = total
    return crafted
