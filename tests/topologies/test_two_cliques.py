import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_dfl.errors import TopologyError
from flower_dfl.topologies.checking import check_graph
from flower_dfl.topologies.diagnostics import diagnose
from flower_dfl.topologies.two_cliques import two_cliques


def test_five_nodes_are_a_triangle_and_a_pair_with_a_bridge():
    edges = {frozenset(edge) for edge in two_cliques(5).edges}

    assert edges == {frozenset(pair) for pair in [(0, 1), (0, 2), (1, 2), (3, 4), (0, 3)]}


@settings(deadline=None)
@given(num_nodes=st.integers(2, 40), data=st.data())
def test_the_cliques_are_complete_and_only_the_bridges_join_them(num_nodes, data):
    bridges = data.draw(st.integers(1, num_nodes // 2))
    first = (num_nodes + 1) // 2

    graph = two_cliques(num_nodes, bridges=bridges)

    check_graph(graph, num_nodes)
    across = {(i, j) for i, j in graph.edges if (i < first) != (j < first)}
    assert across == {(k, first + k) for k in range(bridges)}
    for clique in (range(first), range(first, num_nodes)):
        assert nx.density(graph.subgraph(clique)) == (1 if len(clique) > 1 else 0)


def test_cutting_the_bridges_takes_as_many_edges():
    assert [nx.edge_connectivity(two_cliques(12, bridges=bridges)) for bridges in (1, 2, 3)] == [1, 2, 3]


def test_every_bridge_speeds_up_mixing():
    gaps = [diagnose(two_cliques(10, bridges=bridges), 0).spectral_gap for bridges in range(1, 6)]

    assert gaps == sorted(gaps)
    assert gaps[0] < 0.06
    assert gaps[-1] > 0.3


@pytest.mark.parametrize("bridges", [-1, 0, 5])
def test_a_number_of_bridges_that_does_not_fit_is_refused(bridges):
    with pytest.raises(TopologyError, match=rf"^bridges must be in 1\.\.num_nodes//2 = 1\.\.4, got {bridges}$"):
        two_cliques(9, bridges=bridges)


def test_a_single_node_makes_no_two_cliques():
    with pytest.raises(TopologyError, match=r"^bridges must be in 1\.\.num_nodes//2 = 1\.\.0, got 1$"):
        two_cliques(1)
