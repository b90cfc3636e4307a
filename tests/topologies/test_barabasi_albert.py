import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.errors import TopologyError
from flower_dfl.topologies.barabasi_albert import barabasi_albert
from flower_dfl.topologies.checking import check_graph


@given(num_nodes=st.integers(2, 40), seed=st.integers(0, 2**32), data=st.data())
def test_every_node_that_joins_brings_m_edges(num_nodes, seed, data):
    m = data.draw(st.integers(1, num_nodes - 1))

    graph = barabasi_albert(num_nodes, seed=seed, m=m)

    check_graph(graph, num_nodes)
    assert graph.number_of_edges() == m * (num_nodes - m)
    assert all(sum(other < node for other in graph[node]) == m for node in range(m + 1, num_nodes))


def test_one_neighbour_each_makes_a_tree():
    assert nx.is_tree(barabasi_albert(30, m=1))


def test_as_many_neighbours_as_there_are_makes_the_star():
    assert nx.utils.graphs_equal(barabasi_albert(6, m=5), nx.star_graph(5))


def test_hubs_arise_among_the_first():
    graph = barabasi_albert(300)

    degrees = [len(graph[node]) for node in range(300)]
    assert max(degrees) > 5 * sum(degrees) / 300
    assert degrees.index(max(degrees)) < 10


@pytest.mark.parametrize("m", [-1, 0, 10])
def test_a_number_of_neighbours_that_does_not_fit_is_refused(m):
    with pytest.raises(TopologyError, match=rf"^m must be in 1\.\.num_nodes-1 = 1\.\.9, got {m}$"):
        barabasi_albert(10, m=m)
