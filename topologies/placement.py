"""Which nodes are Byzantine: ways to place an adversary on a given graph.

:func:`place` is a pure function of the graph, the number of nodes and the seed. It chooses among the labels that the
graph has; nothing about the graph changes.
"""

import random
from collections.abc import Callable, Collection, Mapping
from typing import Literal, get_args

import networkx as nx
import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from flower_dfl import randomness
from flower_dfl.errors import TopologyError
from flower_dfl.topologies.checking import check_counts

__all__ = ["Placement", "place", "placement_warnings"]

Placement = Literal["random", "dominating", "clustered", "hub", "bottleneck", "bounded", "given"]
"""The names of the ways, see :func:`place`."""

_DRAWS = 100  # random attempts before the exact search
_DIGITS = 9  # betweenness is summed in floating point: further digits would break ties by accident


def place(
    graph: "nx.Graph[int]",
    num_byzantine: int,
    how: Placement = "random",
    seed: int = 0,
    *,
    k: int | None = None,
    nodes: Collection[int] | None = None,
) -> frozenset[int]:
    """Choose the Byzantine nodes of a graph.

    - ``random``: uniformly.
    - ``dominating``: greedily so that honest nodes have more Byzantine than honest neighbours: each choice leaves the
      fewest such neighbours missing. Best effort: with few attackers some honest nodes stay free.
    - ``clustered``: a connected group that grows from a random node, always by the node with the most neighbours in it.
    - ``hub``: the nodes of highest betweenness, through which most shortest paths run.
    - ``bottleneck``: nodes whose loss cuts the honest nodes apart: one by one the cut node that splits the largest
      honest component most evenly; where there is none a smallest vertex cut, if there are attackers enough; then hubs.
    - ``bounded``: at random, with at most ``k`` Byzantine neighbours for every honest node. Where random attempts fail,
      an exact search decides.
    - ``given``: the ``nodes`` listed.

    The same arguments choose the same nodes, whatever the order in which the graph was built. Ties are broken by the
    seed in ``dominating`` and ``clustered``, by the lower label in ``hub`` and ``bottleneck``, which draw nothing.

    Args:
        graph: An undirected graph without self-loops on the labels ``0..n-1``.
        num_byzantine: How many, in ``0..n-1``.
        how: In what way.
        seed: Seed of the run.
        k: Largest number of Byzantine neighbours of an honest node, for ``bounded`` only; not negative.
        nodes: The Byzantine nodes, for ``given`` only.

    Raises:
        TopologyError: A parameter is unknown, missing, out of range or not used by ``how``; ``nodes`` are not
            ``num_byzantine`` different labels; or no placement is ``bounded`` by ``k``.
    """
    check_counts(len(graph), num_byzantine)
    if how not in get_args(Placement):
        raise TopologyError(f"how must be one of {', '.join(get_args(Placement))}, got {how!r}")
    for name, value, user in (("k", k, "bounded"), ("nodes", nodes, "given")):
        if (value is None) == (how == user):
            raise TopologyError(
                f"{name} goes with how = {user!r} and with nothing else, got {name}={value}, how={how!r}"
            )
    if k is not None and not _are_whole([k]):
        raise TopologyError(f"k must be a whole number, got {k!r}")
    if nodes is not None and not _are_whole(nodes):
        raise TopologyError(f"nodes must be a list of whole numbers, got {nodes!r}")
    ordered: nx.Graph[int] = nx.Graph()
    ordered.add_nodes_from(sorted(graph))
    ordered.add_edges_from(sorted((min(edge), max(edge)) for edge in graph.edges))
    draw = random.Random(randomness.integer(seed, "placement"))  # noqa: S311 - places nodes, protects nothing
    if nodes is not None:
        return _given(ordered, num_byzantine, nodes)
    if k is not None:
        return _bounded(ordered, num_byzantine, k, draw)
    return frozenset(_WAYS[how](ordered, num_byzantine, draw))


def placement_warnings(graph: "nx.Graph[int]", byzantine: Collection[int]) -> tuple[str, ...]:
    """Return in words what keeps honest nodes from learning from one another; nothing for a network of one node.

    Args:
        graph: The communication graph.
        byzantine: Its Byzantine nodes.
    """
    honest = sorted(set(graph) - set(byzantine))
    if len(graph) == 1:
        return ()
    found = []
    components = nx.number_connected_components(graph.subgraph(honest))
    if components > 1:
        found.append(f"the honest nodes are cut off from one another: they form {components} components")
    alone = [node for node in honest if not set(graph[node]) - set(byzantine)]
    if alone:
        found.append(f"honest nodes without an honest neighbour: {', '.join(map(str, alone))}")
    return tuple(found)


def _are_whole(values: object) -> bool:
    """Return whether these are whole numbers, and several can be: parameters come from text."""
    if isinstance(values, str) or not isinstance(values, Collection):
        return False
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _random(graph: "nx.Graph[int]", count: int, draw: random.Random) -> list[int]:
    return draw.sample(list(graph), count)


