"""Random regular: a random graph in which every node has the same number of neighbours."""

import networkx as nx

from flower_dfl.errors import TopologyError
from flower_dfl.topologies.checking import check_counts
from flower_dfl.topologies.drawing import draw_connected

__all__ = ["draw_regular", "random_regular"]


def random_regular(num_nodes: int, num_byzantine: int = 0, seed: int = 0, degree: int = 4) -> "nx.Graph[int]":
    """Return a connected graph in which every node has ``degree`` neighbours.

    Drawn again until it is connected, which from degree 3 on nearly every such graph is; it is an expander then. Degree
    2 is a ring in random order. ``degree = num_nodes - 1`` is the complete graph.

    Args:
        num_nodes: Number of nodes, at least 2.
        num_byzantine: Byzantine nodes, the highest labels, fewer than ``num_nodes``. The edges do not depend on it.
        seed: Decides who is whose neighbour.
        degree: Neighbours of every node, in ``1..num_nodes-1``; ``num_nodes * degree`` must be even.

    Raises:
        TopologyError: A parameter is out of range, or no connected graph was drawn.

    References:
        Steger, Wormald, *Generating Random Regular Graphs Quickly*, 1999. https://doi.org/10.1017/S0963548399003867
    """
    check_counts(num_nodes, num_byzantine)
    why = f"degree = {degree} and n = {num_nodes}; degree 1 only makes pairs and degree 2 circles, take 3 or more"
    return draw_connected("random-regular", seed, lambda key: draw_regular(num_nodes, degree, key), why)


def draw_regular(num_nodes: int, degree: int, key: int) -> "nx.Graph[int]":
    """Return a regular graph, connected or not, that an integer decides.

    Raises:
        TopologyError: ``degree`` is not in ``1..num_nodes-1``, or ``num_nodes * degree`` is odd.
    """
    if not 1 <= degree < num_nodes:
        raise TopologyError(f"degree must be in 1..num_nodes-1 = 1..{num_nodes - 1}, got {degree}")
    if num_nodes * degree % 2:
        raise TopologyError(f"num_nodes * degree must be even, got {num_nodes} * {degree} = {num_nodes * degree}")
    # Near the complete graph a random pairing all but never succeeds; the complement of a sparse one is as regular.
    absent = num_nodes - 1 - degree
    drawn = nx.random_regular_graph(min(degree, absent), num_nodes, seed=key)
    graph: nx.Graph[int] = nx.empty_graph(num_nodes)
    graph.add_edges_from((drawn if degree <= absent else nx.complement(drawn)).edges)
    return graph
