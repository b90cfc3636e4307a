"""Barabasi-Albert: nodes join one by one and prefer those who have many neighbours, so that hubs arise."""

import networkx as nx

from flower_dfl import randomness
from flower_dfl.errors import TopologyError
from flower_dfl.topologies.checking import check_counts

__all__ = ["barabasi_albert"]


def barabasi_albert(num_nodes: int, num_byzantine: int = 0, seed: int = 0, m: int = 2) -> "nx.Graph[int]":
    """Return a graph that grew from a star of ``m + 1`` nodes by preferential attachment.

    Every later node joins ``m`` different nodes, each chosen with probability proportional to its degree. There are
    ``m * (n - m)`` edges, the degree of every node but the star's leaves is at least ``m``, and the graph is connected.
    ``m = 1`` is a tree, ``m = n - 1`` the star.

    The labels are the order of arrival: the hubs have low labels, and the Byzantine nodes, which have the highest, few
    neighbours. A placement such as ``hub`` puts the adversary elsewhere.

    Args:
        num_nodes: Number of nodes, at least 2.
        num_byzantine: Byzantine nodes, the highest labels, fewer than ``num_nodes``. The edges do not depend on it.
        seed: Decides who joins whom.
        m: Neighbours that a node chooses when it joins, in ``1..num_nodes-1``.

    Raises:
        TopologyError: A parameter is out of range.

    References:
        Barabasi, Albert, *Emergence of Scaling in Random Networks*, 1999. https://doi.org/10.1126/science.286.5439.509
    """
    check_counts(num_nodes, num_byzantine)
    if not 1 <= m < num_nodes:
        raise TopologyError(f"m must be in 1..num_nodes-1 = 1..{num_nodes - 1}, got {m}")
    return nx.barabasi_albert_graph(num_nodes, m, seed=randomness.integer(seed, "topology-barabasi-albert"))
