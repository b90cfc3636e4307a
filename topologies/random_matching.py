"""Random matching: in every round a node talks to at most one of its neighbours."""

import random

import networkx as nx

from flower_dfl import randomness
from flower_dfl.topologies.drawing import ordered_edges

__all__ = ["random_matching"]


def random_matching(graph: "nx.Graph[int]", round: int, seed: int = 0) -> "nx.Graph[int]":
    """Return a random maximal matching of the graph's edges, a new one in every round.

    The edges are visited in random order, and each is taken whose ends are both still alone. No edge could be added,
    though another matching may be larger. Pairwise gossip in which everybody who finds a partner takes part.

    Args:
        graph: The graph that the topology drew.
        round: The round, from 1.
        seed: Decides the order of the edges, with the round.

    References:
        Boyd, Ghosh, Prabhakar, Shah, *Randomized Gossip Algorithms*, 2006. https://doi.org/10.1109/TIT.2006.874516
    """
    draw = random.Random(randomness.integer(seed, "schedule-random-matching", round))  # noqa: S311 - pairs nodes
    edges = ordered_edges(graph)
    draw.shuffle(edges)
    matching: nx.Graph[int] = nx.create_empty_copy(graph, with_data=False)
    for one, other in edges:
        if not matching[one] and not matching[other]:
            matching.add_edge(one, other)
    return matching
