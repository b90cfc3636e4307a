"""The mailbox on a real Ray of its own."""

import subprocess
import sys
from dataclasses import replace

import pytest
import ray
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common.serde import recorddict_to_proto
from flwr.supercore.task_identity import TaskIdentity

from flower_dfl.client_app import app
from flower_dfl.config import flatten, parse
from flower_dfl.errors import LostError
from flower_dfl.training import ModelState
from flower_dfl.transport.base import Memory
from flower_dfl.transport.mailbox import Mailbox, MailboxTransport
from flower_dfl.transport.slots import Slots
from flower_dfl.types import Update
from flower_dfl.wire import FAILURE, STEP

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # Ray's own, at its end
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
]

TIMEOUT = 200.0
RUN = {
    "num-nodes": 2,
    "num-byzantine": 0,
    "num-rounds": 2,
    "topology.name": "complete",
    "strategy.name": "dfl-detector",  # remembers several models
    "attack.name": "none",
    "model.name": "fc",
    "data.num-train": 40,
    "data.num-test": 20,
    "train.device": "cpu",
    "node-timeout": TIMEOUT,
}
LARGE = 20_000  # floats: beyond what travels with a call
NOTHING = ({}, [])


@pytest.fixture(scope="module", autouse=True)
def _ray():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or Ray warns
        ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def mailbox(_ray):
    """One for all tests, since each is a process: every test has nodes of its own."""
    mailbox = Mailbox(TIMEOUT, rounds_kept=1)
    yield mailbox
    mailbox.close()


@pytest.fixture(scope="module")
def transport(mailbox):
    return MailboxTransport(mailbox.name, TIMEOUT)


def half_step(sender=0, round=1, size=4, value=1.0, **changes):
    return Update(sender, round, torch.full((size,), value), base=torch.zeros(size), num_examples=5, **changes)


def memory(own=None, round=1, size=4, state=None):
    start = ModelState(torch.zeros(size), torch.arange(3.0), (torch.tensor(7),))
    return Memory(round, start, own, state, (torch.tensor(8),), {"train": 0.5})


def test_a_memory_comes_back_as_it_was(transport):
    own = half_step(size=LARGE, digest=torch.ones(2, 2))
    kept = memory(own, size=LARGE, state={"momentum": (torch.ones(LARGE), 3)})

    transport.commit(0, kept, {}, "")
    again = transport.recall(0, 2)

    assert torch.equal(again.half_step.vector, own.vector)
    assert torch.equal(again.half_step.digest, own.digest)
    assert torch.equal(again.half_step.base, kept.start.vector)
    assert again.start.buffers.tolist() == [0, 1, 2]
    assert [int(b) for b in (*again.start.integer_buffers, *again.integer_buffers)] == [7, 8]
    assert torch.equal(again.strategy_state["momentum"][0], torch.ones(LARGE))
    assert (again.round, again.seconds) == (1, {"train": 0.5})


def test_a_node_that_has_never_committed_has_no_memory(transport, mailbox):
    assert transport.recall(5, 1) is None
    with pytest.raises(LostError, match=r"^the mailbox has no memory of node 5$"):
        dict(mailbox.memories([5]))


def test_letters_reach_their_receivers_and_nobody_else(transport):
    mine, yours = half_step(10, value=1.0), half_step(10, value=2.0)
    transport.commit(10, memory(mine), {1: mine, 2: yours, 3: mine}, "")

    assert [[u.vector[0].item() for u in transport.collect(node, [(10, 1), (19, 1)])] for node in (1, 2, 3, 4)] == [
        [1], [2], [1], [],
    ]  # fmt: skip


def test_a_letter_that_is_published_later_is_as_good_as_one_that_came_with_the_step(transport):
    transport.commit(20, memory(half_step(20)), {}, "")
    transport.publish(20, 1, {1: half_step(20, value=3.0)})

    assert [u.vector[0].item() for u in transport.collect(1, [(20, 1)])] == [3]


def test_an_attacker_sees_the_half_steps_of_those_who_take_part(transport):
    transport.commit(30, memory(half_step(30)), {}, "")
    transport.commit(31, memory(None), {}, "")

    assert [u.sender for u in transport.half_steps([31, 30, 37], 1)] == [30]
    assert transport.half_steps([30], 1)[0].base is not None
    assert transport.half_steps([30], 2) == ()


def test_a_large_tensor_is_stored_once_and_read_without_a_copy(transport, mailbox):
    own = half_step(40, size=LARGE)
    transport.commit(40, memory(own, size=LARGE), {1: own, 2: replace(own, base=None)}, "")

    routes, parcels = ray.get(mailbox._actor.sent.remote(40, 1))
    remembered = ray.get(mailbox._actor.memory.remote(40))
    read = [transport.collect(receiver, [(40, 1)])[0].vector for receiver in (1, 2)]

    assert routes == {1: 0, 2: 1}
    references = [{str(i) for i in parcel[1] if isinstance(i, ray.ObjectRef)} for parcel in (*parcels, remembered)]
    assert len(references[0] & references[1] & references[2]) == 1
    assert read[0].data_ptr() == read[1].data_ptr()
    assert read[0].data_ptr() % 64 == 0


