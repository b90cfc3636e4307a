"""Metropolis-Hastings gossip weights, from what a node knows: its own degree and its neighbours'."""

import networkx as nx
import numpy as np
import numpy.typing as npt

__all__ = ["metropolis", "metropolis_matrix"]


def metropolis(graph: "nx.Graph[int]", node: int) -> dict[int, float]:
    r"""Return the weight of every neighbour of a node, in ascending order of the labels.

    .. math:: W_{ij} = \frac{1}{1 + \max(d_i, d_j)}, \qquad W_{ii} = 1 - \sum_{j \in N_i} W_{ij}

    The node's own weight is left to the caller, because the weight of a neighbour that stays silent falls to it.

    Args:
        graph: A graph without self-loops.
        node: One of its labels.

    References:
        Xiao, Boyd, *Fast linear iterations for distributed averaging*, 2004.
        https://doi.org/10.1016/j.sysconle.2004.02.022
    """
    degree = len(graph[node])
    return {other: 1.0 / (1 + max(degree, len(graph[other]))) for other in sorted(graph[node])}


def metropolis_matrix(graph: "nx.Graph[int]") -> npt.NDArray[np.float64]:
    """Return the matrix ``W``, shape ``(n, n)``: symmetric, non-negative, doubly stochastic.

    Row and column i are node i; the labels must be ``0..n-1``.
    """
    matrix = np.zeros((len(graph), len(graph)))  # (n, n)
    for node in graph:
        for other, weight in metropolis(graph, node).items():
            matrix[node, other] = weight
    np.fill_diagonal(matrix, 1.0 - matrix.sum(axis=1))
    return matrix
