"""Dissensus, isolation and spectral heterogeneity: attacks on the gossip matrix."""

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_dfl.attacks.dissensus import Dissensus
from flower_dfl.attacks.isolation import Isolation
from flower_dfl.attacks.spectral import Spectral
from flower_dfl.errors import ConfigurationError
from flower_dfl.strategies.average import Average
from flower_dfl.testing import aggregate, craft
from flower_dfl.topologies.mixing import metropolis, metropolis_matrix
from flower_dfl.types import AttackContext, AttackView, Update

TRIANGLE = (torch.tensor([[0.0], [3.0]]), torch.tensor([[7.0]]))
"""Honest 0 and 1 at 0 and 3, Byzantine 2: all gossip weights are 1/3."""


def gossip(attack, graph, honest, byzantine, *, base=None, rule=None):
    """Return the honest nodes' models after a round of averaging, under attack (h, d)."""
    after = []
    for i in range(len(honest)):
        weights = metropolis(graph, i)
        received = [
            honest[j]
            if j < len(honest)
            else craft(attack, honest, byzantine, base=base, receiver=i, attacker=j - len(honest), neighbours=graph)
            for j in weights
        ]
        average = Average("metropolis") if rule is None else rule
        after.append(aggregate(average, honest[i], received, weights=list(weights.values())).vector)
    return torch.stack(after)


@st.composite
def attacked_graphs(draw):
    """Return a graph whose honest nodes are connected and all have a Byzantine neighbour, and its models."""
    honest, byzantine = draw(st.integers(2, 6)), draw(st.integers(1, 3))
    seed = draw(st.integers(0, 2**20))
    graph = nx.gnp_random_graph(honest + byzantine, 0.5, seed=seed)
    graph.add_edges_from((i, i + 1) for i in range(honest - 1))
    graph.add_edges_from((i, honest + i % byzantine) for i in range(honest))
    rows = torch.randn(honest + byzantine, 6, generator=torch.Generator().manual_seed(seed))
    return graph, rows[:honest], rows[honest:]


def disagreement(rows):
    return float((rows - rows.mean(dim=0)).norm())


@pytest.mark.parametrize(
    ("attack", "value"),
    [
        (Dissensus(), -3.0),  # 0 - (1/3 * 3) / (1/3)
        (Dissensus(epsilon=2.0), -6.0),
        (Isolation(), -3.0),  # (0 - 1/3 * 0 - 1/3 * 3) / (1/3)
        (Isolation(target="zero"), -3.0),
        (Isolation(target="base"), 0.0),  # base 1: (1 - 1) / (1/3)
        (Spectral(epsilon=1.0), -3.0),  # mu = 2/3, projection (0 - 3)/2: 0 + 2/3 * -1.5 / (1/3)
        (Spectral(epsilon=2.0), -6.0),
    ],
)
def test_three_nodes_get_what_is_worked_by_hand(attack, value):
    assert craft(attack, *TRIANGLE, base=torch.ones(1)).item() == pytest.approx(value)


@pytest.mark.parametrize(
    ("attack", "mean"), [(Isolation(target="zero"), 0.0), (Isolation(), 1.0), (Dissensus(), 1.0), (Spectral(1.0), 1.0)]
)
def test_an_attacker_that_is_away_is_not_counted_on(attack, mean):
    # Complete graph of 4, all weights 1/4: the receiver at 1 and an honest node at 3, Byzantine 2 and 3, of which 3 is
    # away and its weight is the receiver's: (1/2) 1 + (1/4) 3 + (1/4) m
    receiver, honest, there = (
        Update(node, 1, torch.tensor([value]), torch.zeros(1)) for node, value in ((0, 1.0), (1, 3.0), (2, 9.0))
    )
    around = {node: frozenset(range(4)) - {node} for node in range(4)}
    context = AttackContext(2, 1, 9, frozenset({2, 3}), around, lr=0.1, seed=0)
    view = AttackView(there, (there,), (), (receiver, honest))

    sent = attack.craft(view, 0, context).item()

    assert 1 / 2 + 3 / 4 + sent / 4 == pytest.approx(mean)


