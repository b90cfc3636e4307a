"""Nearest-neighbour averaging: the aggregation step of MoNNA."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from flower_dfl.errors import ByzantineBudgetError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.clipping import anchored, by_sender
from flower_dfl.strategies.kernels import distances_to
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["NearestNeighbourAveraging"]


@dataclass(frozen=True, slots=True)
class NearestNeighbourAveraging(PeerStrategy[None]):
    r"""Average the ``n - f`` models nearest to the own one, itself included.

    .. math:: \theta_i^{t+1} = \frac{1}{n - f} \sum_{k \in K_i} h_k, \qquad
              K_i = \text{the } n - f \text{ members of } G_i \text{ nearest to } h_i

    Distances are Euclidean, of half-steps; of equally far neighbours the lower id is kept. Stateless, without
    parameters. An empty inbox leaves the node where it is; ``f = 0`` is the plain mean.

    Convention: MoNNA also averages momenta over rounds; momentum is a matter of local training here, and the published
    guarantee with it asks for fewer attackers than this rule accepts. Where attackers are the majority it has none.

    Raises:
        ByzantineBudgetError: The closed neighbourhood has no honest majority, ``n <= 2f``, with ``f > 0``.

    References:
        Farhadkhani, Guerraoui, Gupta, Hoang, Pinot, Stephan, *Robust Collaborative Learning with Linear Gradient
        Overhead*, ICML 2023. https://arxiv.org/abs/2209.10931
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return the uniform mean of the nearest members."""
        n, f = len(inbox.received) + 1, ctx.budget
        if f and n <= 2 * f:
            raise ByzantineBudgetError(f"NNA needs n > 2f, got n={n}, f={f}")
        distances = distances_to(inbox.own.vector, [update.vector for update in inbox.received])
        weights = torch.zeros(n - 1, dtype=torch.float64)
        weights[distances.argsort(stable=True)[: n - f - 1]] = 1 / (n - f)
        return anchored(inbox, weights, state, {"distance": by_sender(inbox, 0.0, distances)})
