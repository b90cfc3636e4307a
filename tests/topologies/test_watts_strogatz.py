import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_dfl.errors import TopologyError
from flower_dfl.topologies import drawing
from flower_dfl.topologies.checking import check_graph
from flower_dfl.topologies.watts_strogatz import watts_strogatz


@settings(deadline=None)
@given(num_nodes=st.integers(6, 40), seed=st.integers(0, 2**32), p=st.floats(0, 1))
def test_rewiring_keeps_the_graph_connected_and_its_number_of_edges(num_nodes, seed, p):
    graph = watts_strogatz(num_nodes, seed=seed, k=4, p=p)

    check_graph(graph, num_nodes)
    assert graph.number_of_edges() == 2 * num_nodes


@pytest.mark.parametrize(("num_nodes", "k"), [(3, 2), (10, 2), (10, 4), (9, 8)])
def test_without_rewiring_it_is_the_ring_lattice(num_nodes, k):
    lattice = nx.circulant_graph(num_nodes, range(1, k // 2 + 1))

    assert nx.utils.graphs_equal(watts_strogatz(num_nodes, k=k, p=0), lattice)


def test_rewiring_shortens_the_paths_of_the_lattice():
    lattice, small_world = watts_strogatz(100, p=0), watts_strogatz(100, p=0.2)

    assert nx.average_shortest_path_length(small_world) < nx.average_shortest_path_length(lattice) / 2


def test_every_edge_is_rewired_with_the_given_probability():
    # 400 edges a graph, 10 graphs, probability 0.25: mean 1000, standard deviation sqrt(4000 * 0.1875) = 27. A rewired
    # edge can come to lie on the lattice again, with a chance of about 4 in 199: 20 fewer at most.
    lattice = set(nx.circulant_graph(200, [1, 2]).edges)
    moved = sum(len(lattice - set(watts_strogatz(200, seed=seed, p=0.25).edges)) for seed in range(10))

    assert moved == pytest.approx(1000, abs=5 * 27 + 20)


@pytest.mark.parametrize("k", [-2, 0, 3, 10, 12])
def test_a_degree_that_is_odd_or_does_not_fit_is_refused(k):
    with pytest.raises(TopologyError, match=rf"^k must be even and in 2\.\.num_nodes-1 = 2\.\.9, got {k}$"):
        watts_strogatz(10, k=k)


@pytest.mark.parametrize("p", [-0.1, 1.01, float("nan")])
def test_a_probability_outside_its_range_is_refused(p):
    with pytest.raises(TopologyError, match=rf"^p must be in \[0, 1\], got {p}$"):
        watts_strogatz(10, p=p)


def test_a_ring_that_falls_apart_when_rewired_is_refused_with_a_way_out(monkeypatch):
    monkeypatch.setattr(drawing, "DRAWS", 1)  # about one of ten such graphs is connected

    message = r"^none of 1 draws of watts-strogatz is connected: k = 2, p = 1 and n = 200; raise k or lower p$"
    with pytest.raises(TopologyError, match=message):
        watts_strogatz(200, k=2, p=1)
