"""A communication graph with its adversaries."""

from collections.abc import Collection, Mapping

import networkx as nx
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from flower_dfl.figures.style import BYZANTINE, HONEST, house_style

__all__ = ["draw_network"]

_MOST_LABELLED = 60
_MOST_EXACT = 120  # nodes up to which distances on paper follow distances in the graph, which takes cubic time
_MOST_PLACED = 2_000  # nodes up to which their place says anything at all
_DENSE = 0.5


@house_style()
def draw_network(graph: "nx.Graph[int]", byzantine: Collection[int], title: str) -> Figure:
    """Draw a graph: honest nodes are circles, Byzantine ones squares, and what touches one of these is dashed.

    Args:
        graph: On the labels ``0..n-1``; up to 60 nodes carry their label.
        byzantine: The Byzantine nodes.
        title: What the graph is called.
    """
    n = len(graph)
    figure = Figure(figsize=(5.5, 6.0) if n <= _MOST_LABELLED else (9.0, 9.5))
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.margins(0.08)
    places = _layout(graph)
    diameter = min(17.0, 180.0 / n**0.5)  # points
    honest = [node for node in range(n) if node not in byzantine]
    groups = {
        "between honest nodes": [edge for edge in graph.edges if not set(edge) & set(byzantine)],
        "from or to a Byzantine node": [edge for edge in graph.edges if set(edge) & set(byzantine)],
    }
    opacity = min(1.0, max(0.03, 15 / (graph.number_of_edges() ** 0.5 + 1)))  # paler, the more there are
    for (label, edges), colour, dashes in zip(groups.items(), (HONEST, BYZANTINE), ("-", (0, (3, 2))), strict=True):
        segments = [(places[i], places[j]) for i, j in edges]
        axes.add_collection(
            LineCollection(segments, colors=colour, linestyles=[dashes], linewidths=0.9, alpha=opacity, label=label)
        )
    for nodes, label, marker, colour in (
        (honest, "honest", "o", HONEST),
        (sorted(byzantine), "Byzantine", "s", BYZANTINE),
    ):
        axes.scatter(
            [places[node][0] for node in nodes],
            [places[node][1] for node in nodes],
            s=diameter**2,
            marker=marker,
            c=colour,
            edgecolors="white",
            linewidths=0.5,
            zorder=2,
            label=f"{len(nodes)} {label}",
        )
    if n <= _MOST_LABELLED:
        for node, (x, y) in places.items():
            axes.text(x, y, str(node), ha="center", va="center", color="white", fontsize=0.5 * diameter)
    axes.set_title(f"{title}: {n} nodes, {graph.number_of_edges()} edges")
    legend = figure.legend(loc="outside lower center", ncols=2, markerscale=7 / diameter)
    for line in legend.get_lines():
        line.set_alpha(1.0)
    return figure


def _layout(graph: "nx.Graph[int]") -> Mapping[int, NDArray[np.float64]]:
    """Place the nodes; the same graph always alike."""
    ordered: nx.Graph[int] = nx.Graph()
    ordered.add_nodes_from(sorted(graph))
    ordered.add_edges_from(sorted((min(edge), max(edge)) for edge in graph.edges))
    if len(ordered) > _MOST_PLACED or nx.density(ordered) > _DENSE:
        return nx.circular_layout(ordered)
    if len(ordered) <= _MOST_EXACT:
        return nx.kamada_kawai_layout(ordered)
    # The smoothest two waves on the graph unfold it; springs then move the nodes apart. (networkx's own spectral layout
    # starts from random numbers.)
    waves = np.linalg.eigh(nx.laplacian_matrix(ordered).toarray().astype(np.float64)).eigenvectors[:, 1:3]
    start = dict(zip(ordered, waves / np.abs(waves).max(axis=0), strict=True))
    if max(len(ordered[node]) for node in ordered) == 2:  # a ring, which the waves alone make round
        return start
    return nx.spring_layout(ordered, pos=start, seed=0, method="force", iterations=30)
