import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.errors import TopologyError
from flower_dfl.topologies.checking import check_counts, check_graph


@given(num_nodes=st.integers(1, 30), seed=st.integers(0, 2**32))
def test_a_random_tree_passes(num_nodes, seed):
    check_graph(nx.random_labeled_tree(num_nodes, seed=seed), num_nodes)


@pytest.mark.parametrize("answer", [None, [(0, 1)], {0: [1]}, np.eye(2)])
def test_what_is_not_a_networkx_graph_is_refused_by_its_type(answer):
    with pytest.raises(TopologyError, match=rf"must return a networkx.Graph, got {type(answer).__name__}$"):
        check_graph(answer, 2)


@pytest.mark.parametrize("kind", [nx.DiGraph, nx.MultiGraph, nx.MultiDiGraph])
def test_directed_graphs_and_multigraphs_are_refused(kind):
    with pytest.raises(TopologyError, match=rf"undirected with at most one edge .* got a {kind.__name__}$"):
        check_graph(kind([(0, 1), (1, 0)]), 2)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], r"0\.\.2: missing 2, not allowed none"),
        ([0, 1, 2, 3], r"missing none, not allowed 3"),
        ([1, 2, 3], r"missing 0, not allowed 3"),
        (["a", "b", "c"], r"missing 0, 1, 2, not allowed 'a', 'b', 'c'"),
        ([0, 1.0, 2], r"missing none, not allowed 1\.0"),
        ([0, True, 2], r"missing none, not allowed True"),
        ([0, np.int64(1), 2], r"missing none, not allowed np.int64\(1\)"),
        ([-1, 0, 1, 2], r"missing none, not allowed -1"),
    ],
)
def test_the_labels_must_be_the_integers_from_zero(labels, message):
    with pytest.raises(TopologyError, match=message):
        check_graph(nx.path_graph(labels), 3)


def test_a_long_list_of_wrong_labels_is_cut_short():
    with pytest.raises(TopologyError, match=r"missing none, not allowed 2, 3, 4, 5, 6, 7, 8, 9 and 90 more$"):
        check_graph(nx.path_graph(100), 2)


def test_a_self_loop_is_refused_with_its_node():
    with pytest.raises(TopologyError, match=r"self-loops at nodes 1$"):
        check_graph(nx.Graph([(0, 1), (1, 1)]), 2)


def test_a_graph_in_two_parts_is_refused_with_the_smaller_one():
    with pytest.raises(TopologyError, match=r"2 components; the smallest holds nodes 3, 4$"):
        check_graph(nx.Graph([(0, 1), (1, 2), (3, 4)]), 5)


def test_an_empty_graph_is_refused():
    with pytest.raises(TopologyError, match="num_nodes must be at least 1, got 0"):
        check_graph(nx.Graph(), 0)


def test_the_number_of_byzantine_nodes_is_stated_with_its_range():
    check_counts(4, 3)

    with pytest.raises(TopologyError, match=r"0\.\.num_nodes-1 = 0\.\.3, got 4"):
        check_counts(4, 4)
    with pytest.raises(TopologyError, match=r"0\.\.num_nodes-1 = 0\.\.3, got -1"):
        check_counts(4, -1)
