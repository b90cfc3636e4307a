import itertools
import math

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_dfl.errors import TopologyError
from flower_dfl.topologies.checking import check_round_graph
from flower_dfl.topologies.mobility import mobility


def places(graph):
    return nx.get_node_attributes(graph, "pos")


@settings(deadline=None)
@given(
    num_nodes=st.integers(1, 20),
    round=st.integers(1, 10_000),
    seed=st.integers(0, 1000),
    radius=st.floats(0.01, 2),
    speed=st.floats(0, 10),
)
def test_nodes_stay_in_the_square_and_exactly_those_in_range_are_neighbours(num_nodes, round, seed, radius, speed):
    graph = mobility(nx.empty_graph(num_nodes), round, seed, radius, speed)

    check_round_graph(graph, num_nodes)
    where = places(graph)
    assert all(0 <= coordinate <= 1 for place in where.values() for coordinate in place)
    for i in range(num_nodes):
        for j in range(i):
            distance = math.dist(where[i], where[j])
            if not math.isclose(distance, radius):
                assert graph.has_edge(i, j) == (distance < radius)


@settings(deadline=None)
@given(seed=st.integers(0, 1000), speed=st.floats(0, 0.4))
def test_nobody_moves_further_than_its_speed_and_only_a_border_turns_it_round(seed, speed):
    tracks = [places(mobility(nx.empty_graph(6), t, seed, speed=speed)) for t in range(1, 12)]

    for node in range(6):
        for axis in (0, 1):
            steps = [after[node][axis] - before[node][axis] for before, after in itertools.pairwise(tracks)]
            assert max(map(abs, steps)) <= speed + 1e-9
            for before, step, after in zip(tracks, steps, steps[1:], strict=False):
                turned = abs(step - after) > 1e-9
                near = min(before[node][axis], 1 - before[node][axis]) <= 2 * speed
                assert near or not turned


def test_a_path_is_reflected_at_the_border_and_goes_on_at_the_same_speed():
    # Node 0 of seed 0: its velocity along the first axis is what the first step shows; 100 rounds later it has covered
    # 100 such steps, folded back at 0 and 1.
    start, second, later = (places(mobility(nx.empty_graph(1), t, 0))[0][0] for t in (1, 2, 101))
    velocity = second - start

    unfolded = abs(start + 100 * velocity) % 2
    assert later == pytest.approx(unfolded if unfolded <= 1 else 2 - unfolded, abs=1e-9)


def test_without_speed_the_graph_stays():
    base = nx.empty_graph(15)

    assert nx.utils.graphs_equal(mobility(base, 1, 3, speed=0), mobility(base, 500, 3, speed=0))


def test_neighbours_change_with_the_rounds_and_places_with_the_seed():
    base = nx.empty_graph(20)
    drawn = [frozenset(mobility(base, t, seed, 0.3).edges) for t in (1, 20, 40) for seed in (0, 1)]

    assert len(set(drawn)) == 6


def test_a_range_as_long_as_the_diagonal_reaches_everybody():
    graph = mobility(nx.empty_graph(12), 7, 0, math.sqrt(2))

    assert graph.number_of_edges() == 12 * 11 // 2


def test_nodes_are_spread_over_the_whole_square_also_late_in_a_run():
    # 2000 nodes, a quarter of them in each quarter of the square: mean 500, standard deviation 19
    where = places(mobility(nx.empty_graph(2000), 301, 0, 0.01)).values()

    for right in (False, True):
        for top in (False, True):
            inside = sum((x > 0.5) == right and (y > 0.5) == top for x, y in where)
            assert inside == pytest.approx(500, abs=5 * 19)


@pytest.mark.parametrize("radius", [0, -1, float("nan")])
def test_a_range_that_is_not_positive_is_refused(radius):
    with pytest.raises(TopologyError, match=rf"^radius must be positive, got {radius}$"):
        mobility(nx.empty_graph(3), 1, radius=radius)


@pytest.mark.parametrize("speed", [-0.1, float("inf"), float("nan")])
def test_a_speed_that_is_negative_or_endless_is_refused(speed):
    with pytest.raises(TopologyError, match=rf"^speed must be finite and not negative, got {speed}$"):
        mobility(nx.empty_graph(3), 1, speed=speed)
