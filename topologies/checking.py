"""What every communication graph must satisfy, whoever drew it."""

import networkx as nx

from flower_dfl.errors import TopologyError

__all__ = ["check_counts", "check_graph"]


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
    check_counts(num_nodes, 0)
    if not isinstance(graph, nx.Graph):
        raise TopologyError(f"a topology must return a networkx.Graph, got {type(graph).__name__}")
    if graph.is_directed() or graph.is_multigraph():
        raise TopologyError(
            f"the graph must be undirected with at most one edge between two nodes, got a {type(graph).__name__}"
        )
    _check_labels(graph, num_nodes)
    loops = sorted(nx.nodes_with_selfloops(graph))
    if loops:
        raise TopologyError(f"no node may be its own neighbour, got self-loops at nodes {_shorten(loops)}")
    if not nx.is_connected(graph):
        components = sorted(nx.connected_components(graph), key=len)
        raise TopologyError(
            f"the graph must be connected, got {len(components)} components; "
            f"the smallest holds nodes {_shorten(sorted(components[0]))}"
        )


def _check_labels(graph: "nx.Graph[int]", num_nodes: int) -> None:
    # 1.0, True and numpy.int64(1) equal the label 1, but are not what Flower and JSON know as one.
    strange = [label for label in graph if type(label) is not int or not 0 <= label < num_nodes]
    missing = [label for label in range(num_nodes) if label not in graph]
    if strange or missing:
        raise TopologyError(
            f"the labels must be the Python integers 0..{num_nodes - 1}: "
            f"missing {_shorten(missing)}, not allowed {_shorten(strange)}"
        )


def _shorten(labels: list[int], limit: int = 8) -> str:
    more = f" and {len(labels) - limit} more" if len(labels) > limit else ""
    return (", ".join(repr(label) for label in labels[:limit]) or "none") + more
