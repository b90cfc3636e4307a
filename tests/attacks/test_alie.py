import pytest
import torch
from scipy.stats import norm

from flower_dfl.attacks.alie import Alie
from flower_dfl.errors import ConfigurationError
from flower_dfl.strategies.trimmed_mean import TrimmedMean
from flower_dfl.testing import aggregate, craft


def column(*values):
    return torch.tensor(values)[:, None]


def test_full_knowledge_shifts_the_honest_mean_as_worked_by_hand():
    # honest 1, 3: mean 2, population deviation 1; 2 - 1.5 * 1 = 0.5
    sent = craft(Alie(z=1.5, knowledge_level="full"), column(1.0, 3.0), column(7.0))

    assert sent.item() == 0.5


def test_partial_knowledge_shifts_the_byzantine_mean():
    # Byzantine 0, 4: mean 2, deviation 2; 2 - 1.5 * 2 = -1
    assert craft(Alie(z=1.5), column(1.0, 3.0), column(0.0, 4.0)).item() == -1


def test_against_the_update_the_shift_follows_the_signs():
    # base 2, honest (1, 3) and (3, 5) per coordinate: updates average 0 - 0 and +2
    honest = torch.tensor([[-1.0, 3.0], [1.0, 5.0]])
    attack = Alie(z=1.0, knowledge_level="full", direction="against-update")

    sent = craft(attack, honest, torch.zeros(1, 2), base=torch.tensor([2.0, 2.0]))

    # coordinate 0: mean 0, update -2, deviation 1 -> 0 + 1; coordinate 1: mean 4, update 2 -> 4 - 1
    assert sent.tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    ("n", "f", "share"),
    # s = floor(n/2 + 1) - f; share (n - f - s)/(n - f)
    [(50, 24, 24 / 26), (10, 4, 4 / 6), (11, 5, 5 / 6), (10, 3, 4 / 7), (5, 2, 2 / 3)],
)
def test_the_value_of_z_is_that_of_the_formula(n, f, share):
    assert Alie().z_value(n, f) == pytest.approx(norm.ppf(share))


@pytest.mark.parametrize(("n", "f"), [(4, 3), (10, 6), (2, 1 + 1)])
def test_an_infinite_z_is_refused(n, f):
    with pytest.raises(ConfigurationError, match=rf"z is infinite in a closed neighbourhood of n={n} with f={f}"):
        Alie().z_value(n, f)


@pytest.mark.parametrize(("n", "f"), [(5, 1), (4, 1), (10, 2), (3, 0)])
def test_a_z_that_is_not_positive_is_refused(n, f):
    with pytest.raises(ConfigurationError, match=r"z is not positive .* set z$"):
        Alie().z_value(n, f)


def test_every_neighbourhood_has_a_positive_finite_z_or_is_refused():
    for n in range(1, 40):
        for f in range(n):
            supporters = n // 2 + 1 - f
            positive = supporters > 0 and norm.ppf((n - f - supporters) / (n - f)) > 1e-12
            try:
                assert 0 < Alie().z_value(n, f) < 10
                assert positive
            except ConfigurationError:
                assert not positive


def test_a_given_z_is_used_everywhere():
    assert Alie(z=1.5).z_value(4, 3) == 1.5


def test_the_receivers_neighbourhood_decides_over_z():
    # complete graph of 7 honest and 4 Byzantine nodes: n = 11, f = 4, s = 6 - 4 = 2, z = ppf(5/7)
    honest = torch.tensor([[-1.0], [1.0], [-1.0], [1.0], [-1.0], [1.0], [0.0]])
    deviation = (6 / 7) ** 0.5

    sent = craft(Alie(knowledge_level="full"), honest, torch.zeros(4, 1))

    assert sent.item() == pytest.approx(-norm.ppf(5 / 7) * deviation, rel=1e-6)


def test_crafting_without_a_usable_z_is_refused():
    with pytest.raises(ConfigurationError, match="infinite"):
        craft(Alie(), torch.zeros(2, 3), torch.zeros(4, 3))


def test_it_shifts_the_trimmed_mean_although_it_stays_inside_the_honest_spread():
    draw = torch.Generator().manual_seed(0)
    honest = torch.randn(10, 200, generator=draw)
    attack = Alie(z=1.0, knowledge_level="full")

    sent = craft(attack, honest, torch.zeros(4, 200))
    attacked = aggregate(TrimmedMean(), honest[0], torch.cat([honest[1:], sent.expand(4, -1)]), f=4).vector

    assert (sent > honest.min(dim=0).values).float().mean() > 0.9
    assert (attacked - honest.mean(dim=0)).mean() < -0.3


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"z": 0.0}, r'^z must be "auto" or positive and finite, got 0\.0$'),
        ({"z": float("inf")}, "positive and finite, got inf"),
        ({"z": float("nan")}, "positive and finite, got nan"),
        ({"knowledge_level": "local"}, r"unknown knowledge_level 'local'\. .*Valid: full, partial"),
        ({"direction": "plus"}, r"unknown direction 'plus'"),
    ],
)
def test_parameters_out_of_range_are_refused(params, message):
    with pytest.raises(ConfigurationError, match=message):
        Alie(**params)
