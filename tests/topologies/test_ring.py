import math

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl import registry
from flower_dfl.errors import TopologyError
from flower_dfl.topologies.checking import check_graph
from flower_dfl.topologies.diagnostics import diagnose
from flower_dfl.topologies.ring import ring


def test_a_ring_of_five_has_exactly_the_five_edges_between_successive_labels():
    edges = {frozenset(edge) for edge in ring(5).edges}

    assert edges == {frozenset(pair) for pair in [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)]}


@pytest.mark.parametrize(("num_nodes", "num_edges"), [(1, 0), (2, 1), (3, 3)])
def test_the_smallest_rings_have_no_loop_and_no_double_edge(num_nodes, num_edges):
    graph = ring(num_nodes)

    check_graph(graph, num_nodes)
    assert graph.number_of_edges() == num_edges


@given(num_nodes=st.integers(3, 80), seed=st.integers())
def test_every_ring_is_connected_and_two_regular_whatever_the_seed(num_nodes, seed):
    graph = ring(num_nodes, num_nodes // 2, seed)

    check_graph(graph, num_nodes)
    assert nx.is_regular(graph)
    assert graph.degree(0) == 2
    assert nx.utils.graphs_equal(graph, ring(num_nodes))


@given(num_nodes=st.integers(3, 40), data=st.data())
def test_the_honest_nodes_of_a_ring_stay_connected(num_nodes, data):
    num_byzantine = data.draw(st.integers(0, num_nodes - 1))

    assert diagnose(ring(num_nodes, num_byzantine), num_byzantine).honest_connected


def test_the_ten_ring_has_the_spectral_gap_of_the_closed_form():
    # All weights are 1/3, so the eigenvalues are (1 + 2 cos(2 pi k / 10)) / 3; the second largest has k = 1.
    gap = diagnose(ring(10), 0).spectral_gap

    assert gap == pytest.approx(1 - (1 + 2 * math.cos(2 * math.pi / 10)) / 3, abs=1e-12)
    assert gap == pytest.approx(0.127, abs=5e-4)


@pytest.mark.parametrize(("num_nodes", "num_byzantine"), [(0, 0), (-1, 0), (4, -1), (4, 4)])
def test_a_ring_needs_an_honest_node_and_no_negative_number(num_nodes, num_byzantine):
    with pytest.raises(TopologyError, match="must be"):
        ring(num_nodes, num_byzantine)


def test_the_registry_builds_a_ring():
    assert registry.build("topology", "ring")(num_nodes=6, num_byzantine=2, seed=1).number_of_edges() == 6
