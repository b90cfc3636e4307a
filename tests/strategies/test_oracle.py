import pytest
import torch

from flower_dfl.errors import ConfigurationError
from flower_dfl.strategies.oracle import Oracle
from flower_dfl.testing import aggregate
from flower_dfl.types import Inbox, RoundContext, Update

OWN = torch.tensor([0.0, 1.0])
RECEIVED = torch.tensor([[3.0, 1.0], [6.0, 4.0], [900.0, 900.0]])


def run(honest, own=0):
    members = [Update(j, 1, row) for j, row in enumerate([OWN, *RECEIVED])]
    inbox = Inbox(members[own], tuple(members[:own] + members[own + 1 :]), torch.full((3,), 0.25))
    context = RoundContext(own, 1, 2, OWN, budget=1, lr=0.1, num_steps=1.0, seed=0, honest=honest)
    return Oracle().aggregate(inbox, None, context)


def test_only_honest_members_are_averaged():
    # the last neighbour is Byzantine: (0 + 3 + 6) / 3 = 3, (1 + 1 + 4) / 3 = 2
    result = aggregate(Oracle(), OWN, RECEIVED, f=1)

    assert result.vector.tolist() == pytest.approx([3, 2])
    assert result.weights == pytest.approx({0: 1 / 3, 1: 1 / 3, 2: 1 / 3, 3: 0.0})


def test_without_byzantine_nodes_it_is_the_plain_mean():
    result = aggregate(Oracle(), OWN, RECEIVED, f=0)

    assert torch.allclose(result.vector, torch.cat([OWN[None], RECEIVED]).mean(dim=0))


def test_among_byzantine_neighbours_only_the_node_keeps_its_model():
    result = run(frozenset({0}))

    assert torch.equal(result.vector, OWN)
    assert result.weights == {0: 1.0, 1: 0.0, 2: 0.0, 3: 0.0}


def test_a_node_always_believes_itself():
    result = run(frozenset({1}), own=0)

    assert result.vector.tolist() == pytest.approx([1.5, 1.0])


def test_honest_nodes_elsewhere_in_the_network_do_not_matter():
    assert run(frozenset({0, 1, 7, 9})).weights == pytest.approx({0: 0.5, 1: 0.5, 2: 0.0, 3: 0.0})


def test_it_must_be_told_who_is_honest():
    with pytest.raises(ConfigurationError, match=r"^the oracle must be told who is honest, got ctx\.honest = None$"):
        run(None)
