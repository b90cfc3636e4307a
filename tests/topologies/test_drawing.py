import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.errors import TopologyError
from flower_dfl.randomness import integer
from flower_dfl.topologies.drawing import DRAWS, draw_connected, ordered_edges


def test_the_first_connected_draw_is_taken_and_each_has_a_key_of_its_own():
    keys = []

    def draw(key):
        keys.append(key)
        return nx.path_graph(3) if len(keys) == 3 else nx.empty_graph(3)

    graph = draw_connected("mine", 5, draw, "never")

    assert nx.is_connected(graph)
    assert keys == [integer(5, "topology-mine", attempt) for attempt in range(3)]
    assert keys[0] == integer(5, "topology-mine")


def test_drawing_ends_after_a_fixed_number_of_draws_with_the_reason():
    keys = []

    def draw(key):
        keys.append(key)
        return nx.empty_graph(2)

    with pytest.raises(TopologyError, match=rf"^none of {DRAWS} draws of mine is connected: p = 0$"):
        draw_connected("mine", 0, draw, "p = 0")

    assert len(set(keys)) == DRAWS


@given(st.permutations([(0, 3), (1, 2), (2, 3), (0, 1)]), st.booleans())
def test_edges_come_in_the_same_order_however_the_graph_was_built(edges, turned):
    graph = nx.Graph([edge[::-1] for edge in edges] if turned else edges)

    assert ordered_edges(graph) == [(0, 1), (0, 3), (1, 2), (2, 3)]
