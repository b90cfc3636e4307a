import re

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_dfl.errors import TopologyError
from flower_dfl.topologies.checking import check_counts, check_graph, check_round_graph, check_schedule


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


def test_a_rounds_graph_need_not_be_connected_and_comes_back_as_it_is():
    graph = nx.Graph([(0, 1)])
    graph.add_node(2)

    assert check_round_graph(graph, 3) is graph


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (None, "a topology or schedule must return a networkx.Graph, got NoneType"),
        (nx.DiGraph([(0, 1)]), "got a DiGraph"),
        (nx.Graph([(0, 2)]), "missing 1, not allowed 2"),
        (nx.Graph([(0, 1), (1, 1)]), "self-loops at nodes 1"),
    ],
)
def test_a_rounds_graph_is_checked_for_all_else(graph, message):
    with pytest.raises(TopologyError, match=f"{re.escape(message)}$"):
        check_round_graph(graph, 2)


def rounds_of(num_nodes, *edges):
    """Return the graph of each round as a function, and a list of the rounds that were asked for."""
    asked = []

    def graph_of_round(round):
        asked.append(round)
        graph = nx.empty_graph(num_nodes)
        graph.add_edges_from(edges[round - 1])
        return graph

    return graph_of_round, asked


@st.composite
def schedules(draw):
    num_nodes = draw(st.integers(1, 6))
    pairs = [(i, j) for i in range(num_nodes) for j in range(i)]
    edges = st.lists(st.sampled_from(pairs), max_size=4) if pairs else st.just([])
    rounds = draw(st.lists(edges, min_size=1, max_size=9))
    return num_nodes, rounds, draw(st.integers(0, len(rounds)))


@settings(deadline=None)
@given(schedules())
def test_the_first_window_is_found_whose_union_is_not_connected(schedule):
    num_nodes, rounds, window = schedule
    length = window or len(rounds)
    unions = [nx.empty_graph(num_nodes) for _ in range(len(rounds) - length + 1)]
    for first, union in enumerate(unions):
        union.add_edges_from(edge for edges in rounds[first : first + length] for edge in edges)
    broken = [first for first, union in enumerate(unions, 1) if not nx.is_connected(union)]
    graph_of_round, asked = rounds_of(num_nodes, *rounds)

    if not broken:
        check_schedule(graph_of_round, num_nodes, len(rounds), window)
        assert asked == list(range(1, len(rounds) + 1))
        return
    first, last = broken[0], broken[0] + length - 1
    components = sorted(nx.connected_components(unions[first - 1]), key=len)
    with pytest.raises(TopologyError) as caught:
        check_schedule(graph_of_round, num_nodes, len(rounds), window)

    found = re.fullmatch(
        rf"the graphs of rounds {first}\.\.{last} must make up a connected graph, got {len(components)} components; "
        r"the smallest holds nodes ([0-9, ]+)",
        str(caught.value),
    )
    named = {int(label) for label in found[1].split(", ")}
    assert named in components
    assert len(named) == len(components[0])
    assert asked == list(range(1, last + 1))  # each once, and none after the first broken window


def test_a_long_schedule_breaks_at_its_only_gap():
    # a ring in even rounds, nothing in odd ones and from 200 to 203: the first four empty rounds in a row are 199..202
    ring = nx.cycle_graph(5)

    def graph_of_round(round):
        return nx.empty_graph(5) if round % 2 or 200 <= round <= 203 else ring

    check_schedule(graph_of_round, 5, 300, 6)
    with pytest.raises(TopologyError, match=r"^the graphs of rounds 199\.\.202 .* got 5 components"):
        check_schedule(graph_of_round, 5, 300, 4)


@pytest.mark.parametrize("window", [0, 3])
def test_a_window_as_long_as_the_run_is_the_whole_run(window):
    graph_of_round, _ = rounds_of(4, [(0, 1)], [(1, 2)], [(2, 3)])

    check_schedule(graph_of_round, 4, 3, window)


def test_a_network_of_one_node_is_always_connected():
    check_schedule(lambda t: nx.empty_graph(1), 1, 3, 1)


def test_a_broken_graph_is_named_with_its_round():
    graph_of_round, _ = rounds_of(2, [(0, 1)], [(0, 1)], [(0, 1), (1, 1)])

    with pytest.raises(TopologyError, match=r"^round 3: no node may be its own neighbour, got self-loops at nodes 1$"):
        check_schedule(graph_of_round, 2, 3, 1)


@pytest.mark.parametrize("window", [-1, 4])
def test_a_window_longer_than_the_run_is_refused(window):
    with pytest.raises(TopologyError, match=rf"^window must be in 0\.\.num_rounds = 0\.\.3, got {window}$"):
        check_schedule(lambda t: nx.path_graph(2), 2, 3, window)


def test_a_schedule_without_rounds_is_refused():
    with pytest.raises(TopologyError, match=r"^num_rounds must be at least 1, got 0$"):
        check_schedule(lambda t: nx.path_graph(2), 2, 0, 0)


def test_a_schedule_without_nodes_is_refused():
    with pytest.raises(TopologyError, match=r"^num_nodes must be at least 1, got 0$"):
        check_schedule(lambda t: nx.empty_graph(0), 0, 1, 0)


@pytest.mark.parametrize("strange", [2.0, np.int64(2)])
def test_neighbours_are_python_integers_too(strange):
    graph = nx.complete_graph(3)
    graph.add_edge(1, strange)  # is there already, but is called otherwise now
    graph._adj[1] = {0: {}, strange: {}}

    with pytest.raises(TopologyError, match="missing none, not allowed "):
        check_graph(graph, 3)
