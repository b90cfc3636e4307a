"""Ring: every node talks to the one before and the one after it."""

import networkx as nx

from flower_dfl.topologies.checking import check_counts

__all__ = ["ring"]


def ring(num_nodes: int, num_byzantine: int = 0, seed: int = 0) -> "nx.Graph[int]":
    r"""Return the ring with the edges ``k, k + 1 (mod num_nodes)``.

    Every node has degree 2. Two nodes share one edge, and a single node has none. The spectral gap of its
    Metropolis-Hastings matrix is :math:`1 - \frac{1}{3}(1 + 2 \cos(2 \pi / n)) = \Theta(1 / n^2)` for ``n >= 3``.

    Two or more Byzantine nodes are neighbours in one arc, so the honest nodes are an arc too, and stay connected.

    Args:
        num_nodes: Number of nodes, at least 1.
        num_byzantine: Byzantine nodes, the highest labels, fewer than ``num_nodes``. The edges do not depend on it.
        seed: Accepted for the common signature; nothing is drawn.

    Raises:
        TopologyError: ``num_nodes`` or ``num_byzantine`` is out of range.
    """
    del seed
    check_counts(num_nodes, num_byzantine)
    # cycle_graph(1) would be a self-loop.
    return nx.circulant_graph(num_nodes, [1] if num_nodes > 1 else [])
