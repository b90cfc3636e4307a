"""Two cliques: two groups in which everybody talks to everybody, with a few edges between them."""

import networkx as nx

from flower_dfl.errors import TopologyError
from flower_dfl.topologies.checking import check_counts

__all__ = ["two_cliques"]


def two_cliques(num_nodes: int, num_byzantine: int = 0, seed: int = 0, bridges: int = 1) -> "nx.Graph[int]":
    """Return two complete graphs of half the nodes each, joined by ``bridges`` edges that share no node.

    Of an odd number the first clique has one node more. Bridge k joins the k-th nodes of the two. The hard case for
    consensus: what divides the cliques can only pass the bridges. The Byzantine nodes sit in the second clique, from
    its end, and so take a bridge last.

    Args:
        num_nodes: Number of nodes, at least 2.
        num_byzantine: Byzantine nodes, the highest labels, fewer than ``num_nodes``. The edges do not depend on it.
        seed: Accepted for the common signature; nothing is drawn.
        bridges: Number of edges between the cliques, in ``1..num_nodes//2``.

    Raises:
        TopologyError: A parameter is out of range.
    """
    del seed
    check_counts(num_nodes, num_byzantine)
    second = num_nodes // 2
    first = num_nodes - second
    if not 1 <= bridges <= second:
        raise TopologyError(f"bridges must be in 1..num_nodes//2 = 1..{second}, got {bridges}")
    graph: nx.Graph[int] = nx.disjoint_union(nx.complete_graph(first), nx.complete_graph(second))
    graph.add_edges_from((k, first + k) for k in range(bridges))
    return graph
