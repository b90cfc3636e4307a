"""File: a graph of one's own, read from an edge list or from GraphML."""

from pathlib import Path

import networkx as nx

from flower_dfl.errors import TopologyError
from flower_dfl.topologies.checking import check_counts, check_graph

__all__ = ["from_file"]

_EDGE_LISTS = (".edgelist", ".edges", ".txt")


def from_file(num_nodes: int, num_byzantine: int = 0, seed: int = 0, *, path: str) -> "nx.Graph[int]":
    """Return the graph in a file, whose labels must be ``0..num_nodes-1``.

    The suffix decides how it is read. Directions, weights and all other attributes are no part of a communication
    graph: a directed file is refused, attributes are left out.

    - ``.edgelist``, ``.edges``, ``.txt``: one edge a line, two labels with white space between them. What follows them
      is left out, and so is everything after a ``#``.
    - ``.graphml``: GraphML, as networkx writes it.

    Args:
        num_nodes: Number of nodes that the file must have, at least 1.
        num_byzantine: Byzantine nodes, the highest labels, fewer than ``num_nodes``. The edges do not depend on it.
        seed: Accepted for the common signature; nothing is drawn.
        path: The file; a relative path starts at the current directory.

    Raises:
        TopologyError: The file cannot be read, or holds no connected simple undirected graph on these labels.
    """
    del seed
    check_counts(num_nodes, num_byzantine)
    source = Path(path).expanduser().absolute()
    try:
        found = _read(source)
        _check(found, num_nodes)
    except OSError as error:
        raise TopologyError(f"cannot read the graph file {source}: {error.strerror}") from error
    except (TopologyError, UnicodeDecodeError) as error:
        raise TopologyError(f"{source}: {error}") from error
    graph: nx.Graph[int] = nx.empty_graph(num_nodes)
    graph.add_edges_from(found.edges)
    return graph


def _read(source: Path) -> "nx.Graph[int]":
    if source.suffix in _EDGE_LISTS:
        return _read_edges(source.read_text(encoding="utf-8"))
    if source.suffix == ".graphml":
        return _read_graphml(source)
    raise TopologyError(f"the suffix must be .graphml, {', '.join(_EDGE_LISTS)}, got {source.suffix!r}")


def _read_edges(text: str) -> "nx.Graph[int]":
    graph: nx.Graph[int] = nx.Graph()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            graph.add_edge(int(words[0]), int(words[1]))
        except (IndexError, ValueError) as error:
            raise TopologyError(f"line {number} must begin with two integer labels, got {line!r}") from error
    return graph


def _read_graphml(source: Path) -> "nx.Graph[int]":
    try:
        graph: nx.Graph[int] = nx.read_graphml(source, node_type=int)
    except (nx.NetworkXError, SyntaxError, KeyError, ValueError) as error:  # XML's parse error is a SyntaxError
        raise TopologyError(f"it must be GraphML with integers for labels: {error}") from error
    return graph


def _check(graph: "nx.Graph[int]", num_nodes: int) -> None:
    if len(graph) != num_nodes:
        raise TopologyError(f"expected num_nodes = {num_nodes} nodes, got {len(graph)}")
    check_graph(graph, num_nodes)
