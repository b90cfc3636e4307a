from dataclasses import replace

import pytest
import torch

from flower_dfl.attacks.alie_backdoor import AlieBackdoor
from flower_dfl.attacks.triggers import SquareTrigger
from flower_dfl.errors import ConfigurationError
from flower_dfl.testing import craft
from flower_dfl.training import TorchLearner, one_thread
from flower_dfl.types import AttackContext, AttackView, Knowledge, LabelledData, Update
from tests.attacks.small_images import DIMENSION, context, images, judge, learner, train

WIDE = 1e6


@pytest.fixture(autouse=True)
def alone():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def colluders():
    """Three models trained on clean data of their own."""
    return torch.stack([train(images(seed=seed), steps=50) for seed in (10, 11, 12)])


def send(attack, colluders, attacker=0, **settings):
    return craft(attack, colluders[:0], colluders, attacker=attacker, learner=learner(), data=images(), **settings)


@pytest.mark.parametrize("z", [0.1, 1.5])
def test_the_message_stays_within_z_standard_deviations_and_reaches_them(colluders, z):
    sent = send(AlieBackdoor(z=z), colluders).double()

    mean, spread = colluders.double().mean(dim=0), colluders.double().std(dim=0, correction=0)
    low, high = mean - z * spread, mean + z * spread
    assert (sent >= low.float()).all()
    assert (sent <= high.float()).all()
    assert float(((sent == low.float()) | (sent == high.float())).double().mean()) > 0.3


def test_a_wide_interval_clips_nothing(colluders):
    attack = AlieBackdoor(z=WIDE, boost=1.0)
    own = Update(0, 1, colluders[0], torch.zeros(DIMENSION))
    told = AttackContext(0, 1, 10, frozenset(range(3)), {}, lr=0.1, seed=0, learner=learner())

    trained = attack.backdoored(own, images(), told)

    assert torch.equal(send(attack, colluders), trained)
    assert not torch.equal(trained, colluders[0])


def test_the_deviation_is_boosted(colluders):
    once, thrice = (send(AlieBackdoor(z=WIDE, boost=boost), colluders) for boost in (1.0, 3.0))

    assert torch.allclose(thrice - colluders[0], 3 * (once - colluders[0]), atol=1e-6)


def test_the_interval_is_worked_by_hand():
    # two colluders at 1 and 3: mean 2, standard deviation 1 (divided by n). From 1 the boosted deviation overshoots,
    # so with z = 0.5 every coordinate ends at 1.5 or 2.5
    colluders = torch.stack([torch.full((DIMENSION,), value) for value in (1.0, 3.0)])

    sent = send(AlieBackdoor(z=0.5, boost=1e6, lr=0.5), colluders)

    assert set(sent.tolist()) <= {1.5, 2.5}
    assert len(set(sent.tolist())) == 2


def test_the_unclipped_message_has_the_backdoor_and_keeps_its_accuracy(colluders):
    attack = AlieBackdoor(z=WIDE, boost=1.0, epochs=10)

    accuracy, rate = judge(send(attack, colluders), attack.trigger)

    assert rate > 0.9
    assert accuracy > 0.9


def test_a_narrow_interval_harms_nobody_and_a_wide_one_does(colluders):
    rates = [judge(send(AlieBackdoor(z=z), colluders), AlieBackdoor().trigger)[1] for z in (0.01, WIDE)]

    assert rates[0] < 0.5
    assert rates[1] > 0.9


def test_the_pull_keeps_the_model_near_the_clean_one(colluders):
    # the pull is alpha / d * |theta - h|^2, so 100 * d is a strong one at this learning rate
    moved = [
        float((send(AlieBackdoor(z=WIDE, boost=1.0, alpha=alpha, lr=0.004), colluders) - colluders[0]).norm())
        for alpha in (0.0, 100.0 * DIMENSION)
    ]

    assert moved[1] < 0.2 * moved[0]


