"""Static: the same graph in every round."""

import networkx as nx

__all__ = ["static"]


def static(graph: "nx.Graph[int]", round: int, seed: int = 0) -> "nx.Graph[int]":
    """Return the graph that the topology drew.

    The limit case of every other schedule.

    Args:
        graph: The graph that the topology drew.
        round: Accepted for the common signature; nothing changes.
        seed: Accepted for the common signature; nothing is drawn.
    """
    del round, seed
    return graph
