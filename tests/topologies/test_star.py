import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl import registry
from flower_dfl.errors import TopologyError
from flower_dfl.topologies.checking import check_graph
from flower_dfl.topologies.diagnostics import diagnose
from flower_dfl.topologies.star import star


@given(num_nodes=st.integers(1, 40), seed=st.integers())
def test_node_zero_is_the_hub_of_all_others_whatever_the_seed(num_nodes, seed):
    graph = star(num_nodes, num_nodes - 1, seed)

    check_graph(graph, num_nodes)
    assert sorted(graph[0]) == list(range(1, num_nodes))
    assert graph.number_of_edges() == num_nodes - 1


@pytest.mark.parametrize("num_nodes", [3, 10, 33])
def test_the_spectral_gap_of_a_star_is_one_over_its_size(num_nodes):
    # A vector on two leaves, +1 and -1, meets only the leaves' own weight: 1 - 1/n.
    assert diagnose(star(num_nodes), 0).spectral_gap == pytest.approx(1 / num_nodes, abs=1e-12)


@pytest.mark.parametrize(("num_nodes", "num_byzantine"), [(0, 0), (4, -1), (4, 4)])
def test_a_star_needs_an_honest_node_and_no_negative_number(num_nodes, num_byzantine):
    with pytest.raises(TopologyError, match="must be"):
        star(num_nodes, num_byzantine)


def test_the_registry_builds_a_star():
    assert registry.build("topology", "star")(num_nodes=4, num_byzantine=2, seed=1).number_of_edges() == 3
