"""Star: one hub, to which every other node talks and nobody else."""

import networkx as nx

from flower_dfl.topologies.checking import check_counts

__all__ = ["star"]


def star(num_nodes: int, num_byzantine: int = 0, seed: int = 0) -> "nx.Graph[int]":
    """Return the star whose hub is node 0.

    The graph nearest to a federation with a server. The hub is always honest, because Byzantine nodes have the highest
    labels. The spectral gap of its Metropolis-Hastings matrix is ``1 / n`` for ``n >= 3``. A single node is a hub
    without leaves.

    Args:
        num_nodes: Number of nodes, at least 1.
        num_byzantine: Byzantine nodes, the highest labels, fewer than ``num_nodes``. The edges do not depend on it.
        seed: Accepted for the common signature; nothing is drawn.

    Raises:
        TopologyError: ``num_nodes`` or ``num_byzantine`` is out of range.
    """
    del seed
    check_counts(num_nodes, num_byzantine)
    graph: nx.Graph[int] = nx.star_graph(num_nodes - 1)  # networkx counts the leaves
    return graph
