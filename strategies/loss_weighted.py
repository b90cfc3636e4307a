"""Loss weighting: trust each model by how well it explains the own data."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.clipping import anchored, by_sender
from flower_dfl.strategies.own_data import losses, own_batch
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["LossWeighted"]

_LEAST = 1e-12
"""Losses count as at least this, so that a model without any loss has a finite weight."""


@dataclass(frozen=True, slots=True)
class LossWeighted(PeerStrategy[None]):
    r"""Average the closed neighbourhood with weights inverse to the loss on own data.

    .. math:: \theta_i^{t+1} = \sum_{k \in G_i} a_{ik} h_k, \qquad
              a_{ik} = \frac{1 / \ell_i(h_k)}{\sum_{l \in G_i} 1 / \ell_i(h_l)}

    where :math:`\ell_i` is the cross-entropy on own data. Stateless, needs no Byzantine budget. An empty inbox leaves
    the node where it is; equal losses give the plain mean. A model whose loss is not finite counts nothing.

    What the own data cannot see passes: a backdoor, or an offset that the loss does not feel (a constant added to all
    class scores, for instance), however large.

    Convention: after the published idea, "the inverse of the neighbour's loss on private data, and a variant that uses
    only neighbours with lower loss"; its weights come from an optimisation that is not repeated here.

    Args:
        samples: Size of the batch, drawn anew each round; 0 takes all own data. Not negative.
        better_only: Leave out every neighbour whose loss is above the node's own.

    Raises:
        ConfigurationError: ``samples`` is negative.

    References:
        Bhowmick, Koutsoukos, *Resilient Peer-to-peer Learning based on Adaptive Aggregation*, 2025.
        https://arxiv.org/abs/2501.04610
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.LEARNER, Need.OWN_DATA})
    samples: int = 0
    better_only: bool = False

    BATCH: ClassVar[str] = "loss-weighted-batch"
    """Purpose of the draw of own data."""

    def __post_init__(self) -> None:
        if self.samples < 0:
            raise ConfigurationError(f"samples must not be negative, got {self.samples}")

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return the mean of all members, weighted by inverse loss."""
        batch = own_batch(ctx, self.BATCH, self.samples)
        measured = losses(ctx, [inbox.own.vector, *(update.vector for update in inbox.received)], batch)
        trust = 1 / measured.clamp(min=_LEAST)  # own first; 0 for an infinite loss
        if self.better_only:
            trust = torch.where(measured <= measured[0], trust, 0.0)
        total = float(trust.sum())
        weights = trust[1:] / total if total > 0 else torch.zeros_like(trust[1:])
        scores = {"loss": by_sender(inbox, float(measured[0]), measured[1:])}
        return anchored(inbox, weights, state, scores, own_weight=float(trust[0]) / total if total > 0 else 1.0)
