import pytest
import torch

from flower_dfl.attacks.gaussian import Gaussian
from flower_dfl.errors import ConfigurationError
from flower_dfl.strategies.average import Average
from flower_dfl.testing import aggregate, craft

HONEST, BYZANTINE = torch.full((3, 20_000), 2.0), torch.full((2, 20_000), 5.0)


@pytest.mark.parametrize(("center", "mean"), [("mean", 2.0), ("own", 5.0), ("zero", 0.0)])
def test_the_noise_has_its_centre_and_deviation(center, mean):
    sent = craft(Gaussian(sigma=3.0, center=center), HONEST, BYZANTINE)

    assert sent.mean().item() == pytest.approx(mean, abs=0.1)
    assert sent.std().item() == pytest.approx(3.0, rel=0.03)


def test_the_noise_depends_on_receiver_attacker_round_and_seed():
    keys = [{}, {"receiver": 1}, {"attacker": 1}, {"round": 2}, {"seed": 1}]

    sent = [tuple(craft(Gaussian(), HONEST[:, :3], BYZANTINE[:, :3], **key).tolist()) for key in keys]

    assert len(set(sent)) == len(keys)


def test_it_ruins_the_plain_mean():
    honest = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    sent = craft(Gaussian(), honest, honest[:1])

    result = aggregate(Average(), honest[0], torch.cat([honest[1:], sent[None]])).vector

    assert (result - honest.mean(dim=0)).norm() > 10 * honest.norm(dim=1).max() / 5


@pytest.mark.parametrize(
    ("params", "message"), [({"sigma": 0.0}, "sigma must be positive"), ({"center": "x"}, "center")]
)
def test_parameters_out_of_range_are_refused(params, message):
    with pytest.raises(ConfigurationError, match=message):
        Gaussian(**params)
