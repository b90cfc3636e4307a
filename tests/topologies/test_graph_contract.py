"""What every topology and every schedule must do, by their registered names."""

import sys

import networkx as nx
import pytest
from networkx.utils import graphs_equal

from flower_dfl import registry
from flower_dfl.errors import ConfigurationError, TopologyError
from flower_dfl.testing import ContractViolation, check_schedule, check_topology
from flower_dfl.topologies.checking import check_counts

TOPOLOGIES = [name for name in registry.names("topology") if name != "file"]
RANDOM_TOPOLOGIES = ["barabasi-albert", "erdos-renyi", "random-regular", "watts-strogatz"]
REDRAWN = ["edge-failures", "random-matching", "random-regular-redrawn", "shuffled"]

MODULE = """
import networkx as nx


def lollipop(num_nodes, tail: int = 2):
    return nx.lollipop_graph(num_nodes - tail, tail)


def tree(num_nodes, num_byzantine, seed):
    return nx.random_labeled_tree(num_nodes, seed=seed)


def cube(num_nodes):
    return nx.hypercube_graph(3)


def parts(num_nodes):
    return nx.disjoint_union(nx.path_graph(2), nx.path_graph(num_nodes - 2))


def blinking(graph, round, period: int = 2):
    return graph if round % period else nx.create_empty_copy(graph)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "graph_contract_test_graphs.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "graph_contract_test_graphs"
    sys.modules.pop("graph_contract_test_graphs", None)


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize(("num_nodes", "num_byzantine"), [(10, 2), (6, 5), (12, 0), (49, 20)])
def test_every_topology_keeps_the_contract(name, num_nodes, num_byzantine):
    check_topology(registry.build("topology", name), num_nodes=num_nodes, num_byzantine=num_byzantine)


@pytest.mark.parametrize("name", [name for name in TOPOLOGIES if name != "dominated"])
def test_the_edges_do_not_depend_on_the_number_of_byzantine_nodes(name):
    draw = registry.build("topology", name)

    assert graphs_equal(draw(num_nodes=12, num_byzantine=0, seed=4), draw(num_nodes=12, num_byzantine=11, seed=4))


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize(("num_nodes", "num_byzantine"), [(0, 0), (8, -1), (8, 8)])
def test_every_topology_needs_an_honest_node_and_no_negative_number(name, num_nodes, num_byzantine):
    with pytest.raises(TopologyError) as expected:
        check_counts(num_nodes, num_byzantine)

    with pytest.raises(TopologyError) as caught:
        registry.build("topology", name)(num_nodes=num_nodes, num_byzantine=num_byzantine, seed=0)

    assert str(caught.value) == str(expected.value)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_nodes_are_listed_in_the_order_of_their_labels(name):
    assert list(registry.build("topology", name)(num_nodes=12, num_byzantine=3, seed=1)) == list(range(12))


@pytest.mark.parametrize("name", RANDOM_TOPOLOGIES)
def test_a_random_topology_differs_from_seed_to_seed(name):
    draw = registry.build("topology", name)

    drawn = [draw(num_nodes=40, num_byzantine=0, seed=seed) for seed in range(5)]

    assert not any(graphs_equal(drawn[i], drawn[j]) for i in range(5) for j in range(i))


@pytest.mark.parametrize("name", sorted({*TOPOLOGIES} - {*RANDOM_TOPOLOGIES, "dominated"}))
def test_a_topology_that_draws_nothing_is_the_same_for_all_seeds(name):
    draw = registry.build("topology", name)

    assert graphs_equal(draw(num_nodes=12, num_byzantine=3, seed=0), draw(num_nodes=12, num_byzantine=3, seed=1))


@pytest.mark.parametrize("name", registry.names("schedule"))
@pytest.mark.parametrize("base", [None, nx.path_graph(16), nx.star_graph(31)], ids=["default", "path", "star"])
def test_every_schedule_keeps_the_contract(name, base):
    check_schedule(registry.build("schedule", name), graph=base)


@pytest.mark.parametrize("name", sorted({*registry.names("schedule")} - {"random-regular-redrawn", "growing"}))
def test_a_single_node_stays_alone_in_every_round(name):
    change = registry.build("schedule", name)

    for t in (1, 2, 3):
        assert change(graph=nx.empty_graph(1), round=t, seed=0).number_of_edges() == 0


@pytest.mark.parametrize("name", REDRAWN)
def test_a_random_schedule_differs_by_seed_and_by_round(name):
    change = registry.build("schedule", name)
    base = nx.circulant_graph(40, [1, 2, 3])

    drawn = [change(graph=base, round=t, seed=seed) for t in (1, 2, 3) for seed in (0, 1)]

    assert not any(graphs_equal(drawn[i], drawn[j]) for i in range(6) for j in range(i))


@pytest.mark.parametrize("name", ["edge-failures", "random-matching"])
def test_what_is_drawn_from_the_edges_does_not_depend_on_the_order_in_which_they_were_added(name):
    change = registry.build("schedule", name)
    base = nx.circulant_graph(20, [1, 2])
    turned = nx.empty_graph(20)
    turned.add_edges_from((j, i) for i, j in reversed(list(base.edges)))

    assert graphs_equal(change(graph=base, round=3, seed=1), change(graph=turned, round=3, seed=1))


@pytest.mark.parametrize("name", ["edge-failures", "growing", "random-matching", "static"])
def test_a_schedule_that_thins_out_a_graph_adds_no_edge(name):
    change = registry.build("schedule", name)
    base = nx.circulant_graph(20, [1, 2])

    for t in range(1, 6):
        assert all(base.has_edge(*edge) for edge in change(graph=base, round=t, seed=0).edges)


def test_any_networkx_graph_can_be_given_by_reference(mine):
    lollipop = registry.build("topology", f"{mine}:lollipop", {"tail": 3})
    tree = registry.build("topology", f"{mine}:tree")

    check_topology(lollipop)
    check_topology(tree)
    assert graphs_equal(lollipop(num_nodes=8, num_byzantine=2, seed=0), nx.lollipop_graph(5, 3))
    assert nx.is_tree(tree(num_nodes=8, num_byzantine=0, seed=0))


def test_a_graph_by_reference_with_other_labels_or_in_parts_is_refused(mine):
    with pytest.raises(ContractViolation, match=r"not allowed \(0, 0, 0\)"):
        check_topology(registry.build("topology", f"{mine}:cube"), num_nodes=8)
    with pytest.raises(ContractViolation, match=r"2 components; the smallest holds nodes 0, 1$"):
        check_topology(registry.build("topology", f"{mine}:parts"), num_nodes=8)


def test_a_schedule_can_be_given_by_reference_and_takes_what_it_names(mine):
    blinking = registry.build("schedule", f"{mine}:blinking", {"period": 3})

    check_schedule(blinking)
    sizes = [blinking(graph=nx.path_graph(4), round=t, seed=0).number_of_edges() for t in (1, 2, 3, 4)]
    assert sizes == [3, 3, 0, 3]


@pytest.mark.parametrize("key", ["graph", "round", "seed"])
def test_what_the_engine_supplies_to_a_schedule_is_no_parameter(key):
    with pytest.raises(
        ConfigurationError, match=rf"^unknown parameter of schedule 'growing' '{key}'\. .* every, start$"
    ):
        registry.build("schedule", "growing", {key: 1})


def test_the_limit_cases_of_schedules_are_the_static_one():
    base = nx.circulant_graph(8, [1, 2])

    for name, params in [("edge-failures", {"p": 0}), ("growing", {"start": 8})]:
        change = registry.build("schedule", name, params)
        for t in (1, 2, 9):
            assert graphs_equal(change(graph=base, round=t, seed=1), base)