def test_small_tensors_travel_with_the_call(transport, mailbox):
    transport.commit(50, memory(half_step(50)), {1: half_step(50)}, "")

    _, (parcel,) = ray.get(mailbox._actor.sent.remote(50, 1))

    assert not any(isinstance(item, ray.ObjectRef) for item in parcel[1])


def test_the_server_knows_whether_a_step_has_begun_or_is_done(transport, mailbox):
    nothing = mailbox.progress(60, 1)
    transport.recall(60, 1)
    begun = mailbox.progress(60, 1)
    transport.commit(60, memory(half_step(60)), {}, "the report")

    assert (nothing, begun, mailbox.progress(60, 1), mailbox.progress(60, 2)) == (
        None, "begun", "committed:the report", None,
    )  # fmt: skip


def test_a_step_that_was_handed_in_cannot_be_repeated(transport):
    transport.commit(61, memory(half_step(61, round=2), round=2), {}, "")

    with pytest.raises(LostError, match=r"^node 61 has entered round 2 already; its reply was lost$"):
        transport.recall(61, 2)
    assert transport.recall(61, 3).round == 2


@pytest.mark.parametrize("size", [2, LARGE])
def test_consensus_is_measured_on_what_the_mailbox_keeps(transport, mailbox, size):
    # starts (0, 0, ...) and (2, 2, ...): the mean is (1, 1, ...), both are sqrt(size) away
    for node in (70, 71):
        begun = replace(memory(), start=ModelState(torch.full((size,), 2.0 * (node - 70)), torch.empty(0)))
        transport.commit(node, begun, {}, "")

    assert mailbox.distances_to_mean([70, 71]) == pytest.approx([size**0.5] * 2)


def test_the_process_that_keeps_the_letters_starts_without_torch():
    command = "import sys; import flower_dfl.transport.slots; print('torch' in sys.modules, 'flwr' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.split() == ["False", "False"]


def test_the_process_that_keeps_the_letters_may_take_its_time_to_start():
    Mailbox(timeout=1e-3, rounds_kept=1).close()


def test_what_was_saved_can_be_restored_and_a_mailbox_that_died_is_lost_to_everybody(transport, mailbox):
    letter = half_step(80, size=LARGE)
    transport.commit(80, memory(letter, size=LARGE), {1: letter}, "")
    saved, sent = dict(mailbox.memories([80])), mailbox.letters_of(80, 1)

    other = Mailbox(TIMEOUT, rounds_kept=1)
    other.restore(saved, [(80, 1, sent)])
    there = MailboxTransport(other.name, TIMEOUT)
    again, (found,) = there.recall(80, 2), there.collect(1, [(80, 1)])
    other.close()

    assert torch.equal(again.half_step.vector, letter.vector)
    assert torch.equal(found.vector, letter.vector)
    with pytest.raises(LostError, match=r"^the mailbox or what it held is lost: "):
        there.recall(80, 2)
    with pytest.raises(LostError, match=r"^the mailbox or what it held is lost: .+$"):
        there.commit(80, saved[80], {}, "")
    with pytest.raises(LostError, match=r"^the mailbox 'mailbox-0' is gone$"):
        MailboxTransport("mailbox-0", TIMEOUT)  # one that this process has not found before


def test_only_the_newest_memory_of_a_node_is_kept():
    slots = Slots(rounds_kept=1)

    for round in (1, 2):
        slots.commit(0, round, (f"memory of round {round}", []), NOTHING, "")

    assert slots.recall(0, 3) == ("memory of round 2", [])


@pytest.mark.parametrize("kept", [1, 2])
def test_letters_are_kept_for_as_long_as_they_can_arrive(kept):
    slots = Slots(rounds_kept=kept)

    for round in (1, 2, 3, 4):
        slots.commit(0, round, ("memory", []), ({1: 0}, [(f"letter of round {round}", [])]), "")

    found = slots.letters(1, [(0, round) for round in (1, 2, 3, 4)])
    assert [skeleton[-1] for skeleton, _ in found] == ["1", "2", "3", "4"][3 - kept :]


def test_no_model_is_in_the_replies_of_a_node_or_in_what_flower_keeps_for_it(monkeypatch):
    for name in ("_task_id", "_run_id", "_node_id"):  # messages can be made only inside a Flower task
        monkeypatch.setattr(TaskIdentity, name, 1)
    config = parse(RUN)
    mailbox = Mailbox(TIMEOUT, rounds_kept=1)
    states, sizes = [RecordDict(), RecordDict()], []

    for message in (1, 2, 3):
        order = {"kind": "play", "message": message, "mailbox": mailbox.name, "wanted": []}
        for node, state in enumerate(states):
            context = Context(1, node, {"partition-id": node, "num-partitions": 2}, state, flatten(config))
            sent = Message(RecordDict({STEP: ConfigRecord(order)}), dst_node_id=node, message_type="train")
            reply = app(sent, context).content
            assert FAILURE not in reply
            sizes += [recorddict_to_proto(content).ByteSize() for content in (reply, context.state)]
    kept = dict(mailbox.memories([0, 1]))
    mailbox.close()

    assert max(sizes) < 10_000
    assert [memory.start.vector.nbytes > 400_000 for memory in kept.values()] == [True, True]
