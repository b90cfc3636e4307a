"""What the ServerApp makes of replies, without a network: the replies are told, the hub is the one of the test."""

import json
import time
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SUPERLINK_NODE_ID
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.server.superlink.linkstate.in_memory_linkstate import RunRecord
from flwr.simulation.run_simulation import NOOP_FEDERATION_ID, Task
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid.inmemory_grid import InMemoryGrid

from flower_dfl import codec
from flower_dfl.checkpoint import load_checkpoint
from flower_dfl.client_app import app
from flower_dfl.config import CheckpointConfig, flatten, parse
from flower_dfl.engines.local import run_local
from flower_dfl.errors import LostError, NodeFailedError, TransportError
from flower_dfl.experiment import build_rules
from flower_dfl.network import build_network
from flower_dfl.node import NodeFacts, Report
from flower_dfl.records import RunWriter, read_lines
from flower_dfl.rounds import Failure, play_rounds
from flower_dfl.server_app import _WORKER_DIED, _Team
from flower_dfl.transport.mailbox import Mailbox
from flower_dfl.transport.relay import MODEL, Relay
from flower_dfl.types import Update
from flower_dfl.wire import DIGESTS, FACTS, FAILURE, REPORT, STEP

BASE = {"num-nodes": 4, "num-byzantine": 1, "topology.name": "complete", "attack.name": "alie"}
DIED = Failure(f"{_WORKER_DIED}: killed")
SILENT = Failure("no answer for 930 s")
ATTACKER = 3


class FakeMailbox(Mailbox):
    """A mailbox without Ray: who has committed which message, and who has sent letters in which round."""

    def __init__(self, committed=(), sent=(), begun=()):
        self.name = "mailbox-of-the-test"
        self.committed, self.letters, self.begun = set(committed), set(sent), set(begun)

    def progress(self, node, message):
        if (node, message) in self.committed:
            return "committed:" + Report(node, message - 1, accuracy=0.5).to_json()
        return "begun" if (node, message) in self.begun else None

    def letters_of(self, sender, round):
        return {0: Update(sender, round, torch.zeros(2))} if (sender, round) in self.letters else {}


class DeadMailbox(FakeMailbox):
    def progress(self, node, message):
        raise LostError("the mailbox is dead")

    letters_of = progress


def outcome(hub, reply, wave="play", message=2, node=ATTACKER):
    """What a node's step comes to; a dead worker's message is delivered twice at most."""
    config = parse(BASE | {"transport": "relay" if isinstance(hub, Relay) else "mailbox"})
    team = _Team(None, config, build_network(config), build_rules(config)[1])
    team._hub = hub
    team._ask = lambda contents, kind: dict.fromkeys(contents, reply)
    return team.step(wave, message, [node])[node]


def failed(cause, *, lost=False):
    return RecordDict({FAILURE: ConfigRecord({"node": ATTACKER, "error": cause, "lost": lost})})


def reported(text):
    return RecordDict({REPORT: ConfigRecord({"json": text})})


def changed(**values):
    """A report of the attacker with some values of another kind."""
    return json.dumps(json.loads(Report(ATTACKER, 1).to_json()) | values)


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch):
    monkeypatch.setattr("flower_dfl.server_app._REDELIVERY_PAUSE", 0.0)


@pytest.mark.parametrize("reply", [DIED, SILENT, failed("TransportError: the mailbox did not answer within 600 s")])
def test_a_step_that_was_handed_in_counts_whatever_became_of_its_reply(reply):
    found = outcome(FakeMailbox(committed=[(ATTACKER, 2)]), reply)

    assert (found.node, found.round, found.accuracy) == (ATTACKER, 1, 0.5)


@pytest.mark.parametrize("reply", [DIED, SILENT])
def test_an_attacker_that_has_not_struck_has_failed_though_it_has_played(reply):
    assert outcome(FakeMailbox(committed=[(ATTACKER, 2)]), reply, "strike") == reply


