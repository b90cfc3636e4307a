import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.topologies.mixing import metropolis, metropolis_matrix
from flower_dfl.topologies.ring import ring


def test_the_weights_of_a_path_with_a_spur_are_those_worked_by_hand():
    # Degrees: 0 has 1, 1 has 3, 2 has 2, 3 has 2; edges 0-1, 1-2, 1-3, 2-3.
    graph = nx.Graph([(2, 3), (1, 3), (1, 2), (0, 1)])

    assert metropolis(graph, 0) == {1: 1 / 4}
    assert metropolis(graph, 1) == {0: 1 / 4, 2: 1 / 4, 3: 1 / 4}
    assert metropolis(graph, 2) == {1: 1 / 4, 3: 1 / 3}


def test_neighbours_come_in_ascending_order_however_the_edges_were_added():
    graph = nx.Graph([(1, 4), (1, 0), (1, 3), (1, 2)])

    assert list(metropolis(graph, 1)) == [0, 2, 3, 4]


def test_the_matrix_is_indexed_by_label_however_the_nodes_were_added():
    graph = nx.Graph([(2, 1), (1, 0)])  # a path; 1 is in the middle

    expected = np.array([[2, 1, 0], [1, 1, 1], [0, 1, 2]]) / 3
    np.testing.assert_allclose(metropolis_matrix(graph), expected, atol=1e-15)


def test_a_single_node_keeps_all_its_weight():
    assert metropolis(ring(1), 0) == {}
    np.testing.assert_array_equal(metropolis_matrix(ring(1)), [[1.0]])


@given(num_nodes=st.integers(1, 25), density=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_the_matrix_is_symmetric_doubly_stochastic_and_every_node_keeps_a_share(num_nodes, density, seed):
    matrix = metropolis_matrix(nx.gnp_random_graph(num_nodes, density, seed=seed))

    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_allclose(matrix.sum(axis=0), 1, atol=1e-12)
    assert (matrix >= 0).all()
    assert np.diag(matrix).min() >= 1 / num_nodes - 1e-12


def test_a_node_that_is_not_in_the_graph_is_an_error():
    with pytest.raises(KeyError):
        metropolis(ring(3), 3)
