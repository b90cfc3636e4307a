"""Complete graph: everybody talks to everybody."""

import networkx as nx

from flower_dfl.topologies.checking import check_counts

__all__ = ["complete"]


def complete(num_nodes: int, num_byzantine: int = 0, seed: int = 0) -> "nx.Graph[int]":
    """Return the complete graph.

    The limit case in which gossip averaging is one exact average a round: the spectral gap of its Metropolis-Hastings
    matrix is 1. A single node has no edge.

    Args:
        num_nodes: Number of nodes, at least 1.
        num_byzantine: Byzantine nodes, the highest labels, fewer than ``num_nodes``. The edges do not depend on it.
        seed: Accepted for the common signature; nothing is drawn.

    Raises:
        TopologyError: ``num_nodes`` or ``num_byzantine`` is out of range.
    """
    del seed
    check_counts(num_nodes, num_byzantine)
    graph: nx.Graph[int] = nx.complete_graph(num_nodes)
    return graph
