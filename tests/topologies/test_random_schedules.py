from collections import Counter

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networkx.utils import graphs_equal

from flower_dfl.errors import TopologyError
from flower_dfl.topologies.checking import check_round_graph, check_schedule
from flower_dfl.topologies.edge_failures import edge_failures
from flower_dfl.topologies.random_matching import random_matching
from flower_dfl.topologies.random_regular_redrawn import random_regular_redrawn
from flower_dfl.topologies.shuffled import shuffled


@st.composite
def graphs(draw):
    graph = nx.gnp_random_graph(draw(st.integers(1, 14)), draw(st.floats(0, 1)), seed=draw(st.integers(0, 1000)))
    return graph, draw(st.integers(1, 50)), draw(st.integers(0, 1000))


def pairs(graph):
    return {frozenset(edge) for edge in graph.edges}


# random-matching


@given(graphs())
def test_a_matching_is_maximal(drawn):
    graph, t, seed = drawn

    matching = random_matching(graph, t, seed)

    check_round_graph(matching, len(graph))
    assert nx.is_maximal_matching(graph, set(matching.edges))


def test_every_edge_of_a_square_is_matched_as_often_as_its_opposite():
    # Whatever edge comes first decides: both pairs of opposite edges are equally likely. 400 rounds, mean 200,
    # standard deviation 10.
    square = nx.cycle_graph(4)

    found = Counter(frozenset(pairs(random_matching(square, t, 3))) for t in range(1, 401))

    assert set(found) == {
        frozenset({frozenset({0, 1}), frozenset({2, 3})}),
        frozenset({frozenset({1, 2}), frozenset({0, 3})}),
    }
    assert abs(min(found.values()) - 200) < 50


def test_matchings_reach_every_node_of_a_star_in_time():
    star = nx.star_graph(4)

    check_schedule(lambda t: random_matching(star, t, 0), 5, 60, 0)
    assert all(random_matching(star, t, 0).number_of_edges() == 1 for t in range(1, 20))


# random-regular-redrawn


@settings(deadline=None)
@given(num_nodes=st.integers(3, 30), round=st.integers(1, 1000), seed=st.integers(0, 1000), data=st.data())
def test_everybody_has_the_degree_in_every_round(num_nodes, round, seed, data):
    degree = data.draw(st.integers(2, num_nodes - 1).filter(lambda degree: num_nodes * degree % 2 == 0))

    graph = random_regular_redrawn(nx.empty_graph(num_nodes), round, seed, degree)

    check_round_graph(graph, num_nodes)
    assert {len(graph[node]) for node in graph} == {degree}


def test_degree_one_pairs_all_nodes():
    assert nx.is_perfect_matching(nx.complete_graph(10), set(random_regular_redrawn(nx.empty_graph(10), 1, 0, 1).edges))


def test_the_graph_stays_for_the_rounds_between_two_draws():
    base = nx.empty_graph(12)

    drawn = [pairs(random_regular_redrawn(base, t, 0, 3, every=4)) for t in range(1, 13)]

    assert drawn[0:4] == [drawn[0]] * 4
    assert drawn[4:8] == [drawn[4]] * 4
    assert drawn[8:12] == [drawn[8]] * 4
    assert len({frozenset(edges) for edges in drawn}) == 3


@pytest.mark.parametrize("every", [0, -1])
def test_a_graph_redrawn_less_than_every_round_is_refused(every):
    with pytest.raises(TopologyError, match=rf"^every must be at least 1, got {every}$"):
        random_regular_redrawn(nx.empty_graph(8), 1, every=every)


def test_a_degree_that_does_not_fit_is_refused():
    with pytest.raises(TopologyError, match=r"^degree must be in 1\.\.num_nodes-1 = 1\.\.3, got 4$"):
        random_regular_redrawn(nx.empty_graph(4), 1, degree=4)


def test_an_odd_number_of_edge_ends_is_refused():
    with pytest.raises(TopologyError, match=r"^num_nodes \* degree must be even, got 5 \* 3 = 15$"):
        random_regular_redrawn(nx.empty_graph(5), 1, degree=3)


# edge-failures


@given(graphs(), st.floats(0, 1, exclude_max=True))
def test_what_is_left_is_part_of_the_base_graph(drawn, p):
    graph, t, seed = drawn

    left = edge_failures(graph, t, seed, p)

    check_round_graph(left, len(graph))
    assert pairs(left) <= pairs(graph)


def test_each_edge_is_down_as_often_as_it_should_be():
    # 2000 rounds, probability 0.3: mean 600, standard deviation sqrt(2000 * 0.21) = 20 for an edge; two edges are down
    # together in 180 rounds, with standard deviation sqrt(2000 * 0.09 * 0.91) = 13.
    base = nx.path_graph(4)
    down = [pairs(base) - pairs(edge_failures(base, t, 5, 0.3)) for t in range(1, 2001)]

    for edge in pairs(base):
        assert sum(edge in lost for lost in down) == pytest.approx(600, abs=5 * 20)
    assert sum({frozenset({0, 1}), frozenset({1, 2})} <= lost for lost in down) == pytest.approx(180, abs=5 * 13)


def test_more_edges_fail_with_a_higher_probability_and_the_same_ones_among_them():
    base = nx.complete_graph(12)

    left = [pairs(edge_failures(base, 1, 0, p)) for p in (0, 0.2, 0.5, 0.9)]

    assert left[0] > left[1] > left[2] > left[3]


@pytest.mark.parametrize("p", [-0.1, 1, float("nan")])
def test_a_probability_outside_its_range_is_refused(p):
    with pytest.raises(TopologyError, match=rf"^p must be in \[0, 1\), got {p}$"):
        edge_failures(nx.path_graph(3), 1, p=p)


# shuffled


@settings(deadline=None)
@given(graphs())
def test_shuffling_keeps_the_graph_but_for_its_labels(drawn):
    graph, t, seed = drawn

    moved = shuffled(graph, t, seed)

    check_round_graph(moved, len(graph))
    assert nx.is_isomorphic(moved, graph)


def test_in_a_shuffled_ring_everybody_meets_everybody():
    ring = nx.cycle_graph(6)

    union = nx.compose_all([shuffled(ring, t, 0) for t in range(1, 41)])

    assert graphs_equal(union, nx.complete_graph(6))