def _dominating(graph: "nx.Graph[int]", count: int, draw: random.Random) -> set[int]:
    chosen: set[int] = set()
    missing = {node: len(graph[node]) // 2 + 1 for node in graph}  # Byzantine neighbours until they are the majority
    for _ in range(count):
        gain = {
            node: max(missing[node], 0) + sum(missing[j] > 0 for j in graph[node] if j not in chosen)
            for node in graph
            if node not in chosen
        }
        best = max(gain.values())
        pick = draw.choice([node for node, value in gain.items() if value == best])
        chosen.add(pick)
        for other in graph[pick]:
            missing[other] -= 1
    return chosen


def _clustered(graph: "nx.Graph[int]", count: int, draw: random.Random) -> set[int]:
    chosen: set[int] = set()
    for _ in range(count):
        inside = {node: sum(j in chosen for j in graph[node]) for node in graph if node not in chosen}
        most = max(inside.values())  # 0 at the start, and where a component is used up
        chosen.add(draw.choice([node for node, value in inside.items() if value == most]))
    return chosen


def _hub(graph: "nx.Graph[int]", count: int, draw: random.Random) -> list[int]:
    del draw
    centrality = {node: round(value, _DIGITS) for node, value in nx.betweenness_centrality(graph).items()}
    return sorted(graph, key=lambda node: (-centrality[node], node))[:count]


def _bottleneck(graph: "nx.Graph[int]", count: int, draw: random.Random) -> set[int]:
    chosen: set[int] = set()
    while len(chosen) < count:
        rest = graph.subgraph(set(graph) - chosen)
        largest = max(nx.connected_components(rest), key=lambda part: (len(part), -min(part)))
        component = graph.subgraph(largest)
        cut = _cut(component, count - len(chosen))
        chosen |= cut or set(_hub(component, 1, draw))
    return chosen


def _cut(component: "nx.Graph[int]", most: int) -> set[int]:
    """Return a cut of at most ``most`` nodes of a connected graph; nothing if there is none."""
    articulation = sorted(nx.articulation_points(component))
    if articulation:
        return {min(articulation, key=lambda node: (_largest_without(component, node), node))}
    if 2 * component.number_of_edges() == len(component) * (len(component) - 1):
        return set()  # complete: no cut leaves two parts
    cut = set(nx.minimum_node_cut(component))
    return cut if len(cut) <= most else set()


def _largest_without(component: "nx.Graph[int]", node: int) -> int:
    rest = component.subgraph(set(component) - {node})
    return max(len(part) for part in nx.connected_components(rest))


def _bounded(graph: "nx.Graph[int]", count: int, k: int, draw: random.Random) -> frozenset[int]:
    if k < 0:
        raise TopologyError(f"k must not be negative, got {k}")
    for _ in range(_DRAWS):
        chosen = _draw_bounded(graph, count, k, draw)
        if len(chosen) == count:
            return frozenset(chosen)
    return _solve_bounded(graph, count, k)


def _draw_bounded(graph: "nx.Graph[int]", count: int, k: int, draw: random.Random) -> set[int]:
    chosen: set[int] = set()
    load = dict.fromkeys(graph, 0)
    for node in draw.sample(list(graph), len(graph)):
        if len(chosen) < count and all(load[j] < k for j in graph[node] if j not in chosen):
            chosen.add(node)
            for other in graph[node]:
                load[other] += 1
    return chosen


def _solve_bounded(graph: "nx.Graph[int]", count: int, k: int) -> frozenset[int]:
    """Decide by integer programming: x is 1 for Byzantine nodes, and ``sum of x around i <= k + d_i x_i`` for all i."""
    n = len(graph)
    around = np.zeros((n, n))
    for i, j in graph.edges:
        around[i, j] = around[j, i] = 1
    limits = LinearConstraint(around - np.diag(around.sum(axis=1)), ub=np.full(n, k))
    number = LinearConstraint(np.ones((1, n)), count, count)
    found = milp(np.zeros(n), integrality=[1] * n, bounds=Bounds(0, 1), constraints=[limits, number])
    if not found.success:
        raise TopologyError(
            f"no {count} of {n} nodes can be Byzantine with at most k={k} Byzantine neighbours for every honest node"
        )
    return frozenset(int(node) for node in np.flatnonzero(found.x > 0.5))


def _given(graph: "nx.Graph[int]", count: int, nodes: Collection[int]) -> frozenset[int]:
    unknown = sorted(set(nodes) - set(graph))
    if unknown or len(nodes) != count or len(set(nodes)) != count:
        raise TopologyError(
            f"nodes must be num_byzantine = {count} different labels of 0..{len(graph) - 1}, got {sorted(nodes)}"
        )
    return frozenset(nodes)


_WAYS: Mapping[str, Callable[["nx.Graph[int]", int, random.Random], Collection[int]]] = {
    "random": _random,
    "dominating": _dominating,
    "clustered": _clustered,
    "hub": _hub,
    "bottleneck": _bottleneck,
}
