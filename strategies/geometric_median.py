"""The geometric median, by smoothed Weiszfeld iterations."""

from dataclasses import dataclass
from typing import ClassVar

from flower_dfl.errors import ByzantineBudgetError, ConfigurationError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.kernels import distances_to_point, geometric_median_weights, gram, weighted_mean
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["GeometricMedian"]


@dataclass(frozen=True, slots=True)
class GeometricMedian(PeerStrategy[None]):
    r"""Move to the point whose distances to the closed neighbourhood have the smallest sum.

    .. math:: \theta_i^{t+1} \approx \arg\min_z \sum_{k \in G_i} \|h_k - z\|_2, \qquad
              z \leftarrow \frac{\sum_k w_k h_k}{\sum_k w_k}, \quad w_k = \frac{1}{\max(\nu, \|h_k - z\|_2)}

    With an honest majority it stays within a bounded multiple of the honest ones' radius. Stateless; the budget is only
    checked. An empty inbox leaves the node where it is; two members are averaged; :math:`\nu \to \infty` is the plain
    mean. The weights are the :math:`w_k` of the result, adding up to 1; the scores its distances to the members.

    Convention: members count equally. RFA and ByzFL stop after 3 iterations from the origin or the mean, where a huge
    vector still has a say; here iterations cost next to nothing (they run on inner products), so they go on until the
    weights stand still, from weights that are inverse to each member's median distance from the others.

    Args:
        smoothing: :math:`\nu`, the smallest distance that counts, in the units of the vectors. Positive.
        iterations: Most iterations. At least 1.

    Raises:
        ByzantineBudgetError: ``n < 2f + 1`` with ``f > 0``.

    References:
        Pillutla, Kakade, Harchaoui, *Robust Aggregation for Federated Learning*, IEEE TSP 2022.
        https://arxiv.org/abs/1912.13445
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    smoothing: float = 1e-6
    iterations: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.smoothing < float("inf"):
            raise ConfigurationError(f"smoothing must be positive and finite, got {self.smoothing}")
        if self.iterations < 1:
            raise ConfigurationError(f"iterations must be at least 1, got {self.iterations}")

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return the geometric median of own and received models."""
        members, f = inbox.members, ctx.budget
        n = len(members)
        if f > 0 and n < 2 * f + 1:
            raise ByzantineBudgetError(f"the geometric median needs n >= 2f + 1, got n={n}, f={f}")
        rows = [u.vector for u in members]
        products = gram(rows, inbox.own.vector).cpu()
        weights = geometric_median_weights(products, smoothing=self.smoothing, iterations=self.iterations)
        distances = distances_to_point(products, weights)
        senders = [u.sender for u in members]
        return Aggregate(
            vector=weighted_mean(rows, weights.tolist()),
            state=state,
            weights=dict(zip(senders, weights.tolist(), strict=True)),
            scores={"distance": dict(zip(senders, distances.tolist(), strict=True))},
        )
