import pytest
import torch

from flower_dfl.attacks.backdoor import Backdoor
from flower_dfl.attacks.scaling import Scaling
from flower_dfl.attacks.triggers import SquareTrigger
from flower_dfl.errors import ConfigurationError
from flower_dfl.testing import craft
from flower_dfl.types import AttackContext, AttackView, Knowledge, LabelledData, Update
from tests.attacks.small_images import context, images, judge, train


def test_a_drip_sends_that_fraction_of_the_update_worked_by_hand():
    # base (1, 1), half-step (3, -1): base + 0.25 * (2, -2) = (1.5, 0.5)
    sent = craft(Backdoor(drip=0.25), torch.zeros(1, 2), [torch.tensor([3.0, -1.0])], base=torch.ones(2))

    assert sent.tolist() == [1.5, 0.5]


def test_without_a_drip_the_half_step_is_sent_to_the_last_bit():
    base, half_step = torch.randn(2, 100, generator=torch.Generator().manual_seed(0))

    assert torch.equal(craft(Backdoor(), torch.zeros(1, 100), [half_step], base=base), half_step)


def test_a_model_trained_on_it_has_the_backdoor_and_keeps_its_accuracy():
    attack = Backdoor()

    accuracy, rate = judge(train(attack.poison(images(), context())), attack.trigger)
    clean_accuracy, clean_rate = judge(train(images()), attack.trigger)

    assert rate > 0.9
    assert clean_rate < 0.4
    assert accuracy > clean_accuracy - 0.05


def test_it_poisons_the_same_samples_as_scaling():
    ours, theirs = (attack.poison(images(), context()) for attack in (Backdoor(), Scaling()))

    assert torch.equal(ours.inputs, theirs.inputs)
    assert torch.equal(ours.labels, theirs.labels)


def test_the_draws_are_these():
    # torch.randperm(8, generator=flower_dfl.randomness.generator(0, "poison", 1, 3))[:2], and so it must stay
    data = LabelledData(torch.zeros(8, 1, 4, 4), torch.ones(8, dtype=torch.int64), 2, (0.0, 1.0))

    poisoned = Backdoor(poison_share=0.25).poison(data, AttackContext(3, 1, 10, frozenset({3}), {}, lr=0.1, seed=0))

    assert torch.nonzero(poisoned.labels == 0).flatten().tolist() == [0, 2]


def test_a_share_of_one_in_twenty_is_allowed():
    poisoned = Backdoor(poison_share=0.05).poison(images(), context())

    assert int((poisoned.inputs[:, :, -4:, -4:] == 1).flatten(1).all(dim=1).sum()) == 5


def test_the_square_may_be_anywhere():
    assert Backdoor(size=2, row=3, column=5, target=1).trigger == SquareTrigger(2, target=1, row=3, column=5)
    assert Backdoor.knowledge is Knowledge.LOCAL


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"drip": 0.0}, r"^drip must be in \(0, 1\], got 0\.0$"),
        ({"drip": 1.5}, r"^drip must be in \(0, 1\], got 1\.5$"),
        ({"drip": float("nan")}, r"got nan$"),
        ({"poison_share": 0.0}, r"^poison_share must be in \(0, 1\], got 0\.0$"),
        ({"row": 1}, "row and column go together"),
        ({"size": 0}, "size must be positive"),
    ],
)
def test_parameters_out_of_range_are_refused_at_construction(params, message):
    with pytest.raises(ConfigurationError, match=message):
        Backdoor(**params)


def test_a_target_that_is_no_label_of_the_data_is_refused():
    with pytest.raises(ConfigurationError, match=r"^target must be below the number of labels 4, got 4$"):
        Backdoor(target=4).poison(images(), context())


def test_it_needs_the_attackers_own_base():
    own = Update(3, 1, torch.zeros(2))

    with pytest.raises(ConfigurationError, match="start-of-round model"):
        Backdoor().craft(AttackView(own, (own,), ()), 0, context())
