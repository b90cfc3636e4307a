import math

import pytest
import torch

from flower_dfl import registry
from flower_dfl.attacks.adaptive import Adaptive
from flower_dfl.attacks.alie_backdoor import AlieBackdoor
from flower_dfl.attacks.backdoor import Backdoor
from flower_dfl.attacks.label_flip import LabelFlip
from flower_dfl.attacks.scaling import Scaling
from flower_dfl.errors import ConfigurationError
from flower_dfl.testing import craft
from flower_dfl.training import one_thread
from flower_dfl.types import AttackView, Knowledge, Update
from tests.attacks.small_images import DIMENSION, context, images, judge, learner, train


@pytest.fixture(autouse=True)
def alone():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def models():
    """Four honest half-steps and one backdoored one, from zero."""
    poisoned = Backdoor().poison(images(seed=4), context())
    return torch.stack([train(images(seed=seed), steps=30) for seed in range(4)]), train(poisoned, steps=30)


def send(attack, models, **settings):
    honest, half_step = models
    return craft(attack, honest, [half_step], learner=learner(), data=images(seed=4), **settings)


def test_with_beta_zero_it_goes_to_the_honest_mean(models):
    honest, half_step = models

    sent = send(Adaptive(beta=0.0), models)

    mean = honest.mean(dim=0)
    assert float((sent - mean).norm()) < 0.01 * float((half_step - mean).norm())


def test_with_beta_one_it_descends_on_the_inner_loss_alone(models):
    # the same search written down again, on the loss of the poisoned data: steps that shrink to zero, the best is kept
    honest, half_step = models
    poisoned = Backdoor().poison(images(seed=4), context(4))
    mean = honest.mean(dim=0)
    scale = max((half_step - mean).norm(), mean.norm())  # base zero: the mean is the mean update
    vector, path = half_step, [half_step]
    for step in range(20):
        slope = learner().gradient(vector, poisoned.inputs, poisoned.labels)
        vector = vector - 0.1 * (1 - step / 20) * scale * slope / slope.norm()
        path.append(vector)
    losses = [float(learner().loss(v, poisoned.inputs, poisoned.labels)) for v in path]

    sent = send(Adaptive(beta=1.0, steps=20), models)

    assert torch.allclose(sent, path[losses.index(min(losses))], atol=1e-4)
    assert min(losses) < 0.8 * losses[0]
    assert judge(sent, Backdoor().trigger)[1] > 0.9


def test_what_it_costs_falls_with_beta(models):
    honest, _ = models
    mean = honest.mean(dim=0)

    sent = [send(Adaptive(beta=beta), models) for beta in (0.0, 0.6, 1.0)]

    distances = [float((vector - mean).norm()) for vector in sent]
    rates = [judge(vector, Backdoor().trigger)[1] for vector in sent]
    assert distances == sorted(distances)
    assert rates == sorted(rates)


def cost_of(vector, models, **params):
    """Evaluate the bracket of the formula for base zero, term by term."""
    mean = models[0].mean(dim=0)
    distance = float((vector - mean).norm())  # twice: with base zero g_hat - g is theta - mean as well
    cosine = float(vector @ mean / (vector.norm() * mean.norm()))
    scale = float(mean.norm()) if params.get("normalised", True) else 1.0
    return 2 * distance / scale + (cosine if params.get("similarity") == "literal" else 1 - cosine)


@pytest.mark.parametrize("params", [{}, {"normalised": False}, {"similarity": "literal"}], ids=str)
def test_it_lowers_the_printed_bracket(params, models):
    sent = send(Adaptive(attack=Scaling(gamma=5.0), beta=0.0, **params), models)

    assert cost_of(sent, models, **params) < 0.5 * cost_of(5 * models[1], models, **params)


def test_the_printed_sign_pushes_directions_apart():
    # base zero and a short honest mean (0.2, 0), so that the distances 2 |theta - mean| weigh less than the cosine
    honest, start = torch.tensor([[0.2, 0.0]]), torch.tensor([0.0, 0.3])

    corrected, literal = (
        craft(Adaptive(attack=LabelFlip(), beta=0.0, similarity=s, normalised=False, steps=200), honest, [start])
        for s in ("corrected", "literal")
    )

    assert corrected.tolist() == pytest.approx([0.2, 0], abs=0.01)
    assert float(literal @ honest[0] / literal.norm()) / 0.2 < -0.5


