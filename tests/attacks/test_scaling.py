import networkx as nx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.attacks.scaling import Scaling
from flower_dfl.attacks.triggers import SquareTrigger
from flower_dfl.errors import ConfigurationError
from flower_dfl.strategies.average import Average
from flower_dfl.testing import aggregate, craft
from flower_dfl.types import AttackContext, AttackView, Knowledge, LabelledData, Update


def context(round=1, node=3, seed=0):
    return AttackContext(node, round, 10, frozenset({3}), {}, lr=0.1, seed=seed)


def images(count=20):
    return LabelledData(torch.full((count, 1, 6, 6), 0.5), torch.arange(count) % 5 + 5, 10, (0.0, 1.0))


def stamped_of(data):
    """Which samples carry the white 4x4 square at the bottom right."""
    return (data.inputs[:, :, 2:, 2:] == 1).flatten(1).all(dim=1)


def test_the_update_is_multiplied_worked_by_hand():
    # base (1, 1), half-step (2, 0.5): base + 10 * (1, -0.5) = (11, -4)
    sent = craft(Scaling(), torch.zeros(2, 2), [torch.tensor([2.0, 0.5])], base=torch.tensor([1.0, 1.0]))

    assert sent.tolist() == [11, -4]


def test_a_boost_of_one_sends_the_half_step():
    sent = craft(Scaling(gamma=1), torch.zeros(2, 2), [torch.tensor([2.0, 0.5])], base=torch.tensor([1.0, 1.0]))

    assert sent.tolist() == [2, 0.5]


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10**6))
def test_the_automatic_boost_replaces_plain_averaging_of_unmoved_models_by_the_backdoored_one(honest, byzantine, seed):
    # complete graph: |G_i| = honest + byzantine, all colluders hold the same backdoored model, nobody else moved
    draw = torch.Generator().manual_seed(seed)
    base, backdoored = torch.randn(2, 8, generator=draw)
    sent = craft(Scaling(gamma="auto"), base.expand(honest, -1), backdoored.expand(byzantine, -1), base=base)

    received = torch.cat([base.expand(honest - 1, -1), sent.expand(byzantine, -1)])
    result = aggregate(Average(), base, received)

    assert torch.allclose(result.vector, backdoored, atol=1e-5)


def test_the_automatic_boost_is_that_of_the_receiver():
    # honest 0, 1, 2, Byzantine 3, 4. Node 0 has 1, 3: 3/1; node 1 has 0, 3, 4: 4/2; node 2 has 3, 4: 3/2
    graph = nx.Graph([(0, 1), (0, 3), (1, 3), (1, 4), (2, 3), (2, 4)])

    sent = [
        craft(Scaling(gamma="auto"), torch.zeros(3, 1), torch.ones(2, 1), receiver=i, neighbours=graph).item()
        for i in (0, 1, 2)
    ]

    assert sent == [3, 2, 1.5]


@pytest.mark.parametrize(
    ("edges", "boost"),
    [([(0, 1), (0, 2), (0, 3)], 4.0), ([(0, 1), (0, 3), (0, 4)], 2.0), ([(0, 3)], 2.0), ([(0, 3), (0, 4)], 1.5)],
)
def test_the_automatic_boost_is_the_neighbourhood_over_its_byzantine_part(edges, boost):
    # honest 0, 1, 2, Byzantine 3, 4; the closed neighbourhood counts the receiver
    graph = nx.empty_graph(5)
    graph.add_edges_from(edges)

    assert craft(Scaling(gamma="auto"), torch.zeros(3, 1), torch.ones(2, 1), neighbours=graph).item() == boost


def test_the_given_share_of_samples_gets_square_and_target():
    clean = images(20)

    poisoned = Scaling(poison_share=0.25).poison(clean, context())

    chosen = stamped_of(poisoned)
    assert int(chosen.sum()) == 5
    assert (poisoned.labels[chosen] == 0).all()
    assert torch.equal(poisoned.labels[~chosen], clean.labels[~chosen])
    assert (poisoned.inputs[~chosen] == 0.5).all()
    assert (poisoned.inputs[chosen][:, :, :2] == 0.5).all()


def test_clean_data_are_unchanged():
    clean = images()

    Scaling().poison(clean, context())

    assert (clean.inputs == 0.5).all()
    assert torch.equal(clean.labels, torch.arange(20) % 5 + 5)


@pytest.mark.parametrize(("share", "count", "poisoned"), [(1.0, 7, 7), (0.5, 7, 4), (0.01, 7, 1), (0.5, 1, 1)])
def test_at_least_one_sample_is_poisoned_and_at_most_all(share, count, poisoned):
    assert int(stamped_of(Scaling(poison_share=share).poison(images(count), context())).sum()) == poisoned


def test_the_choice_of_samples_depends_on_seed_round_and_node_only():
    choices = [
        tuple(stamped_of(Scaling().poison(images(), c)).tolist())
        for c in (context(), context(), context(round=2), context(node=4), context(seed=1))
    ]

    assert choices[0] == choices[1]
    assert len(set(choices)) == 4


def test_the_trigger_is_the_square_of_its_parameters():
    attack = Scaling(size=3, corner="top-left", value=0.5, target=7)

    assert attack.trigger == SquareTrigger(3, "top-left", 0.5, 7)
    assert Scaling().trigger == SquareTrigger(4, "bottom-right", 1.0, 0)
    assert Scaling.knowledge is Knowledge.LOCAL


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"gamma": 0.5}, r'^gamma must be "auto" or at least 1 and finite, got 0\.5$'),
        ({"gamma": float("inf")}, r"at least 1 and finite, got inf$"),
        ({"gamma": float("nan")}, r"at least 1 and finite, got nan$"),
        ({"poison_share": 0.0}, r"^poison_share must be in \(0, 1\], got 0\.0$"),
        ({"poison_share": 1.1}, r"^poison_share must be in \(0, 1\], got 1\.1$"),
        ({"size": 0}, "size must be positive"),
        ({"value": 2.0}, r"value must be in \[0, 1\]"),
        ({"target": -1}, "target must be a label"),
    ],
)
def test_parameters_out_of_range_are_refused_at_construction(params, message):
    with pytest.raises(ConfigurationError, match=message):
        Scaling(**params)


def test_a_target_that_is_no_label_of_the_data_is_refused():
    with pytest.raises(ConfigurationError, match=r"^target must be below the number of labels 10, got 10$"):
        Scaling(target=10).poison(images(), context())


def test_it_needs_the_attackers_own_base():
    own = Update(3, 1, torch.zeros(2))

    with pytest.raises(ConfigurationError, match="start-of-round model"):
        Scaling().craft(AttackView(own, (own,), ()), 0, context())
