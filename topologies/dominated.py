"""Dominated: the honest nodes stay connected, but each of them is surrounded by Byzantine neighbours."""

import heapq
import random
from typing import Literal

import networkx as nx

from flower_dfl import randomness
from flower_dfl.errors import TopologyError
from flower_dfl.topologies.checking import check_counts
from flower_dfl.topologies.ring import ring

__all__ = ["dominated"]


def dominated(
    num_nodes: int, num_byzantine: int = 0, seed: int = 0, share: float | Literal["auto"] = "auto"
) -> "nx.Graph[int]":
    r"""Return a graph in which a given share of every honest node's neighbours is Byzantine.

    With n nodes, f of them Byzantine and h = n - f honest:

    1. The honest nodes ``0..h-1`` form a ring. Where they are the majority, ``f / n < 1/2``, and ``h >= 6``, chords
       ``k, k + h // 2 (mod h)`` cross it. All of them then have the same honest degree d: 0 for one honest node, 1 for
       two, else 2 without chords, 3 with chords and even h, 4 with chords and odd h.
    2. Every honest node gets the same number of Byzantine neighbours, the smallest with

       .. math:: \frac{b}{b + d} \ge \text{share}

       (a node without any neighbour counts as share 0). They are those with the fewest honest neighbours so far; the
       seed breaks ties, and nothing else is drawn.
    3. The Byzantine nodes form a ring among themselves.

    At n = 10 and ``share = "auto"`` an honest node has 1 Byzantine of 4 neighbours at 20 %, 2 of 5 at 40 %, 3 of 5 at
    60 %, and 4 of 5 at 80 %, where the two honest nodes are adjacent.

    Guarantees, for every n and f:

    - The graph and its honest subgraph are connected.
    - ``share = "auto"`` always fits: ``b = ceil(f d / h) <= f``, because ``d <= h - 1``.
    - Every honest node has more Byzantine than honest neighbours if ``share > 1/2``; for ``"auto"`` that is ``f > h``.
    - The honest degrees of any two Byzantine nodes differ by at most one.

    Limit cases: ``num_byzantine = 0`` leaves the honest ring with its chords, whatever the share. A single honest node
    meets every share with one Byzantine neighbour, and so has exactly one.

    Args:
        num_nodes: Number of nodes, at least 1.
        num_byzantine: Byzantine nodes, the highest labels, fewer than ``num_nodes``.
        seed: Decides which Byzantine nodes surround which honest node.
        share: Share of Byzantine nodes among an honest node's neighbours, at least; in (0, 1). ``"auto"`` is their
            share in the network, ``num_byzantine / num_nodes``.

    Raises:
        TopologyError: A parameter is out of range, or the share needs more Byzantine nodes than there are.

    References:
        The setting of DFL-Dual (10 nodes, 20 to 80 % Byzantine; its figure gives no edge list): this generator yields
        the neighbourhood sizes that the text describes.
    """
    check_counts(num_nodes, num_byzantine)
    if isinstance(share, str):
        if share != "auto":
            raise TopologyError(f'share must be "auto" or a number in (0, 1), got {share!r}')
        wanted = num_byzantine / num_nodes
    else:
        if not 0 < share < 1:
            raise TopologyError(f'share must be "auto" or a number in (0, 1), got {share}')
        wanted = share

    honest = _honest_graph(num_nodes - num_byzantine, num_byzantine)
    if num_byzantine == 0:
        return honest
    return _surround(honest, num_byzantine, _byzantine_neighbours(honest.degree(0), num_byzantine, wanted), seed)


def _honest_graph(num_honest: int, num_byzantine: int) -> "nx.Graph[int]":
    if num_honest >= 6 and num_byzantine < num_honest:
        return nx.circulant_graph(num_honest, [1, num_honest // 2])
    return ring(num_honest)


def _byzantine_neighbours(honest_degree: int, num_byzantine: int, share: float) -> int:
    """Return the smallest b with ``b / (b + honest_degree) >= share``."""
    # Division rounds correctly and share is the double nearest to what was written, so 3 of 5 does meet 0.6.
    for count in range(1, num_byzantine + 1):
        if count / (count + honest_degree) >= share:
            return count
    total = num_byzantine + honest_degree
    raise TopologyError(
        f"share = {share} does not fit num_byzantine = {num_byzantine}: an honest node has {honest_degree} honest "
        f"neighbours, so its Byzantine share is at most {num_byzantine}/{total}; lower the share to that, or raise "
        "num_byzantine"
    )


def _surround(honest: "nx.Graph[int]", num_byzantine: int, count: int, seed: int) -> "nx.Graph[int]":
    """Return ``honest`` with a ring of Byzantine nodes, ``count`` of them joined to every honest node."""
    num_honest = len(honest)
    draw = random.Random(randomness.integer(seed, "topology"))  # noqa: S311 - breaks ties, protects nothing
    load = dict.fromkeys(range(num_honest, num_honest + num_byzantine), 0)

    graph = honest.copy()
    graph.add_nodes_from(load)
    graph.add_edges_from((num_honest + i, num_honest + j) for i, j in ring(num_byzantine).edges)
    for node in range(num_honest):
        ranks = {other: (load[other], draw.random()) for other in load}
        for other in heapq.nsmallest(count, load, key=ranks.__getitem__):
            graph.add_edge(node, other)
            load[other] += 1
    return graph
