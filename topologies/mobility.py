"""Mobility: nodes move in a square and talk to those in range."""

import random

import networkx as nx

from flower_dfl import randomness
from flower_dfl.errors import TopologyError

__all__ = ["mobility"]


def mobility(
    graph: "nx.Graph[int]", round: int, seed: int = 0, radius: float = 0.5, speed: float = 0.1
) -> "nx.Graph[int]":
    """Return the edges between nodes that are at most ``radius`` apart in the round.

    The nodes start at uniform places of the unit square, each with a velocity of its own, uniform in
    ``[-speed, speed]`` in either direction, and keep it for the whole run; borders reflect them. So a round's graph
    follows from the seed at once, without the rounds before it. ``speed = 0`` is a random geometric graph that stays,
    ``radius >= sqrt(2)`` the complete graph. Only the number of nodes of the topology's graph matters.

    Args:
        graph: The graph that the topology drew.
        round: The round, from 1.
        seed: Decides places and velocities.
        radius: Range, in sides of the square. Positive.
        speed: Largest distance in a round in either direction, in sides of the square. Not negative.

    Raises:
        TopologyError: A parameter is out of range.
    """
    if not radius > 0:
        raise TopologyError(f"radius must be positive, got {radius}")
    if not 0 <= speed < float("inf"):
        raise TopologyError(f"speed must be finite and not negative, got {speed}")
    draw = random.Random(randomness.integer(seed, "schedule-mobility"))  # noqa: S311 - protects nothing

    def coordinate() -> float:
        start, velocity = draw.random(), draw.uniform(-speed, speed)
        unfolded = (start + velocity * (round - 1)) % 2
        return min(unfolded, 2 - unfolded)  # reflection is what walking on in a mirrored square looks like from outside

    places = {node: (coordinate(), coordinate()) for node in range(len(graph))}
    return nx.random_geometric_graph(len(graph), radius, pos=places)
