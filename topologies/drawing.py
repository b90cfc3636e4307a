"""What random graphs and schedules share: drawing until connected, and edges in an order that is always the same."""

from collections.abc import Callable

import networkx as nx

from flower_dfl import randomness
from flower_dfl.errors import TopologyError

__all__ = ["DRAWS", "draw_connected", "ordered_edges"]

DRAWS = 100
"""How often a random topology is drawn before it gives up."""


def draw_connected(name: str, seed: int, draw: Callable[[int], "nx.Graph[int]"], why: str) -> "nx.Graph[int]":
    """Return the first connected graph of a series.

    Args:
        name: Registered name of the topology, which goes into the key of every draw.
        seed: Seed of the run.
        draw: Draws a graph from an integer.
        why: Ends the error message: the parameters, and which would give a connected graph.

    Raises:
        TopologyError: None of :data:`DRAWS` graphs is connected.
    """
    for attempt in range(DRAWS):
        graph = draw(randomness.integer(seed, f"topology-{name}", attempt))
        if nx.is_connected(graph):
            return graph
    raise TopologyError(f"none of {DRAWS} draws of {name} is connected: {why}")


def ordered_edges(graph: "nx.Graph[int]") -> list[tuple[int, int]]:
    """Return the edges, ascending, whatever the order in which they were added."""
    return sorted((min(edge), max(edge)) for edge in graph.edges)
