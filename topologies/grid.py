"""Grid: nodes in rows and columns, each talking to those above, below, left and right of it."""

import math

import networkx as nx

from flower_dfl.errors import TopologyError
from flower_dfl.topologies.checking import check_counts

__all__ = ["factorise", "grid"]


def grid(num_nodes: int, num_byzantine: int = 0, seed: int = 0, rows: int = 0) -> "nx.Graph[int]":
    """Return the grid of ``rows`` by ``num_nodes / rows`` nodes, labelled row by row.

    A node inside has 4 neighbours, one on the border 3, one in a corner 2. The Byzantine nodes fill the last rows.

    Args:
        num_nodes: Number of nodes, at least 4 and not a prime.
        num_byzantine: Byzantine nodes, the highest labels, fewer than ``num_nodes``. The edges do not depend on it.
        seed: Accepted for the common signature; nothing is drawn.
        rows: Number of rows, at least 2 and a divisor of ``num_nodes`` that leaves at least 2 columns; 0 makes the grid
            as square as it gets, with no more rows than columns.

    Raises:
        TopologyError: A parameter is out of range, or the nodes do not fill a grid.
    """
    del seed
    check_counts(num_nodes, num_byzantine)
    # networkx labels a node with its row and column, in row order
    return nx.convert_node_labels_to_integers(nx.grid_2d_graph(*factorise(num_nodes, rows)))


def factorise(num_nodes: int, rows: int) -> tuple[int, int]:
    """Return the numbers of rows and columns, both at least 2; ``rows = 0`` asks for the most square ones.

    Raises:
        TopologyError: There are none.
    """
    if rows == 0:
        divisors = [side for side in range(2, math.isqrt(num_nodes) + 1) if num_nodes % side == 0]
        if not divisors:
            raise TopologyError(
                f"num_nodes must be rows * columns with at least 2 of each, got {num_nodes}, which leaves only a line"
            )
        rows = divisors[-1]
    if rows < 2 or num_nodes % rows or num_nodes // rows < 2:
        raise TopologyError(
            f"rows must divide num_nodes = {num_nodes} into at least 2 rows and at least 2 columns, got {rows}"
        )
    return rows, num_nodes // rows
