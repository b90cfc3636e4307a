"""Edge failures: in every round each edge is down with some probability."""

import random

import networkx as nx

from flower_dfl import randomness
from flower_dfl.errors import TopologyError
from flower_dfl.topologies.drawing import ordered_edges

__all__ = ["edge_failures"]


def edge_failures(graph: "nx.Graph[int]", round: int, seed: int = 0, p: float = 0.2) -> "nx.Graph[int]":
    """Return the graph without the edges that are down, each with probability ``p``, independently per round.

    An edge fails in both directions, and both ends know: their mixing weights are those of the remaining graph.
    ``p = 0`` is the static schedule.

    Args:
        graph: The graph that the topology drew.
        round: The round, from 1.
        seed: Decides which edges are down, with the round.
        p: Probability that an edge is down, in [0, 1).

    Raises:
        TopologyError: ``p`` is out of range.
    """
    if not 0 <= p < 1:
        raise TopologyError(f"p must be in [0, 1), got {p}")
    draw = random.Random(randomness.integer(seed, "schedule-edge-failures", round))  # noqa: S311 - protects nothing
    left: nx.Graph[int] = nx.create_empty_copy(graph, with_data=False)
    left.add_edges_from([edge for edge in ordered_edges(graph) if draw.random() >= p])
    return left
