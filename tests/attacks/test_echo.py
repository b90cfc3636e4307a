import pytest
import torch

from flower_dfl.attacks.echo import Echo
from flower_dfl.errors import ConfigurationError
from flower_dfl.strategies.dfl_dual import DflDual
from flower_dfl.testing import aggregate, craft

HONEST = torch.tensor([[1.0, 2.0], [3.0, -4.0], [torch.nan, 0.0]])
BYZANTINE = torch.full((2, 2), 9.0)


@pytest.mark.parametrize(("receiver", "sent"), [(0, [5.0, 10.0]), (1, [15.0, -20.0])])
def test_every_receiver_gets_its_own_half_step_times_gamma(receiver, sent):
    assert craft(Echo(gamma=5.0), HONEST, BYZANTINE, receiver=receiver).tolist() == sent


def test_a_receiver_that_has_diverged_gets_the_attackers_half_step():
    assert craft(Echo(), HONEST, BYZANTINE, receiver=2).tolist() == [9.0, 9.0]


def test_the_echo_is_no_alias():
    assert craft(Echo(gamma=1.0), HONEST, BYZANTINE).data_ptr() != HONEST.data_ptr()


# Cosines of 1 make the echoes the node's trusted cluster (eq. 11), so that its own q (eq. 13) is their distance, and
# nobody is farther off. Among several echoes, which are at distance 0 of one another, q is 0: they alone are selected.
@pytest.mark.parametrize(
    ("echoes", "accepted", "asks_for_length"),
    [(1, {0, 1, 2, 3, 4}, False), (3, {0, 4, 5, 6}, False), (1, {0, 1, 2, 3}, True), (3, {0, 1, 2, 3}, True)],
)
def test_dfl_dual_prefers_huge_echoes_to_honest_neighbours_unless_it_asks_for_their_length(
    echoes, accepted, asks_for_length
):
    honest = torch.randn(4, 30, generator=torch.Generator().manual_seed(0)) * 0.3 + 1
    sent = craft(Echo(gamma=1000.0), honest, torch.zeros(1, 30))

    rule = DflDual(variant="without-wd", trust_length=asks_for_length)
    weights = aggregate(rule, honest[0], torch.stack([*honest[1:], *[sent] * echoes])).weights

    assert {node for node, weight in weights.items() if weight > 0} == accepted


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("inf"), float("nan")])
def test_a_factor_that_is_not_positive_and_finite_is_refused(gamma):
    with pytest.raises(ConfigurationError, match=r"^gamma must be positive and finite"):
        Echo(gamma=gamma)
