"""The client mod, called as Flower calls it; no Flower process is started."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict

from flower_dfl.attacks.back_gradient import BackGradient
from flower_dfl.attacks.backdoor import Backdoor
from flower_dfl.attacks.scaling import Scaling
from flower_dfl.errors import ConfigurationError, UnknownComponentError
from flower_dfl.integrations.attack_mod import attack_mod, poisoned
from flower_dfl.protocols import Attack
from flower_dfl.testing import linear_learner, small_data
from flower_dfl.types import AttackContext, Knowledge, LabelledData

NODES = {1, 4}


def arrays(weight, bias, steps=0):
    return ArrayRecord(
        {
            "weight": Array(np.array(weight, dtype=np.float32)),
            "bias": Array(np.array(bias, dtype=np.float32)),
            "steps": Array(np.array(steps, dtype=np.int64)),
        }
    )


SENT = arrays([[1, 1], [1, 1]], [0, 0])
TRAINED = arrays([[2, 0.5], [1, 1]], [0, 1], steps=7)
OTHER = ArrayRecord({"other": Array(np.zeros(2, np.float32))})
SMALL = arrays([1, 1], [0, 0])
DOUBLE = ArrayRecord({key: Array(array.numpy().astype(np.float64)) for key, array in SENT.items()})


def task(message_type="train", server_round=3, received=SENT):
    config = ConfigRecord({} if server_round is None else {"server-round": server_round})
    return Message(RecordDict({"arrays": received, "config": config}), dst_node_id=1, message_type=message_type)


def client(partition=1, partitions=5):
    config = {"partition-id": partition, "num-partitions": partitions}
    return Context(run_id=1, node_id=77, node_config=config, state=RecordDict(), run_config={})


def trains(message, context):
    content = RecordDict({"arrays": TRAINED, "metrics": MetricRecord({"num-examples": 9, "loss": 0.5})})
    return Message(content, reply_to=message)


@dataclass(frozen=True)
class Spy(Attack):
    knowledge: ClassVar[Knowledge] = Knowledge.LOCAL
    seen: list = field(default_factory=list)

    def craft(self, view, receiver, ctx):
        self.seen.append((view, receiver, ctx))
        return view.own.vector


def numbers(reply):
    return {key: array.numpy().tolist() for key, array in reply.content["arrays"].items()}


def test_an_attacker_sends_the_boosted_update_worked_by_hand():
    # weight: 1 + 10 (2 - 1) = 11, 1 + 10 (0.5 - 1) = -4; bias: 0 + 10 (1 - 0) = 10; integers as trained
    mod = attack_mod("scaling", nodes=NODES, params={"gamma": 10})

    reply = mod(task(), client(), trains)

    assert numbers(reply) == {"weight": [[11, -4], [1, 1]], "bias": [0, 10], "steps": 7}
    assert reply.content["metrics"] == {"num-examples": 9, "loss": 0.5}
    assert reply.metadata.reply_to_message_id is not None


def test_other_clients_other_messages_and_errors_pass_unchanged():
    mod = attack_mod(Scaling(), nodes=NODES)

    assert numbers(mod(task(), client(partition=0), trains)) == numbers(trains(task(), None))
    assert numbers(mod(task("evaluate"), client(), trains)) == numbers(trains(task(), None))
    failed = mod(task(), client(), lambda message, context: Message(Error(code=0), reply_to=message))
    assert failed.has_error()


def test_named_training_functions_are_attacked_too():
    mod = attack_mod(Scaling(gamma=10.0), nodes=NODES)

    assert numbers(mod(task("train.more"), client(), trains))["bias"] == [0, 10]


def test_what_is_received_and_what_was_trained_stay_as_they_are():
    before = [{key: array.data for key, array in record.items()} for record in (SENT, TRAINED)]

    attack_mod(Scaling(), nodes=NODES)(task(), client(), trains)

    assert [{key: array.data for key, array in record.items()} for record in (SENT, TRAINED)] == before


def test_the_automatic_boost_is_that_of_a_server_among_its_clients():
    # 5 clients and the server over 2 attackers: 3
    mod = attack_mod(Scaling(gamma="auto"), nodes=NODES)

    assert numbers(mod(task(), client(), trains))["weight"] == [[4, -0.5], [1, 1]]


def test_the_attack_is_told_what_a_client_knows():
    spy = Spy()

    attack_mod(spy, nodes=NODES, num_rounds=6, seed=8)(task(), client(), trains)

    ((view, receiver, told),) = spy.seen
    assert view.byzantine == (view.own,)
    assert view.honest == ()
    assert (view.own.sender, view.own.round) == (1, 3)
    assert view.own.base.tolist() == told.base.tolist() == [0, 0, 1, 1, 1, 1]  # bias, weight
    assert view.own.vector.tolist() == [0, 1, 2, 0.5, 1, 1]
    assert (told.node, told.round, told.num_rounds, told.seed, told.byzantine) == (1, 3, 6, 8, NODES)
    assert told.neighbours == {receiver: {0, 1, 2, 3, 4}} | {i: {receiver} for i in range(5)}


def test_records_may_have_other_keys():
    mod = attack_mod(Backdoor(drip=0.5), nodes=NODES, arrayrecord_key="model", configrecord_key="settings")
    content = RecordDict({"model": SENT, "settings": ConfigRecord({"server-round": 1})})

    reply = mod(
        Message(content, dst_node_id=1, message_type="train"),
        client(),
        lambda message, context: Message(RecordDict({"model": TRAINED}), reply_to=message),
    )

    assert reply.content["model"]["bias"].numpy().tolist() == [0, 0.5]


@pytest.mark.parametrize("name", ["alie-backdoor", "adaptive"])
def test_attacks_that_need_to_know_others_are_refused(name):
    with pytest.raises(ConfigurationError, match=r"needs (COLLUDING|OMNISCIENT) knowledge, but a client"):
        attack_mod(name, nodes=NODES)
    with pytest.raises(ConfigurationError, match=r"needs (COLLUDING|OMNISCIENT) knowledge, but a client"):
        poisoned(name, small_data(), 0, 1, nodes=())


def test_unknown_attacks_and_parameters_without_a_name_are_refused():
    with pytest.raises(UnknownComponentError, match="unknown attack 'scalling'"):
        attack_mod("scalling", nodes=NODES)
    with pytest.raises(ConfigurationError, match="params go with an attack given by name"):
        attack_mod(Scaling(), nodes=NODES, params={"gamma": 2})


@pytest.mark.parametrize(
    ("changes", "config", "reply", "error"),
    [
        ({"server_round": None}, {"partition-id": 1, "num-partitions": 5}, TRAINED, "needs 'server-round'"),
        ({}, {}, TRAINED, "needs 'partition-id'"),
        ({}, {"partition-id": 1}, TRAINED, "needs 'num-partitions'"),
        ({}, {"partition-id": 1, "num-partitions": 5}, MetricRecord({"a": 0.5}), "expected arrays under 'arrays'"),
        ({"received": OTHER}, {"partition-id": 1, "num-partitions": 5}, TRAINED, "did not send: .*bias"),
        ({"received": SMALL}, {"partition-id": 1, "num-partitions": 5}, TRAINED, "not the same shapes"),
        ({"received": DOUBLE}, {"partition-id": 1, "num-partitions": 5}, TRAINED, "must be alike: .*not float32"),
    ],
)
def test_what_the_mod_needs_and_does_not_find_is_named(changes, config, reply, error):
    def answers(message, context):
        return Message(RecordDict({"arrays": reply}), reply_to=message)

    with pytest.raises(ConfigurationError, match=error):
        attack_mod(Scaling(), nodes=NODES)(task(**changes), Context(1, 77, config, RecordDict(), {}), answers)


@dataclass(frozen=True)
class Crafts(Attack):
    vector: torch.Tensor

    def craft(self, view, receiver, ctx):
        return self.vector


@pytest.mark.parametrize(
    "crafted", [torch.zeros(5), torch.zeros(7), torch.zeros(6, dtype=torch.float64), torch.zeros(6).to_sparse()]
)
def test_a_vector_of_another_form_is_the_attacks_error(crafted):
    # cut to size it would be sent, and a double would be dropped by the server as if the rule had done it
    mod = attack_mod(Crafts(crafted), nodes=NODES)

    with pytest.raises(ConfigurationError, match=r"Crafts must craft a vector of shape \(6,\) and type torch.float32"):
        mod(task(), client(), trains)


def test_a_vector_that_requires_gradients_is_sent():
    mod = attack_mod(Crafts(torch.arange(6.0).requires_grad_()), nodes=NODES)

    assert numbers(mod(task(), client(), trains)) == {"bias": [0, 1], "weight": [[2, 3], [4, 5]], "steps": 7}


@pytest.mark.parametrize(
    ("received", "sent"),
    [(SENT, arrays([[np.nan, 1], [1, 1]], [0, 0])), (arrays([[np.inf, 1], [1, 1]], [0, 0]), TRAINED)],
)
def test_models_that_are_not_finite_are_sent_as_they_are(received, sent):
    def answers(message, context):
        return Message(RecordDict({"arrays": sent}), reply_to=message)

    reply = attack_mod(Scaling(), nodes=NODES)(task(received=received), client(), answers)

    assert reply.content["arrays"] is sent


def images():
    return LabelledData(torch.zeros(20, 1, 6, 6), torch.ones(20, dtype=torch.int64), 2, (0.0, 1.0))


def test_an_attackers_data_are_poisoned_as_in_a_decentralised_run():
    ours = poisoned("backdoor", images(), 4, 3, nodes=NODES, params={"size": 2}, seed=5)
    theirs = Backdoor(size=2).poison(images(), AttackContext(4, 3, 0, frozenset(NODES), {}, lr=0.1, seed=5))

    assert torch.equal(ours.inputs, theirs.inputs)
    assert torch.equal(ours.labels, theirs.labels)
    assert int((ours.labels == 0).sum()) == 10


def test_everybody_elses_data_are_returned_as_they_are():
    data = images()

    assert poisoned(Backdoor(), data, 0, 1, nodes=NODES) is data


def test_attacks_that_use_the_model_get_it():
    data = small_data()
    attack = BackGradient(steps=2, outer_steps=1)

    changed = poisoned(attack, data, 1, 1, nodes=NODES, lr=0.1, learner=linear_learner(12), base=torch.zeros(12))

    assert not torch.equal(changed.inputs, data.inputs)
    with pytest.raises(ConfigurationError, match="needs the local model"):
        poisoned(attack, data, 1, 1, nodes=NODES)
