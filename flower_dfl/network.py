"""Who talks to whom in which round, who is Byzantine, and which messages arrive."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

import networkx as nx

from flower_dfl import registry
from flower_dfl.conditions import Conditions, Fate
from flower_dfl.config import RunConfig
from flower_dfl.topologies.checking import check_graph, check_schedule
from flower_dfl.topologies.mixing import metropolis
from flower_dfl.topologies.placement import Placement, place
from flower_dfl.types import NodeId
from flower_dfl.validation import check_known

__all__ = ["HIGHEST_LABELS", "Links", "Network", "build_network"]

HIGHEST_LABELS = "highest-labels"
_STATIC = "static"


@dataclass(frozen=True, slots=True, eq=False)
class Links:
    """The communication graph of one round.

    Attributes:
        graph: Undirected, on the labels ``0..n-1``.
        neighbours: Open neighbourhood of every node.
    """

    graph: "nx.Graph[int]"
    neighbours: Mapping[NodeId, frozenset[NodeId]]

    @classmethod
    def of(cls, graph: "nx.Graph[int]") -> "Links":
        """Read the neighbourhoods off a graph."""
        return cls(graph, {node: frozenset(graph.neighbors(node)) for node in range(len(graph))})

    def mixing_weights(self, node: NodeId) -> dict[NodeId, float]:
        """Return the Metropolis-Hastings weight of each neighbour."""
        return metropolis(self.graph, node)


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """The communication graphs, their adversaries and their troubles.

    Attributes:
        graph: What the topology drew: connected, on the labels ``0..n-1``. The adversary is placed on it.
        byzantine: Nodes under the adversary's control.
        conditions: What goes wrong between nodes.
        schedule: Graph of each round; None where it is ``graph`` in every round.
    """

    graph: "nx.Graph[int]"
    byzantine: frozenset[NodeId]
    conditions: Conditions
    schedule: Callable[[int], "nx.Graph[int]"] | None = None

    @property
    def nodes(self) -> range:
        """All nodes."""
        return range(len(self.graph))

    @property
    def honest(self) -> tuple[NodeId, ...]:
        """The honest nodes, ascending."""
        return tuple(node for node in self.nodes if node not in self.byzantine)

    def links(self, round: int) -> Links:
        """Return the graph of a round."""
        return _links(self, round if self.schedule is not None else 0)

    def fates(self, receiver: NodeId, round: int) -> dict[NodeId, Fate]:
        """Return what becomes of each message to a node in a round, by sender."""
        senders = sorted(self.links(round).neighbours[receiver])
        return {sender: self.conditions.fate(sender, receiver, round) for sender in senders}

    def arrivals(self, receiver: NodeId, round: int) -> list[tuple[NodeId, int]]:
        """Return sender and round of each message that arrives while a node closes a round: late ones last.

        A late one whose sender is no neighbour any more is dropped; it was recorded as late when it did not come.
        """
        on_time = [(sender, round) for sender, fate in self.fates(receiver, round).items() if fate == "delivered"]
        if round == 1 or self.conditions.config.late_rate == 0:
            return on_time
        neighbours = self.links(round).neighbours[receiver]
        fates = self.fates(receiver, round - 1)
        return on_time + [(s, round - 1) for s, fate in fates.items() if fate == "late" and s in neighbours]


@functools.lru_cache(maxsize=8)
def _links(network: Network, round: int) -> Links:
    return Links.of(network.graph if network.schedule is None else network.schedule(round))


def build_network(config: RunConfig) -> Network:
    """Draw the graphs of a configuration.

    Raises:
        TopologyError: One cannot be drawn, the first is not a connected graph on ``0..n-1``, or the graphs of
            ``network.window`` rounds do not connect all nodes.
    """
    topology = registry.build("topology", config.topology.name, config.topology.params)
    graph = topology(num_nodes=config.num_nodes, num_byzantine=config.num_byzantine, seed=config.seed)
    check_graph(graph, config.num_nodes)
    byzantine = _byzantine_nodes(graph, config)
    conditions = Conditions(config.network, config.num_nodes, config.seed)
    rule = registry.build("schedule", config.schedule.name, config.schedule.params)
    if config.schedule.name == _STATIC:
        return Network(graph, byzantine, conditions)

    def schedule(round: int) -> "nx.Graph[int]":
        drawn: nx.Graph[int] = rule(graph=graph, round=round, seed=config.seed)
        return drawn

    check_schedule(schedule, config.num_nodes, config.num_rounds, config.network.window)
    return Network(graph, byzantine, conditions, schedule)


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
