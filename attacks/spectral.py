"""Spectral heterogeneity: keeps alive the disagreement that gossip removes most slowly."""

import functools
from collections.abc import Container
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flower_dfl.attacks.observation import Weighting, combine, mixing_weights, senders, weight_of_attackers
from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import Attack
from flower_dfl.types import AttackContext, AttackView, Knowledge, NodeId
from flower_dfl.validation import check_known
from flower_dfl.vectors import all_finite

__all__ = ["Spectral"]

_SAME = 1e-9  # eigenvalues of mixing Laplacians lie in [0, 2]

Edges = tuple[tuple[int, int, float], ...]
"""Weighted edges between positions in the sorted list of honest nodes."""


@dataclass(frozen=True, slots=True)
class Spectral(Attack):
    r"""Push every receiver along the Fiedler vector of the honest graph (untargeted).

    .. math:: m_i = h_i + \epsilon \,
              \frac{\mu_2 \, \varphi_i \sum_{k \in H} \varphi_k h_k}{\sum_{b \in N_i \cap B} w_{ib}}

    where :math:`(\mu_2, \varphi)` is the second smallest eigenpair of the Laplacian of the honest subgraph, weighted by
    the gossip weights of the whole graph. Gossip shrinks the honest models' component along :math:`\varphi` by the
    factor :math:`1 - \mu_2`, the slowest of all; with ``epsilon = 1`` at every receiver it does not shrink any more,
    above one it grows. Dissensus does the same to all components at once. Where the second eigenvalue is not simple,
    the whole eigenspace counts, so that the attack does not depend on the choice of a basis. A single honest node, one
    without a Byzantine neighbour, and one that is not seen get the attacker's own half-step; an honest graph that is
    not connected does not mix anyway, and its nodes get their own.

    Convention: the authors scale the direction :math:`\varphi_i \sum_k \varphi_k h_k` by a line search against the
    receiver's rule; here the factor is explicit, in units of what gossip removes.

    Args:
        epsilon: How much of the contraction is taken back. Positive.
        weights: The receivers' gossip weights: ``metropolis``, or ``uniform`` for the plain mean. Uniform weights
            differ in the two directions of an edge; the Laplacian takes their mean.

    References:
        Gaucher, Dieuleveut, Hendrikx, *Unified Breakdown Analysis for Byzantine Robust Gossip*, ICML 2025.
        https://arxiv.org/abs/2410.10418
    """

    knowledge: ClassVar[Knowledge] = Knowledge.OMNISCIENT
    epsilon: float = 1.5
    weights: Weighting = "metropolis"

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < float("inf"):
            raise ConfigurationError(f"epsilon must be positive and finite, got {self.epsilon}")
        check_known("weights", self.weights, ["metropolis", "uniform"])

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the receiver's half-step, pushed along the Fiedler vector ``(d,)``."""
        rows = {u.sender: u.vector for u in view.honest if all_finite(u.vector)}
        present = senders(view)
        weights = mixing_weights(ctx, receiver, self.weights, present)
        byzantine = weight_of_attackers(ctx, weights)
        if receiver not in rows or byzantine == 0 or len(rows) == 1:
            return view.own.vector
        nodes = sorted(rows)
        push = _fiedler_operator(len(nodes), self._edges(nodes, present, ctx))[nodes.index(receiver)]  # (h,)
        shares = [float(node == receiver) + self.epsilon * c / byzantine for node, c in zip(nodes, push, strict=True)]
        return combine([rows[node] for node in nodes], shares)

    def _edges(self, nodes: list[NodeId], present: Container[NodeId], ctx: AttackContext) -> Edges:
        position = {node: index for index, node in enumerate(nodes)}
        weights = {node: mixing_weights(ctx, node, self.weights, present) for node in nodes}
        return tuple(
            (position[i], position[j], (weights[i][j] + weights[j][i]) / 2)
            for i in nodes
            for j in weights[i]
            if i < j and j in position
        )


@functools.lru_cache(maxsize=8)
def _fiedler_operator(size: int, edges: Edges) -> tuple[tuple[float, ...], ...]:
    r"""Return the rows of :math:`\mu_2 P`, P the projection on the eigenspace of the second smallest eigenvalue."""
    laplacian = torch.zeros(size, size, dtype=torch.float64)
    for i, j, weight in edges:
        laplacian[i, j] = laplacian[j, i] = -weight
    laplacian -= torch.diag(laplacian.sum(dim=1))
    values, vectors = torch.linalg.eigh(laplacian)
    second = float(values[1])
    if second < _SAME:
        return ((0.0,) * size,) * size
    space = vectors[:, (values - second).abs() < _SAME]  # (h, multiplicity)
    return tuple(map(tuple, (second * space @ space.T).tolist()))
