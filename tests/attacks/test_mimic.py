import networkx as nx
import pytest
import torch

from flower_dfl.attacks.mimic import Mimic
from flower_dfl.errors import ConfigurationError
from flower_dfl.strategies.average import Average
from flower_dfl.testing import aggregate, craft

HONEST, BYZANTINE = torch.arange(5.0)[:, None], torch.full((3, 1), 9.0)


def test_the_target_is_copied_for_every_receiver():
    for receiver in range(5):
        assert craft(Mimic(target=2), HONEST, BYZANTINE, receiver=receiver).item() == 2


def test_the_copy_is_no_alias():
    sent = craft(Mimic(target=2), HONEST, BYZANTINE)

    assert sent.data_ptr() != HONEST[2].data_ptr()


def test_a_random_target_is_an_honest_neighbour_fixed_for_the_run_and_shared_by_all_attackers():
    graph = nx.complete_graph(8)
    graph.remove_edge(0, 4)

    for seed in range(10):
        sent = {
            craft(Mimic(), HONEST, BYZANTINE, attacker=a, round=t, seed=seed, neighbours=graph).item()
            for a in range(3)
            for t in (1, 2, 3)
        }

        assert len(sent) == 1
        assert sent < {1.0, 2.0, 3.0}


def test_different_receivers_and_runs_copy_different_nodes():
    sent = {craft(Mimic(), HONEST, BYZANTINE, receiver=i, seed=s).item() for i in range(5) for s in range(5)}

    assert sent == {0.0, 1.0, 2.0, 3.0, 4.0}


def test_the_mean_is_drawn_to_the_copied_node():
    sent = craft(Mimic(target=4), HONEST, BYZANTINE)

    result = aggregate(Average(), HONEST[0], torch.cat([HONEST[1:], sent.expand(3, 1)])).vector

    assert result.item() == (0 + 1 + 2 + 3 + 4 * 4) / 8  # without the attack it is 2


def test_without_honest_neighbours_any_other_honest_node_is_copied():
    graph = nx.Graph([(0, 5), (1, 2), (2, 3), (3, 4), (5, 6), (6, 7), (7, 1)])

    copied = {craft(Mimic(), HONEST, BYZANTINE, neighbours=graph, seed=seed).item() for seed in range(20)}

    assert copied <= {1, 2, 3, 4}  # 0 is the receiver itself
    assert len(copied) > 1


@pytest.mark.parametrize("target", [5, 99])
def test_a_target_that_is_not_honest_is_refused(target):
    with pytest.raises(ConfigurationError, match=rf"^mimic's target must be an honest node, got {target}$"):
        craft(Mimic(target=target), HONEST, BYZANTINE)


def test_a_negative_target_is_refused():
    with pytest.raises(ConfigurationError, match='must be "random" or a node, got -1'):
        Mimic(target=-1)