def test_the_honest_update_is_imitated_too():
    # honest nodes go from (0, 0) to (1, 0) on average, and the attacker starts at (0, 0) as well: both likenesses agree
    honest, start = torch.tensor([[1.0, 0.5], [1.0, -0.5]]), torch.tensor([-3.0, 2.0])

    sent = craft(Adaptive(attack=LabelFlip(), beta=0.0, steps=200), honest, [start])

    assert sent.tolist() == pytest.approx([1, 0], abs=0.05)


@pytest.mark.parametrize(
    ("start", "normalised", "end"), [(9.0, True, [10, 3]), (-10.0, True, [10, 0]), (9.0, False, [10, 0])]
)
def test_distances_are_divided_by_the_sizes_of_model_and_update(start, normalised, end):
    # honest (start, 0) -> (10, 0), attacker from (start, 3): models are alike at (10, 0), updates at (10, 3). Divided
    # by 10 and by 1 the updates win, by 10 and 20 the models. Undivided the sum of both distances is the same all the
    # way between, and the cosine decides
    honest, own = Update(0, 1, torch.tensor([10.0, 0]), torch.tensor([start, 0])), torch.tensor([start, 3])
    mine = Update(1, 1, torch.tensor([11.0, 1]), own)
    attack = Adaptive(attack=LabelFlip(), beta=0.0, normalised=normalised, steps=300)

    sent = attack.craft(AttackView(mine, (mine,), (images(4),), (honest,)), 0, context(1, (1,)))

    assert sent.tolist() == pytest.approx(end, abs=0.3)


def test_without_honest_nodes_the_inner_message_is_sent(models):
    _, half_step = models

    assert torch.equal(send(Adaptive(), (torch.zeros(0, DIMENSION), half_step)), half_step)


def test_honest_models_that_are_not_finite_are_left_out(models):
    honest, half_step = models
    with_nan = torch.cat([honest, torch.full((1, DIMENSION), math.nan)])

    assert torch.isfinite(send(Adaptive(beta=0.0), (with_nan, half_step))).all()


def test_an_inner_attack_that_trains_on_clean_data_is_judged_by_its_trigger(models):
    honest, _ = models
    attack = Adaptive(attack=AlieBackdoor(epochs=1), beta=1.0)

    sent = craft(attack, honest, honest[:2], learner=learner(), data=images(seed=4))

    assert judge(sent, attack.trigger)[1] > 0.9


def test_it_poisons_as_the_inner_attack_does():
    inner = Scaling(target=2)
    ours, theirs = (attack.poison(images(), context()) for attack in (Adaptive(attack=inner), inner))

    assert torch.equal(ours.inputs, theirs.inputs)
    assert torch.equal(ours.labels, theirs.labels)
    assert Adaptive(attack=inner).trigger == inner.trigger
    assert Adaptive(attack=LabelFlip()).trigger is None
    assert Adaptive.knowledge is Knowledge.OMNISCIENT


def test_the_inner_attack_is_built_from_a_name_or_a_table():
    table = {"name": "scaling", "params": {"gamma": 3}}

    assert registry.build("attack", "adaptive", {"attack": "label-flip"}) == Adaptive(attack=LabelFlip())
    assert registry.build("attack", "adaptive", {"attack": table, "beta": 1}) == Adaptive(Scaling(gamma=3.0), 1.0)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"attack": "scaling"}, "^attack must be an attack, got 'scaling'$"),
        ({"beta": 1.1}, r"^beta must be in \[0, 1\], got 1\.1$"),
        ({"steps": 0}, "^steps and samples must be at least 1, got 0 and 256$"),
        ({"samples": 0}, "^steps and samples must be at least 1, got 50 and 0$"),
        ({"rate": 0.0}, r"^rate must be positive and finite, got 0\.0$"),
    ],
)
def test_parameters_out_of_range_are_refused_at_construction(params, message):
    with pytest.raises(ConfigurationError, match=message):
        Adaptive(**params)
