import networkx as nx

from flower_dfl import registry
from flower_dfl.topologies.static import static


def test_a_static_graph_is_the_base_graph_in_every_round():
    ring = nx.cycle_graph(5)

    assert all(static(ring, t, seed) is ring for t in (1, 2, 100) for seed in (0, 1))


def test_the_registry_builds_it():
    ring = nx.cycle_graph(5)

    assert registry.build("schedule", "static")(graph=ring, round=3, seed=1) is ring
