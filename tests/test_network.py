"""Who talks to whom, and where the adversary sits."""

import pytest

from flower_dfl.config import parse
from flower_dfl.errors import ConfigurationError, TopologyError
from flower_dfl.network import build_network


def _network(**settings):
    return build_network(parse({"num-nodes": 8, "num-byzantine": 2, "topology.name": "ring"} | settings))


def test_the_highest_labels_are_byzantine_unless_told_otherwise():
    network = _network()

    assert network.byzantine == {6, 7}
    assert network.honest == (0, 1, 2, 3, 4, 5)
    assert network.links(1).neighbours[0] == {1, 7}


def test_a_placement_chooses_the_byzantine_nodes():
    network = _network(**{"placement.name": "given", "placement.params": "nodes = [0, 4]"})

    assert network.byzantine == {0, 4}
    assert network.honest == (1, 2, 3, 5, 6, 7)


def test_a_random_placement_follows_the_seed():
    placed = {_network(**{"placement.name": "random", "seed": seed}).byzantine for seed in range(8)}

    assert all(len(nodes) == 2 for nodes in placed)
    assert len(placed) > 1
    assert _network(**{"placement.name": "random"}).byzantine == _network(**{"placement.name": "random"}).byzantine


def test_at_most_k_byzantine_neighbours():
    network = _network(**{"placement.name": "bounded", "placement.params": "k = 1"})

    assert all(len(network.links(1).neighbours[node] & network.byzantine) <= 1 for node in network.honest)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"placement.name": "hubs"}, ConfigurationError, "Did you mean 'hub'"),
        ({"placement.params": "k = 1"}, ConfigurationError, "unknown parameter of placement 'highest-labels' 'k'"),
        ({"placement.name": "given", "placement.params": "nodes = [1]"}, TopologyError, "num_byzantine = 2"),
        ({"placement.name": "bounded"}, TopologyError, "k goes with how = 'bounded'"),
    ],
)
def test_a_placement_that_cannot_be_is_refused(settings, error, message):
    with pytest.raises(error, match=message):
        _network(**settings)


def test_mixing_weights_are_those_of_metropolis_and_hastings():
    assert _network().links(1).mixing_weights(0) == pytest.approx({1: 1 / 3, 7: 1 / 3})


def test_a_late_message_arrives_only_from_who_is_still_a_neighbour():
    network = _network(
        **{"network.late-rate": 0.5, "schedule.name": "edge-failures", "schedule.params": "p = 0.4", "num-rounds": 9}
    )
    neighbours = {round: network.links(round).neighbours for round in range(1, 10)}
    late = [
        (node, sender, round)
        for round in range(2, 10)
        for node in network.nodes
        for sender, fate in network.fates(node, round - 1).items()
        if fate == "late"
    ]
    gone = [(node, sender, round) for node, sender, round in late if sender not in neighbours[round][node]]

    assert 0 < len(gone) < len(late)
    for node, sender, round in late:
        assert ((sender, round - 1) in network.arrivals(node, round)) == ((node, sender, round) not in gone)