@pytest.mark.parametrize(
    ("attack", "mean"),
    [(Isolation("zero", "uniform"), 0.0), (Isolation(weights="uniform"), 1.0), (Dissensus(weights="uniform"), 1.0)],
)
def test_a_plain_mean_is_over_those_who_are_there(attack, mean):
    # The same nodes, 3 away: the receiver's plain mean is (1 + 3 + m) / 3
    receiver, honest, there = (
        Update(node, 1, torch.tensor([value]), torch.zeros(1)) for node, value in ((0, 1.0), (1, 3.0), (2, 9.0))
    )
    around = {node: frozenset(range(4)) - {node} for node in range(4)}
    context = AttackContext(2, 1, 9, frozenset({2, 3}), around, lr=0.1, seed=0)
    sent = attack.craft(AttackView(there, (there,), (), (receiver, honest)), 0, context)

    mixed = aggregate(Average(), receiver.vector, torch.stack([honest.vector, sent]))

    assert mixed.vector.item() == pytest.approx(mean, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(attacked_graphs(), st.sampled_from([Dissensus(), Isolation()]))
def test_every_receiver_of_metropolis_averaging_stays_at_its_own_model(case, attack):
    graph, honest, byzantine = case

    torch.testing.assert_close(gossip(attack, graph, honest, byzantine), honest, atol=1e-5, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(attacked_graphs(), st.sampled_from([Dissensus(weights="uniform"), Isolation(weights="uniform")]))
def test_so_does_every_receiver_of_the_plain_mean(case, attack):
    graph, honest, byzantine = case

    after = gossip(attack, graph, honest, byzantine, rule=Average())

    torch.testing.assert_close(after, honest, atol=1e-5, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(attacked_graphs())
def test_dissensus_above_one_drives_honest_nodes_apart(case):
    graph, honest, byzantine = case

    assert disagreement(gossip(Dissensus(epsilon=2.0), graph, honest, byzantine)) > disagreement(honest)


@settings(max_examples=15, deadline=None)
@given(attacked_graphs(), st.sampled_from(["base", "zero"]))
def test_isolation_puts_the_average_at_the_other_targets(case, target):
    graph, honest, byzantine = case
    base = torch.arange(6.0)

    after = gossip(Isolation(target=target), graph, honest, byzantine, base=base)

    wanted = (base if target == "base" else torch.zeros(6)).expand_as(after)
    torch.testing.assert_close(after, wanted, atol=1e-5, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(attacked_graphs(), st.sampled_from([1.0, 1.5]))
def test_the_spectral_attack_takes_back_the_slowest_component_only(case, epsilon):
    graph, honest, byzantine = case
    size = len(honest)
    links = torch.from_numpy(metropolis_matrix(graph)[:size, :size])
    laplacian = torch.diag((links - torch.diag(links.diagonal())).sum(dim=1)) - links + torch.diag(links.diagonal())
    values, vectors = torch.linalg.eigh(laplacian)
    slowest = (values - values[1]).abs() < 1e-9

    after = vectors.T @ gossip(Spectral(epsilon), graph, honest, byzantine).double()

    # Along an eigenvector, gossip multiplies by 1 - value; the attack gives epsilon * value back.
    kept = 1 - values + epsilon * torch.where(slowest, values, 0.0)
    torch.testing.assert_close(after, kept[:, None] * (vectors.T @ honest.double()), atol=1e-5, rtol=1e-4)


def test_on_a_complete_graph_all_components_are_the_slowest():
    rows = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))

    spectral = craft(Spectral(epsilon=1.3), rows[:4], rows[4:])

    torch.testing.assert_close(spectral, craft(Dissensus(epsilon=1.3), rows[:4], rows[4:]))


def test_in_a_divided_honest_graph_the_spectral_attack_sends_every_node_its_own_model():
    graph = nx.Graph([(0, 1), (2, 3), (0, 4), (1, 4), (2, 4), (3, 4)])
    rows = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))

    for receiver in range(4):
        sent = craft(Spectral(), rows[:4], rows[4:], neighbours=graph, receiver=receiver)
        assert torch.equal(sent, rows[receiver])


@pytest.mark.parametrize("attack", [Dissensus, Spectral])
@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("inf"), float("nan")])
def test_a_factor_that_is_not_positive_and_finite_is_refused(attack, epsilon):
    with pytest.raises(ConfigurationError, match=r"^epsilon must be positive and finite"):
        attack(epsilon)


@pytest.mark.parametrize("attack", [Dissensus, Isolation, Spectral])
def test_unknown_weights_are_refused(attack):
    with pytest.raises(ConfigurationError, match="unknown weights 'mine'"):
        attack(weights="mine")


def test_an_unknown_target_is_refused():
    with pytest.raises(ConfigurationError, match="unknown target 'one'"):
        Isolation(target="one")


def test_isolation_at_the_start_needs_the_receivers_start():
    updates = [Update(i, 1, torch.zeros(2)) for i in range(3)]
    around = {i: frozenset(range(3)) - {i} for i in range(3)}
    context = AttackContext(2, 1, 1, frozenset({2}), around, lr=0.1, seed=0)

    with pytest.raises(ConfigurationError, match="receiver's start-of-round model"):
        Isolation(target="base").craft(AttackView(updates[2], (updates[2],), (), tuple(updates[:2])), 0, context)
