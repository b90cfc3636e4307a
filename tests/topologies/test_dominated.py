import pytest
from hypothesis import given
from hypothesis import strategies as st
from networkx.utils import graphs_equal

from flower_dfl import registry
from flower_dfl.errors import ConfigurationError, TopologyError
from flower_dfl.topologies.checking import check_graph
from flower_dfl.topologies.diagnostics import diagnose
from flower_dfl.topologies.dominated import dominated


def neighbours(graph, node, num_honest):
    """Return how many Byzantine and how many honest neighbours a node has."""
    byzantine = sum(other >= num_honest for other in graph[node])
    return byzantine, len(graph[node]) - byzantine


@st.composite
def networks(draw):
    num_nodes = draw(st.integers(1, 60))
    return num_nodes, draw(st.integers(0, num_nodes - 1)), draw(st.integers(0, 2**32))


# The sizes of the neighbourhoods in the paper's four settings: 1 of 4, 2 of 5, 3 of 5, 4 of 5.
@pytest.mark.parametrize(("num_byzantine", "byzantine", "honest"), [(2, 1, 3), (4, 2, 3), (6, 3, 2), (8, 4, 1)])
def test_ten_nodes_have_the_neighbourhoods_of_the_paper(num_byzantine, byzantine, honest):
    graph = dominated(10, num_byzantine)

    for node in range(10 - num_byzantine):
        assert neighbours(graph, node, 10 - num_byzantine) == (byzantine, honest)


def test_four_honest_of_ten_form_a_ring_inside_a_byzantine_ring():
    edges = {frozenset(edge) for edge in dominated(10, 6).edges}

    honest = {edge for edge in edges if max(edge) < 4}
    byzantine = {edge for edge in edges if min(edge) >= 4}
    assert honest == {frozenset(pair) for pair in [(0, 1), (1, 2), (2, 3), (3, 0)]}
    assert byzantine == {frozenset(pair) for pair in [(4, 5), (5, 6), (6, 7), (7, 8), (8, 9), (9, 4)]}


def test_an_honest_majority_of_six_has_chords_across_its_ring():
    graph = dominated(10, 4)

    assert all(graph.has_edge(k, k + 3) for k in range(3))


@pytest.mark.parametrize(("num_nodes", "num_byzantine"), [(5, 0), (12, 6), (14, 8)])
def test_there_are_no_chords_below_six_honest_nodes_or_without_an_honest_majority(num_nodes, num_byzantine):
    graph = dominated(num_nodes, num_byzantine)

    assert neighbours(graph, 0, num_nodes - num_byzantine)[1] == 2


@given(num_nodes=st.integers(5, 60), seed=st.integers(0, 2**32))
def test_at_sixty_percent_every_honest_node_is_outnumbered_and_the_honest_nodes_are_connected(num_nodes, seed):
    num_byzantine = round(0.6 * num_nodes)

    found = diagnose(dominated(num_nodes, num_byzantine, seed), num_byzantine)

    assert found.dominated_nodes == num_nodes - num_byzantine
    assert found.honest_connected


@given(networks())
def test_every_network_gets_a_connected_graph_with_connected_honest_nodes(network):
    num_nodes, num_byzantine, seed = network

    graph = dominated(num_nodes, num_byzantine, seed)

    check_graph(graph, num_nodes)
    assert list(graph) == list(range(num_nodes))
    assert diagnose(graph, num_byzantine).honest_connected


@given(networks())
def test_auto_is_the_smallest_number_of_byzantine_neighbours_that_reaches_their_share_in_the_network(network):
    num_nodes, num_byzantine, seed = network
    num_honest = num_nodes - num_byzantine

    graph = dominated(num_nodes, num_byzantine, seed)

    for node in range(num_honest):
        byzantine, honest = neighbours(graph, node, num_honest)
        least = -(-num_byzantine * honest // num_honest)  # ceil(f d / h)
        assert byzantine == (max(1, least) if num_byzantine else 0)


@given(networks())
def test_byzantine_nodes_share_the_honest_nodes_evenly(network):
    num_nodes, num_byzantine, seed = network
    num_honest = num_nodes - num_byzantine

    graph = dominated(num_nodes, num_byzantine, seed)

    loads = [neighbours(graph, node, num_honest)[1] for node in range(num_honest, num_nodes)]
    assert max(loads, default=0) - min(loads, default=0) <= 1


@pytest.mark.parametrize(("share", "byzantine"), [(0.1, 1), (0.5, 2), (0.51, 3), (0.6, 3), (0.61, 4), (0.75, 6)])
def test_a_share_of_ones_own_is_met_exactly_and_no_further(share, byzantine):
    assert neighbours(dominated(10, 6, share=share), 0, 4) == (byzantine, 2)


def test_the_same_seed_gives_the_same_graph_and_other_seeds_other_graphs():
    drawn = [dominated(40, 24, seed) for seed in range(5)]

    assert graphs_equal(drawn[0], dominated(40, 24, 0))
    assert not any(graphs_equal(drawn[i], drawn[j]) for i in range(5) for j in range(i))


@pytest.mark.parametrize("share", ["auto", 0.9])
def test_without_byzantine_nodes_the_honest_graph_remains_whatever_the_share(share):
    graph = dominated(8, 0, share=share)

    assert {frozenset(edge) for edge in graph.edges} == {frozenset((k, (k + s) % 8)) for k in range(8) for s in (1, 4)}


@pytest.mark.parametrize("num_nodes", [2, 3, 10])
def test_a_single_honest_node_has_one_byzantine_neighbour(num_nodes):
    graph = dominated(num_nodes, num_nodes - 1)

    check_graph(graph, num_nodes)
    assert neighbours(graph, 0, 1) == (1, 0)


def test_a_single_node_is_a_network():
    assert dominated(1).number_of_edges() == 0


def test_a_share_that_needs_too_many_byzantine_nodes_is_refused_with_what_would_fit():
    with pytest.raises(TopologyError, match=r"share = 0.8 .* num_byzantine = 6: .* at most 6/8"):
        dominated(10, 6, share=0.8)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan"), "most"])
def test_a_share_outside_the_open_unit_interval_is_refused(share):
    with pytest.raises(TopologyError, match=r'share must be "auto" or a number in \(0, 1\)'):
        dominated(10, 6, share=share)


@pytest.mark.parametrize(("num_nodes", "num_byzantine"), [(0, 0), (4, -1), (4, 4)])
def test_a_dominated_graph_needs_an_honest_node_and_no_negative_number(num_nodes, num_byzantine):
    with pytest.raises(TopologyError, match="must be"):
        dominated(num_nodes, num_byzantine)


def test_the_registry_builds_it_with_a_share_and_refuses_other_words():
    graph = registry.build("topology", "dominated", {"share": 0.75})(num_nodes=10, num_byzantine=6, seed=0)

    assert neighbours(graph, 0, 4) == (6, 2)
    with pytest.raises(ConfigurationError, match="share"):
        registry.build("topology", "dominated", {"share": "most"})