def test_class_balanced_training_draws_the_clean_labels_equally_often(monkeypatch):
    data = images()
    few = torch.cat([torch.arange(len(data))[data.labels == 0][:4], torch.arange(len(data))[data.labels != 0]])
    skewed = LabelledData(data.inputs[few], data.labels[few], data.num_classes, data.input_range)
    seen = []
    original = TorchLearner.gradient

    def watch(self, vector, inputs, labels):
        seen.append(torch.cdist(inputs.flatten(1), skewed.inputs.flatten(1)).argmin(dim=1))
        return original(self, vector, inputs, labels)

    monkeypatch.setattr(TorchLearner, "gradient", watch)
    own = Update(0, 1, torch.zeros(DIMENSION), torch.zeros(DIMENSION))
    told = AttackContext(0, 1, 10, frozenset(range(3)), {}, lr=0.1, seed=0, learner=learner())
    shares = {}
    for sampling in ("shuffle", "class-balanced"):
        seen.clear()
        # a trigger as dark as the background, so that the samples can be told apart
        AlieBackdoor(sampling=sampling, epochs=30, size=1, value=0.0).backdoored(own, skewed, told)
        drawn = skewed.labels[torch.cat(seen)]
        shares[sampling] = float((drawn == 0).double().mean())

    assert shares["shuffle"] == pytest.approx(4 / len(skewed))
    assert shares["class-balanced"] == pytest.approx(1 / data.num_classes, abs=0.03)


def test_a_single_attacker_sends_its_clean_half_step(colluders):
    assert torch.equal(send(AlieBackdoor(), colluders[:1]), colluders[0])


def test_a_colluder_that_is_not_finite_silences_nobody(colluders):
    broken = torch.cat([colluders, torch.full_like(colluders[:1], float("nan"))])

    assert torch.equal(send(AlieBackdoor(), broken), send(AlieBackdoor(), colluders))
    assert not torch.isfinite(send(AlieBackdoor(), broken[[3]], attacker=0)).any()


def test_every_receiver_gets_the_same_message_from_a_view_and_others_from_other_views(colluders):
    attack, told = AlieBackdoor(epochs=1), context(0, (0, 1, 2))
    updates = tuple(Update(i, 1, vector, torch.zeros(DIMENSION)) for i, vector in enumerate(colluders))
    view = AttackView(updates[0], updates, (images(),) * 3)

    first, second = (attack.craft(view, receiver, told) for receiver in (7, 8))
    other = attack.craft(replace(view, own=updates[1]), 7, replace(told, node=1))

    assert torch.equal(first, second)
    assert first is not second
    assert not torch.equal(first, other)


def test_training_data_stay_clean():
    clean = images()

    assert AlieBackdoor().poison(clean, context()) is clean
    assert AlieBackdoor.knowledge is Knowledge.COLLUDING
    assert AlieBackdoor(size=2, corner="top-left", value=0.5, target=1).trigger == SquareTrigger(2, "top-left", 0.5, 1)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"z": 0.0}, r"^z must be positive and finite, got 0\.0$"),
        ({"z": float("inf")}, r"^z must be positive and finite, got inf$"),
        ({"boost": 0.5}, r"^boost must be at least 1 and finite, got 0\.5$"),
        ({"epochs": 0}, r"^epochs and batch_size must be at least 1, got 0 and 32$"),
        ({"batch_size": 0}, r"^epochs and batch_size must be at least 1, got 3 and 0$"),
        ({"sampling": "even"}, r'^sampling must be "shuffle" or "class-balanced", got \'even\'$'),
        ({"alpha": -1.0}, r"^alpha must not be negative, and finite, got -1\.0$"),
        ({"alpha": float("inf")}, r"^alpha must not be negative, and finite, got inf$"),
        ({"lr": 0.0}, r'^lr must be "auto" or positive and finite, got 0\.0$'),
        ({"lr": float("inf")}, r'^lr must be "auto" or positive and finite, got inf$'),
        ({"poison_share": 0.0}, "^poison_share must be in"),
        ({"size": 0}, "size must be positive"),
    ],
)
def test_parameters_out_of_range_are_refused_at_construction(params, message):
    with pytest.raises(ConfigurationError, match=message):
        AlieBackdoor(**params)


def test_it_needs_the_local_model(colluders):
    with pytest.raises(ConfigurationError, match="needs the local model"):
        craft(AlieBackdoor(), colluders[:0], colluders, data=images())
