"""Shuffled: the same graph in every round, with the nodes at new places."""

import random

import networkx as nx

from flower_dfl import randomness

__all__ = ["shuffled"]


def shuffled(graph: "nx.Graph[int]", round: int, seed: int = 0) -> "nx.Graph[int]":
    """Return the graph under a random permutation of its labels, a new one in every round.

    Degrees and connection stay, neighbours change: a ring stays a ring in which everybody meets everybody in time. The
    Byzantine nodes are permuted with the others, so that what the topology arranges around them is lost.

    Args:
        graph: The graph that the topology drew.
        round: The round, from 1.
        seed: Decides the permutation, with the round.
    """
    draw = random.Random(randomness.integer(seed, "schedule-shuffled", round))  # noqa: S311 - protects nothing
    places = draw.sample(range(len(graph)), len(graph))
    moved: nx.Graph[int] = nx.create_empty_copy(graph, with_data=False)
    moved.add_edges_from((places[one], places[other]) for one, other in graph.edges)
    return moved
