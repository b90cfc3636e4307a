"""Torus: a grid whose borders are joined, so that every node sits like every other."""

import networkx as nx

from flower_dfl.topologies.checking import check_counts
from flower_dfl.topologies.grid import factorise

__all__ = ["torus"]


def torus(num_nodes: int, num_byzantine: int = 0, seed: int = 0, rows: int = 0) -> "nx.Graph[int]":
    """Return the grid of ``rows`` by ``num_nodes / rows`` nodes, labelled row by row, wrapped in both directions.

    Every node has 4 neighbours. Where there are only two rows, those above and below it are the same one, so that it
    has 3; likewise for two columns. The Byzantine nodes fill the last rows.

    Args:
        num_nodes: Number of nodes, at least 4 and not a prime.
        num_byzantine: Byzantine nodes, the highest labels, fewer than ``num_nodes``. The edges do not depend on it.
        seed: Accepted for the common signature; nothing is drawn.
        rows: Number of rows, at least 2 and a divisor of ``num_nodes`` that leaves at least 2 columns; 0 makes the
            torus as square as it gets, with no more rows than columns.

    Raises:
        TopologyError: A parameter is out of range, or the nodes do not fill a torus.
    """
    del seed
    check_counts(num_nodes, num_byzantine)
    # networkx labels a node with its row and column, in row order
    return nx.convert_node_labels_to_integers(nx.grid_2d_graph(*factorise(num_nodes, rows), periodic=True))
