"""Watts-Strogatz: a small world, a ring lattice of which some edges are rewired at random."""

import networkx as nx

from flower_dfl.errors import TopologyError
from flower_dfl.topologies.checking import check_counts
from flower_dfl.topologies.drawing import draw_connected

__all__ = ["watts_strogatz"]


def watts_strogatz(
    num_nodes: int, num_byzantine: int = 0, seed: int = 0, k: int = 4, p: float = 0.1
) -> "nx.Graph[int]":
    """Return a connected graph: a ring on which everybody knows its ``k`` nearest, rewired with probability ``p``.

    Every edge ``i, i + s (mod n)`` with ``s <= k / 2`` keeps its end ``i`` and, with probability ``p``, gets another,
    uniform one. There are ``n * k / 2`` edges whatever ``p``. Drawn again until it is connected. ``p = 0`` is the
    lattice, and with ``k = 2`` the ring.

    Args:
        num_nodes: Number of nodes, at least 3.
        num_byzantine: Byzantine nodes, the highest labels, fewer than ``num_nodes``. The edges do not depend on it.
        seed: Decides what is rewired, and to where.
        k: Degree of the lattice, and mean degree of the graph; even, in ``2..num_nodes-1``.
        p: Probability that an edge is rewired, in [0, 1].

    Raises:
        TopologyError: A parameter is out of range, or no connected graph was drawn.

    References:
        Watts, Strogatz, *Collective dynamics of 'small-world' networks*, 1998. https://doi.org/10.1038/30918
    """
    check_counts(num_nodes, num_byzantine)
    if k % 2 or not 2 <= k < num_nodes:
        raise TopologyError(f"k must be even and in 2..num_nodes-1 = 2..{num_nodes - 1}, got {k}")
    if not 0 <= p <= 1:
        raise TopologyError(f"p must be in [0, 1], got {p}")
    why = f"k = {k}, p = {p} and n = {num_nodes}; raise k or lower p"
    return draw_connected("watts-strogatz", seed, lambda key: nx.watts_strogatz_graph(num_nodes, k, p, seed=key), why)
