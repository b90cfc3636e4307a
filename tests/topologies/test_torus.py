import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.errors import TopologyError
from flower_dfl.topologies.checking import check_graph
from flower_dfl.topologies.torus import torus


def test_nine_nodes_in_three_rows_have_the_neighbours_of_the_picture():
    # 0 1 2
    # 3 4 5
    # 6 7 8   and around: right of 2 is 0, below 6 is 0
    graph = torus(9)

    assert {node: sorted(graph[node]) for node in (0, 4, 8)} == {0: [1, 2, 3, 6], 4: [1, 3, 5, 7], 8: [2, 5, 6, 7]}


@given(rows=st.integers(3, 9), columns=st.integers(3, 9), seed=st.integers())
def test_every_node_has_four_neighbours(rows, columns, seed):
    num_nodes = rows * columns

    graph = torus(num_nodes, num_nodes // 2, seed, rows=rows)

    check_graph(graph, num_nodes)
    assert {len(graph[node]) for node in graph} == {4}


@pytest.mark.parametrize(("num_nodes", "rows", "degree"), [(4, 0, 2), (10, 2, 3), (10, 5, 3)])
def test_two_rows_or_columns_are_neighbours_once(num_nodes, rows, degree):
    graph = torus(num_nodes, rows=rows)

    check_graph(graph, num_nodes)
    assert {len(graph[node]) for node in graph} == {degree}


def test_a_torus_is_the_product_of_two_rings():
    product = nx.cartesian_product(nx.cycle_graph(3), nx.cycle_graph(5))
    relabelled = nx.relabel_nodes(product, lambda place: 5 * place[0] + place[1])

    assert nx.utils.graphs_equal(torus(15), relabelled)


def test_a_prime_number_of_nodes_is_refused():
    with pytest.raises(TopologyError, match=r"^num_nodes must be rows \* columns with at least 2 of each, got 13, "):
        torus(13)


def test_rows_that_do_not_fill_a_torus_are_refused():
    with pytest.raises(TopologyError, match=r"^rows must divide num_nodes = 12 .* got 5$"):
        torus(12, rows=5)
