"""IOS, iterative outlier scissor: gossip averaging that drops the farthest neighbours one by one."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from flower_dfl.errors import ByzantineBudgetError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.kernels import distances_to_point, gram, weighted_mean
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["Ios"]


@dataclass(frozen=True, slots=True)
class Ios(PeerStrategy[None]):
    r"""Drop the neighbour that is farthest from the weighted mean, ``f`` times; average the rest.

    .. math:: \theta_i^{t+1} = \frac{w_{ii} h_i + \sum_{j \in U} w_{ij} h_j}{w_{ii} + \sum_{j \in U} w_{ij}}, \qquad
              U \leftarrow U \setminus \arg\max_{j \in U} \|h_j - \bar{h}_U\|_2

    with the Metropolis weights of the inbox; :math:`U` starts as all neighbours and :math:`\bar{h}_U` is the same
    weighted mean. Stateless, without parameters. The node itself is never dropped; of equally far neighbours the lowest
    id goes first. An empty inbox leaves the node where it is; ``f = 0`` is Metropolis averaging. The scores are the
    distances from the last mean.

    Convention: the published guarantee asks that the ``f`` heaviest neighbours weigh less than 1/3. That is a matter
    of the graph and of its weights; refused is only a neighbourhood without an honest majority.

    Raises:
        ByzantineBudgetError: ``n < 2f + 1`` with ``f > 0``, where n counts the node itself.

    References:
        Wu, Chen, Ling, *Byzantine-Resilient Decentralized Stochastic Optimization With Robust Aggregation Rules*, IEEE
        TSP 2023. https://arxiv.org/abs/2206.04568
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return the weighted mean of the node and the neighbours that are left."""
        members = [inbox.own, *inbox.received]
        n, f = len(members), ctx.budget
        if f > 0 and n < 2 * f + 1:
            raise ByzantineBudgetError(f"IOS needs n >= 2f + 1, got n={n}, f={f}")
        rows = [u.vector for u in members]
        mixing = inbox.mixing_weights.double().cpu()
        weights = torch.cat([1 - mixing.sum(dim=0, keepdim=True), mixing])  # (n,), own first
        products = gram(rows, inbox.own.vector).cpu()
        left = list(range(1, n))
        for _ in range(f):
            distances = distances_to_point(products, weights).tolist()
            farthest = max(left, key=distances.__getitem__)
            left.remove(farthest)
            weights[farthest] = 0
        weights /= weights.sum()
        distances = distances_to_point(products, weights).tolist()
        senders = [u.sender for u in members]
        return Aggregate(
            vector=weighted_mean(rows, weights.tolist()),
            state=state,
            weights=dict(zip(senders, weights.tolist(), strict=True)),
            scores={"distance": dict(zip(senders, distances, strict=True))},
        )
