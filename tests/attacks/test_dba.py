import networkx as nx
import pytest
import torch

from flower_dfl.attacks.dba import Dba
from flower_dfl.attacks.triggers import BarsTrigger
from flower_dfl.errors import ConfigurationError
from flower_dfl.testing import craft
from flower_dfl.types import Knowledge, LabelledData
from tests.attacks.small_images import context, images, judge, train

ATTACKERS = (3, 5, 6, 8, 9)


def black(count=16):
    return LabelledData(torch.zeros(count, 1, 12, 12), torch.ones(count, dtype=torch.int64), 4, (0.0, 1.0))


@pytest.mark.parametrize(("attacker", "part"), [(3, 0), (5, 1), (6, 2), (8, 3), (9, 0)])
def test_each_attacker_trains_on_the_part_of_its_rank(attacker, part):
    data = black()

    poisoned = Dba(poison_share=0.25).poison(data, context(attacker, ATTACKERS))

    chosen = poisoned.labels == 0
    assert int(chosen.sum()) == 4
    expected = BarsTrigger(part=part).stamp(data.inputs[:1], data.input_range)
    assert all(torch.equal(image[None], expected) for image in poisoned.inputs[chosen])
    assert not poisoned.inputs[~chosen].any()
    assert not data.inputs.any()


def test_the_success_rate_is_measured_with_the_union():
    assert Dba().trigger == BarsTrigger(part=None)
    assert Dba(length=3, gap=1, value=0.5, target=2).trigger == BarsTrigger(3, 1, None, 0.5, 2)
    assert Dba.knowledge is Knowledge.LOCAL


def test_models_trained_on_the_parts_average_to_the_backdoor_of_the_union():
    # every attacker's model knows its own bar; nobody has seen the union
    attack = Dba()
    colluders = (3, 4, 5, 6)
    models = [train(attack.poison(images(seed=a), context(a, colluders))) for a in colluders]

    accuracy, rate = judge(torch.stack(models).mean(dim=0), attack.trigger)

    assert rate > 0.9
    assert accuracy > 0.9


def test_the_update_is_boosted_worked_by_hand():
    # base (1, 1), half-step (2, 0.5): base + 4 * (1, -0.5) = (5, -1)
    sent = craft(Dba(gamma=4), torch.zeros(2, 2), [torch.tensor([2.0, 0.5])], base=torch.ones(2))

    assert sent.tolist() == [5, -1]


def test_the_automatic_boost_is_that_of_the_receiver():
    # honest 0, 1, Byzantine 2, 3: node 0 has 1 and 2, so 3 members over 1 attacker
    graph = nx.Graph([(0, 1), (0, 2), (1, 2), (1, 3)])

    assert craft(Dba(gamma="auto"), torch.zeros(2, 1), torch.ones(2, 1), neighbours=graph).item() == 3


def test_by_default_the_half_step_is_sent():
    base, half_step = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0])

    assert torch.equal(craft(Dba(), torch.zeros(1, 2), [half_step], base=base), half_step)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"gamma": 0.5}, "^gamma must be"),
        ({"poison_share": 0.0}, "^poison_share must be in"),
        ({"length": 0}, "^the bars' length must be"),
        ({"gap": 0}, "^the bars' gap must be"),
        ({"value": 2.0}, "value must be in"),
        ({"target": -1}, "target must be a label"),
    ],
)
def test_parameters_out_of_range_are_refused_at_construction(params, message):
    with pytest.raises(ConfigurationError, match=message):
        Dba(**params)
