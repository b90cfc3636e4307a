import math

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.errors import TopologyError
from flower_dfl.topologies.checking import check_graph
from flower_dfl.topologies.grid import factorise, grid

COMPOSITES = st.integers(4, 200).filter(lambda n: any(n % k == 0 for k in range(2, math.isqrt(n) + 1)))


def test_six_nodes_in_two_rows_have_the_seven_edges_of_the_picture():
    # 0 - 1 - 2
    # |   |   |
    # 3 - 4 - 5
    edges = {frozenset(edge) for edge in grid(6).edges}

    assert edges == {frozenset(pair) for pair in [(0, 1), (1, 2), (3, 4), (4, 5), (0, 3), (1, 4), (2, 5)]}


@given(COMPOSITES, st.integers())
def test_every_grid_is_connected_with_the_edges_of_its_rows_and_columns(num_nodes, seed):
    rows, columns = factorise(num_nodes, 0)

    graph = grid(num_nodes, num_nodes // 2, seed)

    check_graph(graph, num_nodes)
    assert graph.number_of_edges() == rows * (columns - 1) + columns * (rows - 1)
    assert nx.is_bipartite(graph)


@given(COMPOSITES)
def test_without_a_number_of_rows_no_other_grid_is_more_square(num_nodes):
    rows, columns = factorise(num_nodes, 0)

    assert rows * columns == num_nodes
    assert 2 <= rows <= columns
    assert not any(num_nodes % side == 0 for side in range(rows + 1, math.isqrt(num_nodes) + 1))


@pytest.mark.parametrize(("rows", "corner_to_corner"), [(2, 1 + 5), (3, 2 + 3), (4, 3 + 2), (6, 5 + 1)])
def test_rows_may_be_given(rows, corner_to_corner):
    graph = grid(12, rows=rows)

    assert nx.shortest_path_length(graph, 0, 11) == corner_to_corner


@pytest.mark.parametrize("num_nodes", [1, 2, 3, 7, 97])
def test_a_number_that_leaves_only_a_line_is_refused(num_nodes):
    message = rf"^num_nodes must be rows \* columns with at least 2 of each, got {num_nodes}, which leaves only a line$"
    with pytest.raises(TopologyError, match=message):
        grid(num_nodes)


@pytest.mark.parametrize("rows", [-3, 1, 5, 12, 24])
def test_rows_that_do_not_fill_a_grid_are_refused(rows):
    message = rf"^rows must divide num_nodes = 12 into at least 2 rows and at least 2 columns, got {rows}$"
    with pytest.raises(TopologyError, match=message):
        grid(12, rows=rows)
