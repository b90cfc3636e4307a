"""Who talks to whom, and who is Byzantine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

import networkx as nx

from flower_dfl import registry
from flower_dfl.config import RunConfig
from flower_dfl.topologies.checking import check_graph
from flower_dfl.topologies.mixing import metropolis
from flower_dfl.topologies.placement import Placement, place
from flower_dfl.types import NodeId
from flower_dfl.validation import check_known

__all__ = ["HIGHEST_LABELS", "Network", "build_network"]

HIGHEST_LABELS = "highest-labels"


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """The communication graph and its adversaries.

    Attributes:
        graph: Undirected, connected, on the labels ``0..n-1``.
        byzantine: Nodes under the adversary's control.
        neighbours: Open neighbourhood of every node.
    """

    graph: "nx.Graph[int]"
    byzantine: frozenset[NodeId]
    neighbours: Mapping[NodeId, frozenset[NodeId]]

    @property
    def nodes(self) -> range:
        """All nodes."""
        return range(len(self.neighbours))

    @property
    def honest(self) -> tuple[NodeId, ...]:
        """The honest nodes, ascending."""
        return tuple(node for node in self.nodes if node not in self.byzantine)

    def mixing_weights(self, node: NodeId) -> dict[NodeId, float]:
        """Return the Metropolis-Hastings weight of each neighbour."""
        return metropolis(self.graph, node)


def build_network(config: RunConfig) -> Network:
    """Draw the graph of a configuration.

    Raises:
        TopologyError: It cannot be drawn, or is not a connected graph on ``0..n-1``.
    """
    topology = registry.build("topology", config.topology.name, config.topology.params)
    graph = topology(num_nodes=config.num_nodes, num_byzantine=config.num_byzantine, seed=config.seed)
    check_graph(graph, config.num_nodes)
    return Network(
        graph,
        _byzantine_nodes(graph, config),
        {node: frozenset(graph.neighbors(node)) for node in range(config.num_nodes)},
    )


def _byzantine_nodes(graph: "nx.Graph[int]", config: RunConfig) -> frozenset[NodeId]:
    """Place the adversary.

    Raises:
        ConfigurationError: The placement or one of its parameters is unknown.
        TopologyError: The adversary cannot be placed so.
    """
    name, params = config.placement.name, dict[str, Any](config.placement.params)
    check_known("placement", name, [HIGHEST_LABELS, *get_args(Placement)])
    valid = [] if name == HIGHEST_LABELS else ["k", "nodes"]
    for key in params:
        check_known(f"parameter of placement {name!r}", key, valid)
    if name == HIGHEST_LABELS:
        return frozenset(range(config.num_nodes - config.num_byzantine, config.num_nodes))
    return place(graph, config.num_byzantine, cast("Placement", name), config.seed, **params)
