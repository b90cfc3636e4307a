import math

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_dfl.errors import TopologyError
from flower_dfl.topologies.checking import check_graph
from flower_dfl.topologies.erdos_renyi import erdos_renyi


@settings(deadline=None)
@given(num_nodes=st.integers(1, 40), seed=st.integers(0, 2**32), factor=st.floats(1, 4))
def test_above_the_threshold_a_connected_graph_is_drawn(num_nodes, seed, factor):
    p = min(factor * math.log(num_nodes) / num_nodes, 1) or 1.0

    check_graph(erdos_renyi(num_nodes, seed=seed, p=p), num_nodes)


def test_probability_one_is_the_complete_graph():
    assert nx.utils.graphs_equal(erdos_renyi(9, p=1), nx.complete_graph(9))


def test_the_mean_number_of_edges_is_that_of_independent_pairs():
    # 20 graphs of 60 nodes: 20 * 1770 pairs, each joined with probability 0.3; connection is certain to seven digits.
    # The mean is 10620 and the standard deviation sqrt(35400 * 0.21) = 86.
    edges = sum(erdos_renyi(60, seed=seed, p=0.3).number_of_edges() for seed in range(20))

    assert edges == pytest.approx(10_620, abs=5 * 86)


def test_a_graph_that_is_hardly_ever_connected_is_refused_with_the_threshold():
    # ln(50) / 50 = 0.0782
    message = (
        r"^none of 100 draws of erdos-renyi is connected: p = 0\.01 and n = 50; "
        r"raise p well above the connectivity threshold ln\(n\)/n = 0\.0782$"
    )
    with pytest.raises(TopologyError, match=message):
        erdos_renyi(50, p=0.01)


@pytest.mark.parametrize("p", [0, -0.1, 1.01, float("nan")])
def test_a_probability_outside_its_range_is_refused(p):
    with pytest.raises(TopologyError, match=rf"^p must be in \(0, 1\], got {p}$"):
        erdos_renyi(10, p=p)