def test_an_attacker_that_died_after_it_struck_has_struck():
    assert outcome(FakeMailbox(committed=[(ATTACKER, 2)], sent=[(ATTACKER, 2)]), DIED, "strike") is None


def test_a_step_that_a_worker_died_under_has_failed():
    assert outcome(FakeMailbox(begun=[(ATTACKER, 2)]), DIED) == DIED


@pytest.mark.parametrize("wave", ["play", "strike"])
def test_a_failure_keeps_its_cause_where_the_mailbox_is_dead_too(wave):
    assert outcome(DeadMailbox(), DIED, wave) == DIED
    assert outcome(DeadMailbox(), failed("LostError: gone", lost=True), wave) == Failure("LostError: gone", True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "that cannot be read: "),
        ("[]", "that cannot be read: "),
        ('{"node": 3}', "that cannot be read: "),
        (changed(accuracy=float("nan")), "that cannot be read: accuracy and attack success rate must be in [0, 1]"),
        (changed(accuracy=17.0), "that cannot be read: accuracy and attack success rate must be in [0, 1]"),
        ("[" * 200_000, "that cannot be read: the text is nested too deeply"),
        (changed(seconds={"train": 10**400}), "that cannot be read: seconds, bytes and budget must be finite and not "),
        (changed(bytes_received=-5), "that cannot be read: seconds, bytes and budget must be finite and not "),
        (changed(weights={"0": 10**400}), "that cannot be read: weights and scores must be numbers"),
        (changed(accuracy="0.5"), "that cannot be read: accuracy must be float or NoneType, got '0.5' (str)"),
        (changed(seconds={"train": "b"}), "that cannot be read: "),
        (changed(bytes_received="7"), "that cannot be read: bytes_received must be int, got '7' (str)"),
        (changed(missing={"1": []}), "that cannot be read: flags and reasons must be text"),
        (changed(flags=[1]), "that cannot be read: flags and reasons must be text"),
        (changed(weights={"0": "1"}), "that cannot be read: weights and scores must be numbers"),
        (changed(scores={"distance": {"0": None}}), "that cannot be read: weights and scores must be numbers"),
        (changed(rejections=[{"sender": "0", "reason": ""}]), "that cannot be read: senders must be whole numbers"),
        (Report(0, 1).to_json(), "of node 0, round 1; expected round 1"),
        (Report(ATTACKER, 7).to_json(), "of node 3, round 7; expected round 1"),
    ],
)
def test_a_report_that_cannot_be_the_nodes_is_its_failure_and_its_letters_do_not_count(text, said):
    reply, relay = reported(text), Relay(1)
    reply["letters"] = ConfigRecord({"to-0": [0], "data-0": b"letter"})

    found = outcome(relay, reply)

    assert isinstance(found, Failure)
    assert found.cause.startswith(f"node 3 sent a report {said}")
    assert relay.letters_for(0, [(ATTACKER, 2)])["letters"] == {}


@pytest.mark.parametrize("digests", [(1, 2), {0: 1}, {"0": torch.ones(1)}])
def test_digests_that_are_none_make_the_report_a_failure(digests):
    reply = reported(Report(ATTACKER, 1).to_json())
    reply[DIGESTS] = ConfigRecord({"data": codec.pack(digests)})

    assert isinstance(outcome(Relay(1), reply), Failure)


def test_a_failure_without_words_is_a_failure():
    assert outcome(Relay(1), RecordDict({FAILURE: ConfigRecord({"x": 1})})) == Failure("it did not say why", False)


