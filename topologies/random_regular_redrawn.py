"""Random regular, redrawn: every few rounds all nodes get new random neighbours, always the same number."""

import networkx as nx

from flower_dfl import randomness
from flower_dfl.errors import TopologyError
from flower_dfl.topologies.random_regular import draw_regular

__all__ = ["random_regular_redrawn"]


def random_regular_redrawn(
    graph: "nx.Graph[int]", round: int, seed: int = 0, degree: int = 4, every: int = 1
) -> "nx.Graph[int]":
    """Return a random graph in which every node has ``degree`` neighbours, the same one for ``every`` rounds.

    A single draw need not be connected. ``degree = 1`` pairs the nodes at random. Only the number of nodes of the
    topology's graph matters.

    Args:
        graph: The graph that the topology drew.
        round: The round, from 1.
        seed: Decides who is whose neighbour, with the round.
        degree: Neighbours of every node, in ``1..num_nodes-1``; ``num_nodes * degree`` must be even.
        every: Rounds between two draws, at least 1.

    Raises:
        TopologyError: A parameter is out of range.
    """
    if every < 1:
        raise TopologyError(f"every must be at least 1, got {every}")
    first = round - (round - 1) % every  # round of the draw
    return draw_regular(len(graph), degree, randomness.integer(seed, "schedule-random-regular-redrawn", first))
