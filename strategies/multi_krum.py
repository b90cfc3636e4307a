"""Multi-Krum: averages the models that have the nearest neighbours."""

from dataclasses import dataclass
from typing import ClassVar

from flower_dfl.errors import ByzantineBudgetError, ConfigurationError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.kernels import krum_order, krum_scores, pairwise_distances, weighted_mean
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["MultiKrum"]


@dataclass(frozen=True, slots=True)
class MultiKrum(PeerStrategy[None]):
    r"""Average the ``m`` members of the closed neighbourhood with the smallest Krum scores.

    .. math:: \theta_i^{t+1} = \frac{1}{m} \sum_{k \in M_i} h_k, \quad
              s_k = \sum_{l \in N_k} \|h_k - h_l\|_2^2

    where :math:`M_i` holds the ``m`` smallest scores and :math:`N_k` the ``n - f - 2`` nearest other members of
    :math:`h_k`, ``n`` = :math:`|G_i|`. Scores are in squared units of the vectors. Stateless; ties as in Krum. An empty
    inbox leaves the node where it is; ``m = 1`` is Krum; ``f = 0`` with the default ``m`` is the plain mean.

    Convention: all members are ranked once, and ``m = n - f``, as in the paper and in ByzFL (which counts one
    neighbour more). Flower ranks in the same way, but averages one model unless told otherwise. Some code scores anew
    after each pick: that is the first half of Bulyan.

    Args:
        m: How many models are averaged, 1 to ``n - f``; None is ``n - f``. With ``f = 0`` a neighbourhood of fewer than
            ``m`` is averaged whole.

    Raises:
        ByzantineBudgetError: ``n < 2f + 3``, or ``m > n - f``, with ``f > 0``.

    References:
        Blanchard, El Mhamdi, Guerraoui, Stainer, *Machine Learning with Adversaries: Byzantine Tolerant Gradient
        Descent*, NeurIPS 2017. https://arxiv.org/abs/1703.02757
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    m: int | None = None

    def __post_init__(self) -> None:
        if self.m is not None and self.m < 1:
            raise ConfigurationError(f"m must be at least 1, got {self.m}")

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return the uniform mean of the members with the smallest scores."""
        members, f = inbox.members, ctx.budget
        n, own = len(members), members.index(inbox.own)
        m = n - f if self.m is None else self.m
        if f > 0 and n < 2 * f + 3:
            raise ByzantineBudgetError(f"Multi-Krum needs n >= 2f + 3, got n={n}, f={f}")
        if f > 0 and m > n - f:
            raise ByzantineBudgetError(f"Multi-Krum needs m <= n - f, got m={m}, n={n}, f={f}")
        rows = [u.vector for u in members]
        distances = pairwise_distances(rows, own).cpu()
        scores, chosen = krum_scores(distances, n - f - 2), krum_order(distances, n - f - 2, own)[:m]
        weights = [(k in chosen) / len(chosen) for k in range(n)]
        senders = [u.sender for u in members]
        return Aggregate(
            vector=weighted_mean(rows, weights),
            state=state,
            weights=dict(zip(senders, weights, strict=True)),
            scores={"krum": dict(zip(senders, scores.tolist(), strict=True))},
        )
