import itertools

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_dfl.errors import TopologyError
from flower_dfl.topologies import placement
from flower_dfl.topologies.complete import complete
from flower_dfl.topologies.diagnostics import diagnose
from flower_dfl.topologies.placement import place, placement_warnings
from flower_dfl.topologies.ring import ring
from flower_dfl.topologies.star import star

WAYS = ["random", "dominating", "clustered", "hub", "bottleneck"]


@st.composite
def graphs(draw):
    size = draw(st.integers(1, 16))
    graph = nx.gnp_random_graph(size, draw(st.floats(0, 1)), seed=draw(st.integers(0, 2**20)))
    graph.add_edges_from(itertools.pairwise(range(size)))
    return graph


def surrounded(graph, byzantine):
    """Return how many honest nodes have more Byzantine than honest neighbours."""
    return sum(2 * len(set(graph[node]) & byzantine) > len(graph[node]) for node in graph if node not in byzantine)


def loads(graph, byzantine):
    return [len(set(graph[node]) & byzantine) for node in graph if node not in byzantine]


@settings(max_examples=60, deadline=None)
@given(graphs(), st.sampled_from(WAYS), st.integers(0, 2**32), st.data())
def test_every_way_chooses_so_many_labels_of_the_graph_and_leaves_it_alone(graph, how, seed, data):
    count = data.draw(st.integers(0, len(graph) - 1))
    before = set(graph.edges)
    mirrored = nx.Graph()
    mirrored.add_nodes_from(reversed(range(len(graph))))
    mirrored.add_edges_from((j, i) for i, j in reversed(list(graph.edges)))

    chosen = place(graph, count, how, seed)

    assert len(chosen) == count
    assert chosen <= set(graph)
    assert set(graph.edges) == before
    assert place(mirrored, count, how, seed) == chosen


@pytest.mark.parametrize("how", ["random", "dominating", "clustered"])
def test_the_seed_decides_where_there_is_a_choice(how):
    assert len({place(complete(12), 3, how, seed) for seed in range(8)}) > 1


def test_random_placement_reaches_every_node():
    assert frozenset.union(*(place(ring(8), 2, "random", seed) for seed in range(60))) == frozenset(range(8))


def test_two_dominators_surround_four_leaves_each():
    # two stars with the hubs 0 and 5, joined by a leaf of each
    graph = nx.disjoint_union(nx.star_graph(4), nx.star_graph(4))
    graph.add_edge(1, 6)

    for seed in range(5):
        chosen = place(graph, 2, "dominating", seed)
        assert chosen == {0, 5}
        assert surrounded(graph, chosen) == 6


def test_domination_surrounds_more_honest_nodes_than_chance():
    graph = nx.random_regular_graph(4, 24, seed=1)

    greedy = [surrounded(graph, place(graph, 11, "dominating", seed)) for seed in range(10)]
    chance = [surrounded(graph, place(graph, 11, "random", seed)) for seed in range(10)]

    assert min(greedy) > max(chance)


@settings(max_examples=30, deadline=None)
@given(graphs(), st.integers(0, 1000), st.data())
def test_a_cluster_is_connected(graph, seed, data):
    count = data.draw(st.integers(1, max(1, len(graph) - 1)))

    if len(graph) > 1:
        assert nx.is_connected(graph.subgraph(place(graph, count, "clustered", seed)))


def test_a_cluster_prefers_dense_places():
    # two cliques of four, joined by a path: a cluster of four that starts in a clique fills it
    graph = nx.barbell_graph(4, 3)

    cliques = [frozenset(range(4)), frozenset(range(7, 11))]
    starts = [place(graph, 4, "clustered", seed) for seed in range(40)]
    assert any(chosen in cliques for chosen in starts)
    assert all(chosen in cliques or chosen & {3, 4, 5, 6, 7} for chosen in starts)


def test_a_cluster_goes_on_elsewhere_when_a_component_is_used_up():
    graph = nx.Graph([(0, 1), (2, 3)])

    assert len(place(graph, 3, "clustered")) == 3


def test_hubs_carry_the_shortest_paths():
    # path of five: betweenness is largest in the middle, then beside it; of those two the lower label
    assert place(nx.path_graph(5), 1, "hub") == {2}
    assert place(nx.path_graph(5), 2, "hub") == {1, 2}
    assert place(star(6), 1, "hub") == {0}


def test_a_bottleneck_is_the_cut_node_that_splits_most_evenly():
    # path of seven: the middle one; then the lower of the halves' middles
    assert place(nx.path_graph(7), 1, "bottleneck") == {3}
    assert place(nx.path_graph(7), 2, "bottleneck") == {1, 3}
    assert place(nx.barbell_graph(5, 1), 1, "bottleneck") == {5}


def test_a_ring_is_cut_by_two():
    chosen = place(ring(8), 2, "bottleneck")

    assert placement_warnings(ring(8), chosen)[0].endswith("they form 2 components")


def test_two_cliques_with_two_bridges_are_cut_by_two_nodes_on_them():
    graph = nx.disjoint_union(nx.complete_graph(5), nx.complete_graph(5))
    graph.add_edges_from([(0, 5), (1, 6)])

    chosen = place(graph, 2, "bottleneck")

    assert chosen < {0, 1, 5, 6}
    assert not nx.is_connected(graph.subgraph(set(graph) - chosen))


