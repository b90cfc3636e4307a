"""What every communication graph must satisfy, whoever drew it."""

import itertools
from collections.abc import Callable
from typing import TypeAlias

import networkx as nx
import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from flower_dfl.errors import TopologyError

__all__ = ["check_counts", "check_graph", "check_round_graph", "check_schedule"]

Components: TypeAlias = npt.NDArray[np.intp]
"""The component of every node, shape ``(n,)``: nodes of the same number belong together."""


def check_counts(num_nodes: int, num_byzantine: int) -> None:
    """Raise unless there is a node, and an honest one among them.

    Args:
        num_nodes: Number of nodes, at least 1.
        num_byzantine: How many of them are Byzantine, in ``0..num_nodes-1``.

    Raises:
        TopologyError: One of the two is out of range.
    """
    if num_nodes < 1:
        raise TopologyError(f"num_nodes must be at least 1, got {num_nodes}")
    if not 0 <= num_byzantine < num_nodes:
        raise TopologyError(f"num_byzantine must be in 0..num_nodes-1 = 0..{num_nodes - 1}, got {num_byzantine}")


def check_graph(graph: object, num_nodes: int) -> None:
    """Raise unless ``graph`` is a connected simple undirected graph on the labels ``0..num_nodes-1``.

    The engines call this on whatever a topology returns; a topology of a user's own may return anything.

    Args:
        graph: What the topology returned.
        num_nodes: Number of nodes that were asked for, at least 1.

    Raises:
        TopologyError: ``graph`` is not a networkx graph, is directed or a multigraph, has other labels, a self-loop, or
            more than one component.
    """
    components = sorted(nx.connected_components(check_round_graph(graph, num_nodes)), key=len)
    if len(components) > 1:
        raise TopologyError(
            f"the graph must be connected, got {len(components)} components; "
            f"the smallest holds nodes {_shorten(sorted(components[0]))}"
        )


def check_round_graph(graph: object, num_nodes: int) -> "nx.Graph[int]":
    """Return ``graph`` if it is a simple undirected graph on the labels ``0..num_nodes-1``; raise otherwise.

    What :func:`check_graph` checks but for connection, which the graph of a single round need not have.

    Args:
        graph: What a topology or a schedule returned.
        num_nodes: Number of nodes that were asked for, at least 1.

    Raises:
        TopologyError: ``graph`` is not a networkx graph, is directed or a multigraph, has other labels or a self-loop.
    """
    check_counts(num_nodes, 0)
    if not isinstance(graph, nx.Graph):
        raise TopologyError(f"a topology or schedule must return a networkx.Graph, got {type(graph).__name__}")
    if graph.is_directed() or graph.is_multigraph():
        raise TopologyError(
            f"the graph must be undirected with at most one edge between two nodes, got a {type(graph).__name__}"
        )
    _check_labels(graph, num_nodes)
    loops = sorted(nx.nodes_with_selfloops(graph))
    if loops:
        raise TopologyError(f"no node may be its own neighbour, got self-loops at nodes {_shorten(loops)}")
    return graph


def check_schedule(
    graph_of_round: Callable[[int], "nx.Graph[int]"], num_nodes: int, num_rounds: int, window: int
) -> None:
    """Raise unless the graphs of any ``window`` rounds in a row make up a connected graph.

    This is what decentralised learning asks of a graph that changes: no group of nodes is cut off for a whole window.
    Each round's graph is asked for once and kept only as its components. A window joins two of these, the union of its
    rounds before a border and that of its rounds after it, so that the work does not grow with its length.

    Args:
        graph_of_round: The graph of a round, from 1.
        num_nodes: Number of nodes, at least 1.
        num_rounds: Rounds of the run, at least 1.
        window: Length of the window, in ``1..num_rounds``; 0 is the whole run.

    Raises:
        TopologyError: A round's graph is not a simple undirected graph on ``0..num_nodes-1``, the union over a window
            is not connected (the message names the first such window), or a parameter is out of range.

    References:
        Koloskova, Loizou, Boreiri, Jaggi, Stich, *A Unified Theory of Decentralized SGD with Changing Topology and
        Local Updates*, 2020: convergence where any ``tau`` rounds in a row mix. https://arxiv.org/abs/2003.10422
    """
    check_counts(num_nodes, 0)
    if num_rounds < 1:
        raise TopologyError(f"num_rounds must be at least 1, got {num_rounds}")
    if not 0 <= window <= num_rounds:
        raise TopologyError(f"window must be in 0..num_rounds = 0..{num_rounds}, got {window}")
    length = window or num_rounds
    apart: Components = np.arange(num_nodes)
    recent: list[Components] = []  # since the border
    since = apart  # their union
    before: list[Components] = []  # unions of the last rounds before the border, the longest at the end
    for last in range(1, num_rounds + 1):
        recent.append(_components(graph_of_round(last), num_nodes, last))
        since = _union(since, recent[-1])
        if last < length:
            continue
        if not before:
            before, recent, since = list(itertools.accumulate(reversed(recent), _union)), [], apart
        _check_union(_union(before.pop(), since), last - length + 1, last)


def _components(graph: object, num_nodes: int, round: int) -> Components:
    try:
        checked = check_round_graph(graph, num_nodes)
    except TopologyError as error:
        raise TopologyError(f"round {round}: {error}") from error
    found = np.empty(num_nodes, dtype=np.intp)
    for number, nodes in enumerate(nx.connected_components(checked)):
        found[list(nodes)] = number
    return found


def _union(one: Components, other: Components) -> Components:
    """Return the components of two graphs together: a node ties its component in the one to that in the other."""
    n = len(one)
    ties = coo_array((np.ones(n), (one, n + other)), shape=(2 * n, 2 * n))
    found: Components = connected_components(ties, directed=False)[1].astype(np.intp)
    return found[one]


def _check_union(components: Components, first: int, last: int) -> None:
    numbers, sizes = np.unique(components, return_counts=True)
    if len(numbers) > 1:
        smallest = np.flatnonzero(components == numbers[sizes.argmin()]).tolist()
        raise TopologyError(
            f"the graphs of rounds {first}..{last} must make up a connected graph, got {len(numbers)} components; "
            f"the smallest holds nodes {_shorten(smallest)}"
        )


def _check_labels(graph: "nx.Graph[int]", num_nodes: int) -> None:
    # 1.0, True and numpy.int64(1) equal the label 1, but are not what Flower and JSON know as one.
    strange = [label for label in graph if type(label) is not int or not 0 <= label < num_nodes]
    strange += {label for neighbours in graph.adj.values() for label in neighbours if type(label) is not int}
    missing = [label for label in range(num_nodes) if label not in graph]
    if strange or missing:
        raise TopologyError(
            f"the labels must be the Python integers 0..{num_nodes - 1}: "
            f"missing {_shorten(missing)}, not allowed {_shorten(strange)}"
        )


def _shorten(labels: list[int], limit: int = 8) -> str:
    more = f" and {len(labels) - limit} more" if len(labels) > limit else ""
    return (", ".join(repr(label) for label in labels[:limit]) or "none") + more