def test_a_handshake_without_facts_is_an_error_of_the_engine(monkeypatch):
    monkeypatch.setattr("flower_dfl.server_app._wait_for_nodes", lambda grid, expected: list(range(expected)))
    config = parse(BASE)
    team = _Team(None, config, build_network(config), None)
    team._ask = lambda contents, kind: dict.fromkeys(contents, RecordDict())

    with pytest.raises(TransportError, match="expected a record 'facts' in a reply"):
        team.shake_hands()


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        *(
            (RecordDict({FACTS: ConfigRecord({"json": text})}), "sent data facts that cannot be read: ")
            for text in ("[" * 200_000, "[]", '{"node": "a", "num_examples": 1, "label_counts": []}')
        ),
        *(
            (
                RecordDict(
                    {FACTS: ConfigRecord({"json": f'{{"node": 0, "num_examples": {size}, "label_counts": {of}}}'})}
                ),
                "sent data facts that cannot be read: numbers of samples must be whole and not negative",
            )
            for size, of in ((3, '["a"]'), (3, "[NaN]"), (3, "[-1]"), (-3, "[3]"), (3, "[1.5]"), (3, "[true]"))
        ),
        (Failure("it was late"), "failed in the handshake: it was late"),
    ],
    ids=["deep", "a list", "other types", "text", "nan", "negative", "negative size", "float", "bool", "no reply"],
)
def test_who_fails_before_its_number_is_known_is_named_by_flowers_identity(monkeypatch, reply, error):
    monkeypatch.setattr(
        "flower_dfl.server_app._wait_for_nodes", lambda grid, expected: [70 + n for n in range(expected)]
    )
    config = parse(BASE)
    team = _Team(None, config, build_network(config), None)
    team._ask = lambda contents, kind: dict.fromkeys(contents, reply)

    with pytest.raises(NodeFailedError, match=f"^SuperNode 70 {error}"):
        team.shake_hands()


def test_a_failure_that_names_no_node_is_named_by_flowers_identity(monkeypatch):
    monkeypatch.setattr("flower_dfl.server_app._wait_for_nodes", lambda grid, expected: list(range(70, 70 + expected)))
    config = parse(BASE)
    team = _Team(None, config, build_network(config), None)
    team._ask = lambda contents, kind: dict.fromkeys(contents, RecordDict({FAILURE: ConfigRecord({"x": 1})}))

    with pytest.raises(NodeFailedError, match=r"^node at SuperNode 70 failed in the handshake: it did not say why$"):
        team.shake_hands()


def greeted(monkeypatch, deaths):
    """Shake hands with four nodes of which node 2 loses its worker so many times; return facts and who was greeted."""
    monkeypatch.setattr("flower_dfl.server_app._wait_for_nodes", lambda grid, expected: list(range(expected)))
    config = parse(BASE)
    team = _Team(None, config, build_network(config), None)
    asked = []

    def ask(contents, kind):
        asked.append(list(contents))
        facts = {n: RecordDict({FACTS: ConfigRecord({"json": NodeFacts(n, 1, (1,)).to_json()})}) for n in contents}
        return facts | ({2: DIED} if len(asked) <= deaths else {})

    team._ask = ask
    return asked, team.shake_hands


def test_who_loses_its_worker_in_the_handshake_is_greeted_again(monkeypatch):
    asked, shake_hands = greeted(monkeypatch, deaths=2)

    assert [facts.node for facts in shake_hands()] == [0, 1, 2, 3]
    assert asked == [[0, 1, 2, 3], [2], [2]]


def test_who_always_loses_its_worker_in_the_handshake_has_failed(monkeypatch):
    asked, shake_hands = greeted(monkeypatch, deaths=1000)

    with pytest.raises(NodeFailedError, match=r"^SuperNode 2 failed in the handshake: its worker process died"):
        shake_hands()
    assert len(asked) == 10


class Nodes:
    """Nodes that play in this process what the server asks of them by Flower's messages; some fail as told."""

    def __init__(self, config, faults=()):
        self.config = config
        self.states = [RecordDict() for _ in range(config.num_nodes)]
        self.faults = list(faults)

    def ask(self, contents, kind):
        del kind
        return {node: self._answer(node, content) for node, content in contents.items()}

    def _answer(self, node, content):
        order = content.config_records[STEP]
        fault = (order["kind"], order["message"], node)
        context = Context(1, node, {"partition-id": node}, self.states[node], dict(flatten(self.config)))
        if fault in self.faults:
            self.faults.remove(fault)
            return SILENT
        reply = app(Message(content, dst_node_id=node, message_type="train"), context).content
        if (*fault, "reply lost") in self.faults:
            self.faults.remove((*fault, "reply lost"))
            return SILENT
        return reply


