"""Growing: nodes join one by one."""

import networkx as nx

from flower_dfl.errors import TopologyError

__all__ = ["growing"]


def growing(graph: "nx.Graph[int]", round: int, seed: int = 0, start: int = 2, every: int = 1) -> "nx.Graph[int]":
    """Return the graph of those who have joined: the topology's edges between them.

    Nodes join in the order of their labels, so that Byzantine nodes with the highest labels come last; another
    placement mixes them in. Before it joins a node has no neighbour and trains alone. All have joined in round
    ``1 + (n - start) * every``. ``start = n`` is the static schedule.

    Args:
        graph: The graph that the topology drew.
        round: The round, from 1.
        seed: Accepted for the common signature; nothing is drawn.
        start: Number of nodes that are there in round 1, in ``1..n``.
        every: Rounds between two arrivals, at least 1.

    Raises:
        TopologyError: A parameter is out of range.
    """
    del seed
    if not 1 <= start <= len(graph):
        raise TopologyError(f"start must be in 1..num_nodes = 1..{len(graph)}, got {start}")
    if every < 1:
        raise TopologyError(f"every must be at least 1, got {every}")
    joined = start + (round - 1) // every
    grown: nx.Graph[int] = nx.create_empty_copy(graph, with_data=False)
    grown.add_edges_from(edge for edge in graph.edges if max(edge) < joined)
    return grown
