import pytest
import torch

from flower_dfl.attacks.gaussian import Gaussian
from flower_dfl.attacks.trim_attack import TrimAttack
from flower_dfl.errors import ConfigurationError
from flower_dfl.strategies.median import Median
from flower_dfl.strategies.trimmed_mean import TrimmedMean
from flower_dfl.testing import aggregate, craft

# Updates of two honest nodes, the sign of their mean, and the range by hand for b = 2.
RANGES = [
    ((0.2, 0.4), (0.1, 0.2)),  # up, smallest positive: [0.2 / 2, 0.2]
    ((-0.1, 0.3), (-0.2, -0.1)),  # up, smallest negative: [2 * -0.1, -0.1]
    ((-0.4, -0.2), (-0.2, -0.1)),  # down, largest negative: [-0.2, -0.2 / 2]
    ((-0.3, 0.1), (0.1, 0.2)),  # down, largest positive: [0.1, 2 * 0.1]
    ((0.0, 0.4), (0.0, 0.0)),  # up, smallest zero
    ((-1.0, 1.0), (0.0, 0.0)),  # no direction: the mean
]
REPEATS = 500


def spread_over(sent, low, high):
    assert sent.min().item() == pytest.approx(low, abs=0.01 * (high - low) + 1e-6)
    assert sent.max().item() == pytest.approx(high, abs=0.01 * (high - low) + 1e-6)
    assert sent.mean().item() == pytest.approx((low + high) / 2, abs=0.1 * (high - low) + 1e-6)


@pytest.mark.parametrize(("updates", "limits"), RANGES)
@pytest.mark.parametrize("base", [0.0, 3.0])
def test_full_knowledge_draws_from_the_ranges_worked_by_hand(updates, limits, base):
    honest = base + torch.tensor(updates)[:, None].expand(2, REPEATS)
    start = torch.full((REPEATS,), base)

    sent = craft(TrimAttack(), honest, torch.zeros(2, REPEATS), base=start)

    spread_over((sent - start).double(), *limits)


@pytest.mark.parametrize(("updates", "limits"), [((1.0, 3.0), (-2.0, -1.0)), ((-1.0, -3.0), (1.0, 2.0))])
def test_partial_knowledge_draws_three_to_four_deviations_from_the_mean(updates, limits):
    # mean 2 and population deviation 1: [2 - 4, 2 - 3]
    byzantine = torch.tensor(updates)[:, None].expand(2, REPEATS)

    sent = craft(TrimAttack(knowledge_level="partial"), torch.zeros(1, REPEATS), byzantine)

    spread_over(sent, *limits)


def test_a_factor_of_one_sends_the_extreme_honest_values():
    honest = torch.tensor([[0.2, -0.3], [0.4, 0.1]])

    assert craft(TrimAttack(b=1), honest, torch.zeros(1, 2)).tolist() == pytest.approx([0.2, 0.1])


@pytest.mark.parametrize("rule", [TrimmedMean(), Median()])
def test_it_moves_the_trimmed_mean_and_the_median_further_than_noise_does(rule):
    draw = torch.Generator().manual_seed(0)
    honest = 0.02 + 0.1 * torch.randn(8, 300, generator=draw)
    clean = aggregate(rule, honest[0], honest[1:]).vector

    def shift(attack):
        sent = torch.stack([craft(attack, honest, honest[:3], attacker=a) for a in range(3)])
        return aggregate(rule, honest[0], torch.cat([honest[1:], sent]), f=3).vector - clean

    directed = shift(TrimAttack())
    assert directed.norm() > 1.2 * shift(Gaussian(sigma=0.1)).norm()
    assert directed.norm() > 1.2 * shift(Gaussian(sigma=30)).norm()
    assert torch.dot(directed, honest.mean(dim=0)) < 0


def test_attackers_receivers_and_rounds_have_draws_of_their_own():
    honest = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    graph_keys = [{}, {"attacker": 1}, {"receiver": 1}, {"round": 2}, {"seed": 1}]

    sent = {tuple(craft(TrimAttack(), honest, honest[:2], **key).tolist()) for key in graph_keys}

    assert len(sent) == len(graph_keys)


@pytest.mark.parametrize("b", [0.5, float("inf"), float("nan")])
def test_a_width_below_one_is_refused(b):
    with pytest.raises(ConfigurationError, match=r"^b must be at least 1 and finite"):
        TrimAttack(b)


def test_an_unknown_level_is_refused():
    with pytest.raises(ConfigurationError, match="unknown knowledge_level 'local'"):
        TrimAttack(knowledge_level="local")
