import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_dfl.errors import TopologyError
from flower_dfl.topologies.checking import check_graph, check_round_graph
from flower_dfl.topologies.diagnostics import diagnose
from flower_dfl.topologies.random_regular import draw_regular, random_regular


@st.composite
def regular(draw, least):
    num_nodes = draw(st.integers(least + 1, 40))
    degree = draw(st.integers(least, num_nodes - 1))
    return num_nodes, degree - (num_nodes * degree % 2), draw(st.integers(0, 2**32))


@settings(deadline=None)
@given(regular(least=4))
def test_every_node_has_the_degree_and_the_graph_is_connected(sizes):
    num_nodes, degree, seed = sizes

    graph = random_regular(num_nodes, seed=seed, degree=degree)

    check_graph(graph, num_nodes)
    assert {len(graph[node]) for node in graph} == {degree}


@settings(deadline=None)
@given(regular(least=2))
def test_a_single_draw_has_the_degree_whether_it_is_connected_or_not(sizes):
    num_nodes, degree, key = sizes

    graph = draw_regular(num_nodes, degree, key)

    check_round_graph(graph, num_nodes)
    assert list(graph) == list(range(num_nodes))
    assert {len(graph[node]) for node in graph} == {degree}


@pytest.mark.parametrize("degree", [196, 198, 199])
def test_a_graph_next_to_the_complete_one_is_drawn_like_any_other(degree):
    graph = random_regular(200, degree=degree)

    assert {len(graph[node]) for node in graph} == {degree}


def test_degree_two_is_a_ring_in_random_order():
    graph = random_regular(30, degree=2)

    assert nx.is_isomorphic(graph, nx.cycle_graph(30))
    assert not nx.utils.graphs_equal(graph, nx.cycle_graph(30))


def test_it_expands_where_the_ring_lattice_of_the_same_degree_does_not():
    lattice = nx.circulant_graph(200, [1, 2])

    assert diagnose(random_regular(200, degree=4), 0).spectral_gap > 20 * diagnose(lattice, 0).spectral_gap


@pytest.mark.parametrize("degree", [-1, 0, 10])
def test_a_degree_that_does_not_fit_is_refused(degree):
    with pytest.raises(TopologyError, match=rf"^degree must be in 1\.\.num_nodes-1 = 1\.\.9, got {degree}$"):
        random_regular(10, degree=degree)


def test_an_odd_number_of_edge_ends_is_refused():
    with pytest.raises(TopologyError, match=r"^num_nodes \* degree must be even, got 9 \* 3 = 27$"):
        random_regular(9, degree=3)


def test_pairs_are_refused_with_a_degree_that_is_connected():
    message = r"^none of 100 draws of random-regular is connected: degree = 1 and n = 10; .* take 3 or more$"
    with pytest.raises(TopologyError, match=message):
        random_regular(10, degree=1)
