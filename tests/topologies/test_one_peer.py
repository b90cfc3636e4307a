import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networkx.utils import graphs_equal

from flower_dfl.errors import TopologyError
from flower_dfl.topologies.checking import check_schedule
from flower_dfl.topologies.mixing import metropolis_matrix
from flower_dfl.topologies.one_peer_exponential import one_peer_exponential
from flower_dfl.topologies.one_peer_hypercube import one_peer_hypercube


def edges(graph):
    return {frozenset(edge) for edge in graph.edges}


def pairs(*listed):
    return {frozenset(pair) for pair in listed}


def test_the_distance_doubles_from_round_to_round_and_starts_over():
    # ceil(log2 5) = 3 rounds; the distance 4 is 1 the other way round
    base = nx.empty_graph(5)
    ring = pairs((0, 1), (1, 2), (2, 3), (3, 4), (4, 0))

    found = [edges(one_peer_exponential(base, t)) for t in (1, 2, 3, 4)]

    assert found == [ring, pairs((0, 2), (1, 3), (2, 4), (3, 0), (4, 1)), ring, ring]


def test_of_eight_nodes_everybody_has_two_neighbours_but_one_at_half_way():
    base = nx.empty_graph(8)

    degrees = [{degree for _, degree in one_peer_exponential(base, t).degree} for t in range(1, 7)]

    assert degrees == [{2}, {2}, {1}] * 2
    assert edges(one_peer_exponential(base, 3)) == pairs((0, 4), (1, 5), (2, 6), (3, 7))


@settings(deadline=None)
@given(num_nodes=st.integers(2, 40))
def test_exponential_rounds_are_connected_over_every_period(num_nodes):
    period = (num_nodes - 1).bit_length()
    base = nx.empty_graph(num_nodes)

    check_schedule(lambda t: one_peer_exponential(base, t), num_nodes, 3 * period, period)


def test_undirected_exponential_rounds_do_not_average_exactly():
    product = np.eye(8)
    for t in (1, 2, 3):
        product = metropolis_matrix(one_peer_exponential(nx.empty_graph(8), t)) @ product

    assert not np.allclose(product, 1 / 8)


def test_four_nodes_meet_along_the_sides_of_a_square():
    base = nx.empty_graph(4)

    found = [edges(one_peer_hypercube(base, t)) for t in (1, 2, 3)]

    assert found == [pairs((0, 1), (2, 3)), pairs((0, 2), (1, 3)), pairs((0, 1), (2, 3))]


@pytest.mark.parametrize("dimension", [1, 2, 3, 5])
@pytest.mark.parametrize("first", [1, 2, 4])
def test_any_period_of_hypercube_rounds_makes_the_exact_average(dimension, first):
    num_nodes = 2**dimension
    product = np.eye(num_nodes)

    for t in range(first, first + dimension):
        product = metropolis_matrix(one_peer_hypercube(nx.empty_graph(num_nodes), t)) @ product

    np.testing.assert_allclose(product, 1 / num_nodes, rtol=1e-12)


@pytest.mark.parametrize("dimension", [2, 3, 4])
def test_the_rounds_of_a_period_make_up_the_hypercube(dimension):
    base = nx.empty_graph(2**dimension)
    union = nx.compose_all([one_peer_hypercube(base, t) for t in range(1, dimension + 1)])

    assert nx.is_isomorphic(union, nx.hypercube_graph(dimension))


@pytest.mark.parametrize("num_nodes", [3, 6, 10, 33])
def test_a_hypercube_of_any_other_number_of_nodes_is_refused(num_nodes):
    with pytest.raises(TopologyError, match=rf"^num_nodes must be a power of two, got {num_nodes}$"):
        one_peer_hypercube(nx.empty_graph(num_nodes), 1)


def test_the_edges_of_the_base_graph_do_not_matter():
    for schedule in (one_peer_exponential, one_peer_hypercube):
        assert graphs_equal(schedule(nx.path_graph(8), 2), schedule(nx.complete_graph(8), 2))
