import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networkx.utils import graphs_equal

from flower_dfl.errors import TopologyError
from flower_dfl.topologies.checking import check_schedule
from flower_dfl.topologies.growing import growing


def edges(graph):
    return {frozenset(edge) for edge in graph.edges}


def test_a_ring_of_five_grows_by_a_node_every_other_round():
    # two nodes in rounds 1 and 2, three in 3 and 4, four in 5 and 6, all five from round 7 on
    ring = nx.cycle_graph(5)

    sizes = [growing(ring, t, start=2, every=2).number_of_edges() for t in range(1, 9)]

    assert sizes == [1, 1, 2, 2, 3, 3, 5, 5]
    assert edges(growing(ring, 3, start=2, every=2)) == {frozenset({0, 1}), frozenset({1, 2})}


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 40), st.data())
def test_the_edges_are_those_between_the_nodes_that_have_joined(num_nodes, every, round, data):
    base = nx.gnp_random_graph(num_nodes, 0.5, seed=data.draw(st.integers(0, 100)))
    start = data.draw(st.integers(1, num_nodes))
    joined = range(min(num_nodes, start + (round - 1) // every))

    found = growing(base, round, start=start, every=every)

    assert list(found) == list(range(num_nodes))
    assert edges(found) == edges(base.subgraph(joined))


@pytest.mark.parametrize(("start", "every"), [(1, 1), (2, 3), (9, 5)])
def test_all_have_joined_in_the_round_that_the_documentation_names(start, every):
    base, complete = nx.complete_graph(10), 1 + (10 - start) * every

    assert graphs_equal(growing(base, complete, start=start, every=every), base)
    assert growing(base, complete - 1, start=start, every=every).degree(9) == 0


def test_a_run_too_short_for_all_to_join_is_found_by_the_check():
    base = nx.complete_graph(6)

    check_schedule(lambda t: growing(base, t, start=2, every=2), 6, 9, 0)
    with pytest.raises(TopologyError, match=r"^the graphs of rounds 1\.\.8 .* got 2 components; .* nodes 5$"):
        check_schedule(lambda t: growing(base, t, start=2, every=2), 6, 8, 0)


@pytest.mark.parametrize("start", [-1, 0, 6])
def test_a_start_without_nodes_or_with_too_many_is_refused(start):
    with pytest.raises(TopologyError, match=rf"^start must be in 1\.\.num_nodes = 1\.\.5, got {start}$"):
        growing(nx.path_graph(5), 1, start=start)


@pytest.mark.parametrize("every", [-1, 0])
def test_arrivals_less_than_a_round_apart_are_refused(every):
    with pytest.raises(TopologyError, match=rf"^every must be at least 1, got {every}$"):
        growing(nx.path_graph(5), 1, every=every)
