"""Erdos-Renyi: every pair of nodes is joined with the same probability."""

import math

import networkx as nx

from flower_dfl.errors import TopologyError
from flower_dfl.topologies.checking import check_counts
from flower_dfl.topologies.drawing import draw_connected

__all__ = ["erdos_renyi"]


def erdos_renyi(num_nodes: int, num_byzantine: int = 0, seed: int = 0, p: float = 0.5) -> "nx.Graph[int]":
    r"""Return a connected graph in which every edge is there with probability ``p``, independently.

    Drawn again until it is connected, so its distribution is that of :math:`G(n, p)` given connection. Above the
    threshold :math:`p = \ln(n) / n` nearly every graph is connected, below it nearly none. The mean degree is about
    ``p * (n - 1)``. ``p = 1`` is the complete graph.

    Args:
        num_nodes: Number of nodes, at least 1.
        num_byzantine: Byzantine nodes, the highest labels, fewer than ``num_nodes``. The edges do not depend on it.
        seed: Decides which edges are there.
        p: Probability of an edge, in (0, 1].

    Raises:
        TopologyError: A parameter is out of range, or no connected graph was drawn.

    References:
        Gilbert, *Random Graphs*, 1959. https://doi.org/10.1214/aoms/1177706098
    """
    check_counts(num_nodes, num_byzantine)
    if not 0 < p <= 1:
        raise TopologyError(f"p must be in (0, 1], got {p}")
    threshold = math.log(num_nodes) / num_nodes
    why = f"p = {p} and n = {num_nodes}; raise p well above the connectivity threshold ln(n)/n = {threshold:.4f}"
    return draw_connected("erdos-renyi", seed, lambda key: nx.gnp_random_graph(num_nodes, p, seed=key), why)