TROUBLED = {
    "num-nodes": 5,
    "num-byzantine": 2,
    "num-rounds": 4,
    "transport": "relay",
    "topology.name": "complete",
    "strategy.name": "average",
    "attack.name": "alie",
    "attack.params": "z = 1.0",
    "model.name": "tests.models_for_tests:batch_norm",
    "data.num-train": 100,
    "data.num-test": 40,
    "train.device": "cpu",
    "eval.every": 3,
    "checkpoint.every": 1,
    "network.drop-rate": 0.1,
    "network.late-rate": 0.4,
    "network.staleness": 1,
    "network.churn": 0.2,
    "network.absence": 1,
    "schedule.name": "edge-failures",
    "schedule.params": "p = 0.2",
}


@pytest.fixture(params=["alie", "sign-flip", "dissensus"])
def config(request):
    """One attack of each kind of knowledge would see what it must not, or not see what it must."""
    params = {"alie": "z = 1.0"}.get(request.param, "")
    return parse(TROUBLED | {"attack.name": request.param, "attack.params": params})


@pytest.fixture
def _in_a_task(monkeypatch):
    """Messages can be made only inside a Flower task; its engine sets this, here the test does."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def play(config, folder, faults=(), *, last=None):
    """Play, or go on with, a run of nodes in this process behind the relay."""
    network, attack = build_network(config), build_rules(config)[1]
    team, checkpoint = _Team(None, config, network, attack), load_checkpoint(folder, config)
    team._ask = Nodes(config, faults).ask
    with RunWriter(folder, config, network, "flower+relay", checkpoint and checkpoint.mark) as writer:
        team.restore(checkpoint)
        play_rounds(config, network, attack, team, writer, resumed=checkpoint, last=last)


def results(folder):
    """What a run leaves, without clock times and failures."""
    records = [
        [line | {"seconds": None} for line in read_lines(folder / name)] for name in ("rounds.jsonl", "edges.jsonl")
    ]
    return records, {path.name: path.read_bytes() for path in (folder / "checkpoint").glob("*.safetensors")}


@pytest.fixture
def whole(config, tmp_path):
    """The same run in the local engine, without failures."""
    folder = tmp_path / "whole"
    folder.mkdir()
    run_local(config, folder)
    return folder


@pytest.mark.usefixtures("_in_a_task")
def test_the_relay_gives_the_bytes_of_the_local_engine_in_a_troubled_network(config, whole, tmp_path):
    play(config, tmp_path)

    assert results(tmp_path) == results(whole)


@pytest.mark.usefixtures("_in_a_task")
def test_a_resumed_relay_gives_them_too(config, whole, tmp_path):
    for last in (1, 2, 3, None):
        play(config, tmp_path, last=last)

    assert results(tmp_path) == results(whole)


@pytest.mark.usefixtures("_in_a_task")
@pytest.mark.parametrize("every", [0, 1])
def test_the_relay_gives_them_after_failures_and_lost_replies_where_failures_are_mended(config, whole, tmp_path, every):
    faults = [("play", 1, 0), ("strike", 1, 3), ("play", 3, 4), ("play", 4, 1, "reply lost"), ("play", 5, 2)]
    mended = replace(config, on_node_failure="restart", checkpoint=CheckpointConfig(every))

    play(mended, tmp_path, faults)

    assert results(tmp_path) == results(whole)


@pytest.mark.usefixtures("_in_a_task")
def test_the_relay_goes_on_without_a_node_that_always_fails(config, tmp_path):
    faults = [("play", message, 1) for message in range(1, 6)]

    play(replace(config, on_node_failure="skip"), tmp_path, faults)

    lines = read_lines(tmp_path / "rounds.jsonl")
    assert [line["flags"] for line in lines if line["node"] == 1] == [["failed"]] * 4


class Careless(Nodes):
    """Nodes of which one puts another model than was asked for, or none, into its reply to a message."""

    def __init__(self, config, node, message, model):
        super().__init__(config)
        self.wrong = (node, message)
        self.model = model

    def _answer(self, node, content):
        reply = super()._answer(node, content)
        if (node, content.config_records[STEP]["message"]) == self.wrong:
            self.wrong = None  # it does so once
            reply.pop(MODEL)
            if self.model is not None:
                reply[MODEL] = ConfigRecord({"data": codec.pack(self.model)})
        return reply


@pytest.mark.usefixtures("_in_a_task")
@pytest.mark.parametrize("policy", ["stop", "skip", "restart"])
@pytest.mark.parametrize(
    ("model", "said"),
    [(None, "expected a model of node 0, got 0 bytes"), ((torch.zeros(9), torch.zeros(8)), "got (9, 8) from node 0")],
)
def test_a_model_that_is_missing_or_of_another_size_is_its_nodes_failure(monkeypatch, tmp_path, policy, model, said):
    config = parse(TROUBLED | {"num-rounds": 3, "on-node-failure": policy})
    nodes = Careless(config, 0, 4, model)
    monkeypatch.setattr(f"{__name__}.Nodes", lambda config, faults: nodes)

    with pytest.raises(NodeFailedError, match=r"^node 0 failed ") if policy == "stop" else nullcontext():
        play(config, tmp_path)

    failures = read_lines(tmp_path / "failures.jsonl")
    # the step is tried again, and then the whole run goes back
    assert [failure["node"] for failure in failures] == ([0, -1] if policy == "restart" else [0])
    assert all(said in failure["cause"] for failure in failures)
    measured = [line["distance_to_mean"] for line in read_lines(tmp_path / "rounds.jsonl") if line["round"] == 3]
    expected = {"stop": [], "skip": [False, True, True, False, False], "restart": [True] * 3 + [False] * 2}
    assert [value is not None for value in measured] == expected[policy]


@pytest.mark.parametrize("taken", [True, False], ids=["its heartbeat stops", "the message is not taken"])
def test_a_supernode_that_is_gone_is_its_nodes_failure_though_the_superlink_answers(monkeypatch, taken):
    factory = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory())
    state = factory.state()
    run = Run.create_empty(run_id=7)
    run.primary_task_id, run.federation_id = 1, NOOP_FEDERATION_ID
    for name, value in (("_task_id", 1), ("_run_id", 7), ("_node_id", SUPERLINK_NODE_ID)):
        monkeypatch.setattr(TaskIdentity, name, value)
    state.run_ids[7], state.task_store[1] = RunRecord(run=run), Task(task_id=1, run_id=7)
    grid = InMemoryGrid(state_factory=factory)
    grid.set_run(run)
    addresses = [state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, bytes([i]) * 32, 30) for i in range(3)]
    for address in addresses:
        state.acknowledge_node_heartbeat(node_id=address, heartbeat_interval=30)
    push = grid.push_messages

    def pushed(messages):
        ids = push(messages) if taken else [""] * len(messages)
        state.nodes[addresses[1]].online_until = time.time() - 1
        return ids

    monkeypatch.setattr(grid, "push_messages", pushed)
    config = parse({"num-nodes": 3, "num-byzantine": 0, "topology.name": "complete", "attack.name": "none"})
    team = _Team(grid, config, build_network(config), None)
    team._addresses = dict(enumerate(addresses))

    found = team._ask({1: RecordDict({STEP: ConfigRecord({"a": 1})})}, MessageType.TRAIN)

    assert isinstance(found[1], Failure)
    assert ("Node Unavailable" if taken else "the SuperLink took no message to it") in found[1].cause