def test_where_no_cut_is_affordable_hubs_are_chosen():
    assert place(ring(8), 1, "bottleneck") == place(ring(8), 1, "hub")
    assert place(complete(5), 3, "bottleneck") == {0, 1, 2}


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(0, 3), st.integers(0, 1000), st.data())
def test_bounded_placement_keeps_its_bound_and_fails_only_where_none_exists(graph, k, seed, data):
    count = data.draw(st.integers(0, min(len(graph) - 1, 4)))
    possible = any(max(loads(graph, set(chosen)), default=0) <= k for chosen in itertools.combinations(graph, count))

    if not possible:
        with pytest.raises(TopologyError, match=rf"at most k={k} Byzantine neighbours"):
            place(graph, count, "bounded", seed, k=k)
        return
    chosen = place(graph, count, "bounded", seed, k=k)

    assert len(chosen) == count
    assert max(loads(graph, chosen), default=0) <= k


@pytest.mark.parametrize(
    ("graph", "count"),
    [
        (nx.path_graph(9), 3),
        # Four in a clique and a fifth beside it: only the clique fits, and in it everybody has three Byzantine
        # neighbours, which is no matter.
        (nx.Graph([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3), (0, 4)]), 4),
    ],
)
def test_the_exact_search_bounds_honest_neighbourhoods_only(monkeypatch, graph, count):
    monkeypatch.setattr(placement, "_DRAWS", 0)

    chosen = place(graph, count, "bounded", k=1)

    assert len(chosen) == count
    assert max(loads(graph, chosen)) <= 1


def test_bounded_placements_differ_by_seed():
    assert len({place(ring(12), 2, "bounded", seed, k=1) for seed in range(8)}) > 1


def test_a_given_list_is_taken_as_it_is():
    assert place(ring(6), 2, "given", nodes=[4, 1]) == {1, 4}


@pytest.mark.parametrize("nodes", [[1], [1, 1], [1, 6], [1, 2, 3], [-1, 2]])
def test_a_list_of_other_labels_or_of_another_length_is_refused(nodes):
    with pytest.raises(TopologyError, match=r"^nodes must be num_byzantine = 2 different labels of 0\.\.5, got"):
        place(ring(6), 2, "given", nodes=nodes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_byzantine": 6}, "num_byzantine must be in"),
        ({"num_byzantine": -1}, "num_byzantine must be in"),
        ({"num_byzantine": 1, "how": "sneaky"}, "^how must be one of random, dominating, .* got 'sneaky'$"),
        ({"num_byzantine": 1, "how": "bounded"}, "^k goes with how = 'bounded'"),
        ({"num_byzantine": 1, "how": "hub", "k": 1}, "^k goes with how = 'bounded'"),
        ({"num_byzantine": 1, "how": "given"}, "^nodes goes with how = 'given'"),
        ({"num_byzantine": 1, "how": "random", "nodes": [1]}, "^nodes goes with how = 'given'"),
        ({"num_byzantine": 1, "how": "bounded", "k": -1}, "^k must not be negative, got -1$"),
        ({"num_byzantine": 1, "how": "bounded", "k": "2"}, "^k must be a whole number, got '2'$"),
        ({"num_byzantine": 1, "how": "bounded", "k": 2.0}, r"^k must be a whole number, got 2\.0$"),
        ({"num_byzantine": 1, "how": "bounded", "k": True}, "^k must be a whole number, got True$"),
        ({"num_byzantine": 1, "how": "given", "nodes": 3}, "^nodes must be a list of whole numbers, got 3$"),
        ({"num_byzantine": 1, "how": "given", "nodes": "3"}, "^nodes must be a list of whole numbers, got '3'$"),
        (
            {"num_byzantine": 1, "how": "given", "nodes": [3.0]},
            r"^nodes must be a list of whole numbers, got \[3\.0\]$",
        ),
        (
            {"num_byzantine": 1, "how": "given", "nodes": [[3]]},
            r"^nodes must be a list of whole numbers, got \[\[3\]\]$",
        ),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(TopologyError, match=message):
        place(ring(6), **arguments)


def test_honest_nodes_that_are_cut_off_are_reported():
    # ring of six without 0 and 2: node 1 alone, 3 - 4 - 5 together
    assert placement_warnings(ring(6), {0, 2}) == (
        "the honest nodes are cut off from one another: they form 2 components",
        "honest nodes without an honest neighbour: 1",
    )


@pytest.mark.parametrize(("size", "byzantine"), [(6, frozenset()), (6, {0, 1}), (1, frozenset())])
def test_connected_honest_nodes_and_a_network_of_one_are_no_reason_to_warn(size, byzantine):
    assert placement_warnings(ring(size), byzantine) == ()


@pytest.mark.parametrize("num_byzantine", [0, 2, 4, 5])
def test_warnings_are_those_of_the_diagnostics_where_the_highest_labels_are_byzantine(num_byzantine):
    for graph in (ring(6), star(6), complete(6)):
        found = placement_warnings(graph, range(6 - num_byzantine, 6))

        assert found == diagnose(graph, num_byzantine).warnings
