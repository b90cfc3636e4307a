import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl import registry
from flower_dfl.errors import TopologyError
from flower_dfl.topologies.checking import check_graph
from flower_dfl.topologies.complete import complete
from flower_dfl.topologies.diagnostics import diagnose


@given(num_nodes=st.integers(1, 40), seed=st.integers())
def test_every_pair_of_nodes_is_joined_whatever_the_seed(num_nodes, seed):
    graph = complete(num_nodes, num_nodes - 1, seed)

    check_graph(graph, num_nodes)
    assert graph.number_of_edges() == num_nodes * (num_nodes - 1) // 2


def test_the_complete_graph_has_spectral_gap_one():
    assert diagnose(complete(10), 0).spectral_gap == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("num_nodes", "num_byzantine"), [(0, 0), (4, -1), (4, 4)])
def test_a_complete_graph_needs_an_honest_node_and_no_negative_number(num_nodes, num_byzantine):
    with pytest.raises(TopologyError, match="must be"):
        complete(num_nodes, num_byzantine)


def test_the_registry_builds_a_complete_graph():
    assert registry.build("topology", "complete")(num_nodes=4, num_byzantine=2, seed=1).number_of_edges() == 6
