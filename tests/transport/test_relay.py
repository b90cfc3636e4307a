import random
import re

import pytest
import torch
from flwr.app import ConfigRecord, RecordDict

from flower_dfl import codec
from flower_dfl.errors import LostError, TransportError
from flower_dfl.ingress import Expectation, screen
from flower_dfl.training import ModelState
from flower_dfl.transport.base import Memory, update_to_tree
from flower_dfl.transport.relay import HALF_STEP, MEMORY, MODEL, Relay, RelayTransport, open_letter
from flower_dfl.types import Rejection, Update

LARGEST = 10_000


def letter(sender=1, value=1.0, round=1, **changes):
    fields = {"base": torch.zeros(2), "num_examples": 10, "batch_size": 5} | changes
    return Update(sender, round, torch.full((2,), value), **fields)


def packed(update, *, with_digest=False):
    return codec.pack(update_to_tree(update, with_base=True, with_digest=with_digest))


def memory(value, half_step=None, round=1):
    return Memory(round, ModelState(torch.full((2,), value), torch.empty(0)), half_step, strategy_state=None)


def transport(incoming=None, state=None, reply=None, largest=LARGEST, wanted=()):
    incoming, state, reply = (RecordDict() if record is None else record for record in (incoming, state, reply))
    return RelayTransport(incoming, state, reply, largest, wanted)


def delivered(relay, receiver, round=1):
    """What a node collects from the relay's next message."""
    expected = [(sender, round) for sender in range(10)]
    return transport(RecordDict(dict(relay.letters_for(receiver, expected)))).collect(receiver, expected)


def test_a_good_letter_is_opened_as_it_was_sent():
    opened = open_letter(1, packed(letter(num_examples=7)), LARGEST)

    assert opened.sender == 1
    assert opened.vector.tolist() == [1, 1]
    assert opened.base.tolist() == [0, 0]
    assert opened.num_examples == 7


def test_the_sender_is_the_one_on_the_envelope():
    assert open_letter(4, packed(letter(sender=2)), LARGEST).sender == 4


def test_a_digest_inside_a_letter_does_not_count():
    data = packed(letter(digest=torch.ones(3)), with_digest=True)

    assert open_letter(1, data, LARGEST).digest is None


def test_a_letter_beyond_the_largest_size_is_not_even_unpacked():
    data = packed(letter())

    assert open_letter(1, data, len(data)).round == 1
    assert open_letter(1, data, len(data) - 1).round == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04K\x01.",  # a pickle
        b"\xff" * 100,
        codec.pack(None),
        codec.pack(3),
        codec.pack([1, 2]),
        codec.pack(torch.zeros(2)),
        codec.pack({}),
        codec.pack({1: 2}),
        codec.pack({"sender": 1, "round": 1}),
        codec.pack({"sender": 1, "round": 1, "vector": torch.zeros(2), "rank": 1}),
    ],
)
def test_what_is_no_letter_becomes_an_empty_one_that_ingress_rejects(data):
    opened = open_letter(1, data, LARGEST)

    accepted, rejected = screen([opened], Expectation(frozenset({1}), round=1, dimension=2))
    assert accepted == ()
    assert rejected == (Rejection(1, "wrong round"),)


def test_no_bytes_can_make_opening_or_screening_raise():
    draw = random.Random(0)  # seeded, so that a failure can be repeated
    good = packed(letter())
    expected = Expectation(frozenset({1}), round=1, dimension=2, with_base=True)

    for attempt in range(2_000):
        data = bytearray(good)
        for _ in range(draw.randint(1, 8)):
            data[draw.randrange(len(data))] = draw.choice((draw.randrange(256), *b'0123456789"{}[]:,FUI'))
        if attempt % 4 == 0:
            data = data[: draw.randrange(len(data))]
        if attempt % 10 == 0:
            data = draw.randbytes(draw.randrange(300))
        accepted, rejected = screen([open_letter(1, bytes(data), LARGEST)], expected)

        assert len(accepted) + len(rejected) == 1


def test_a_published_letter_travels_through_the_relay_to_its_receivers_only():
    reply, relay = RecordDict(), Relay(1)
    sender = transport(reply=reply)
    common, special = letter(value=1.0), letter(value=2.0)
    sender.publish(1, 1, {2: common, 3: special, 5: common})

    relay.accept(1, 1, reply)

    assert [u.vector.tolist() for u in delivered(relay, 2)] == [[1, 1]]
    assert [u.vector.tolist() for u in delivered(relay, 3)] == [[2, 2]]
    assert [u.vector.tolist() for u in delivered(relay, 5)] == [[1, 1]]
    assert delivered(relay, 4) == ()


def test_a_letter_to_several_receivers_is_packed_once():
    reply, common = RecordDict(), letter()

    transport(reply=reply).publish(1, 1, {2: common, 3: common, 5: letter(value=2.0)})

    record = reply.config_records["letters"]
    assert {key: value for key, value in record.items() if key.startswith("to-")} == {"to-0": [2, 3], "to-1": [5]}


def test_a_digest_never_travels():
    reply = RecordDict()

    transport(reply=reply).publish(1, 1, {2: letter(digest=torch.ones(3))})

    assert "digest" not in codec.unpack(reply.config_records["letters"]["data-0"])


@pytest.mark.parametrize("kept", [1, 2])
def test_letters_are_kept_for_as_long_as_they_can_arrive(kept):
    relay = Relay(kept)

    for round in (1, 2, 3, 4):
        reply = RecordDict()
        transport(reply=reply).publish(1, round, {2: letter()})
        relay.begin(round)
        relay.accept(1, round, reply)

    assert [round for round in (1, 2, 3, 4) if delivered(relay, 2, round)] == [1, 2, 3, 4][3 - kept :]


def test_only_letters_of_the_senders_that_were_asked_for_are_collected():
    incoming = RecordDict({"letters": ConfigRecord({f"{j}/1": packed(letter(j, float(j))) for j in (3, 1, 2)})})

    collected = transport(incoming).collect(0, [(1, 1), (3, 1), (7, 1)])

    assert [u.sender for u in collected] == [1, 3]


def test_a_letter_that_is_no_bytes_is_rejected_and_does_not_raise():
    incoming = RecordDict({"letters": ConfigRecord({"1/1": "text", "2/1": 5})})

    collected = transport(incoming).collect(0, [(1, 1), (2, 1)])

    assert [(u.sender, u.round) for u in collected] == [(1, 0), (2, 0)]


def test_a_letter_larger_than_the_tensors_and_their_overhead_is_rejected():
    incoming = RecordDict(
        {"letters": ConfigRecord({"1/1": packed(letter()), "2/1": packed(letter(buffers=torch.zeros(2_000)))})}
    )

    small, large = transport(incoming, largest=16).collect(0, [(1, 1), (2, 1)])

    assert small.round == 1
    assert large.round == 0


def test_a_message_without_letters_brings_none():
    assert transport().collect(0, [(1, 1), (2, 1)]) == ()


def test_a_memory_survives_in_the_nodes_state():
    state = RecordDict()
    transport(state=state).commit(0, memory(2.0, letter(0, digest=torch.ones(3)), round=3), {}, "")

    again = transport(state=state).recall(0, 4)

    assert again.start.vector.tolist() == [2, 2]
    assert again.half_step.sender == 0
    assert again.half_step.digest.tolist() == [1, 1, 1]  # the node computed it for itself


def test_a_node_without_memory_has_none():
    assert transport().recall(0, 1) is None


def test_a_step_whose_reply_was_lost_cannot_be_repeated():
    state = RecordDict()
    transport(state=state).commit(4, memory(2.0, round=3), {}, "")

    with pytest.raises(LostError, match=r"^node 4 has entered round 3 already; its reply was lost$"):
        transport(state=state).recall(4, 3)


def test_what_the_server_restores_comes_before_what_the_node_remembers():
    state, relay = RecordDict(), Relay(1)
    transport(state=state).commit(0, memory(2.0, round=9), {}, "")
    relay.restore({0: memory(5.0, round=3)}, [(1, 3, {0: letter(round=3)})])

    again = transport(RecordDict(dict(relay.memory_for(0))), state=state).recall(0, 4)

    assert (again.round, again.start.vector.tolist()) == (3, [5, 5])
    assert [u.sender for u in delivered(relay, 0, 3)] == [1]
    relay.accept(0, 4, RecordDict())
    assert relay.memory_for(0) == {}


def test_the_reply_carries_the_model_and_the_half_step_only_where_the_server_asked():
    silent, asked = RecordDict(), RecordDict()

    for reply, wanted in ((silent, ()), (asked, (MODEL, HALF_STEP))):
        transport(reply=reply, wanted=wanted).commit(0, memory(2.0, letter(0, digest=torch.ones(3))), {}, "")

    assert set(silent) == {"letters"}
    assert set(asked) == {"letters", MODEL, HALF_STEP}
    assert "digest" not in codec.unpack(asked.config_records[HALF_STEP]["data"])


def test_a_node_whose_training_is_over_has_no_half_step_to_send():
    reply = RecordDict()

    transport(reply=reply, wanted=(MODEL, HALF_STEP)).commit(0, memory(2.0), {}, "")

    assert set(reply) == {"letters", MODEL}


def test_half_steps_reach_an_attacker_in_order():
    relay = Relay(1)
    for node in (0, 1, 2):
        reply = RecordDict()
        transport(reply=reply, wanted=(HALF_STEP,)).commit(node, memory(0.0, letter(node, float(node))), {}, "")
        relay.accept(node, 1, reply)

    seen = transport(RecordDict(dict(relay.half_steps_of([2, 0])))).half_steps([2, 0], 1)

    assert [u.sender for u in seen] == [2, 0]
    assert [u.vector[0].item() for u in seen] == [2, 0]
    assert seen[0].base.tolist() == [0, 0]


def test_the_server_measures_consensus_and_reads_models_of_those_it_asked():
    # vectors (1, 1) and (3, 3): the mean is (2, 2), both are sqrt(2) away
    relay = Relay(1)
    for node in (0, 1):
        reply = RecordDict()
        transport(reply=reply, wanted=(MODEL,)).commit(node, memory(1.0 + 2 * node), {}, "")
        relay.accept(node, 1, reply)

    assert relay.distances_to_mean([0, 1]) == pytest.approx([2**0.5] * 2)
    assert [(node, kept.start.vector.tolist()) for node, kept in relay.memories([1])] == [(1, [3, 3])]


def test_a_reply_without_records_is_accepted():
    relay = Relay(1)

    relay.accept(0, 1, RecordDict())

    assert delivered(relay, 1) == ()


def test_a_repeated_step_does_not_forget_what_others_have_sent_in_its_round():
    relay, reply = Relay(1), RecordDict()
    relay.begin(1)
    transport(reply=reply, wanted=(HALF_STEP,)).commit(0, memory(0.0, letter(0)), {}, "")
    relay.accept(0, 1, reply)

    relay.begin(1)  # another node's step failed, and is tried again
    assert list(relay.half_steps_of([0])["half-steps"]) == ["0"]

    relay.begin(2)
    assert list(relay.half_steps_of([0])["half-steps"]) == []


def test_a_memory_that_nobody_asked_for_in_time_is_not_taken_for_a_later_one():
    relay, asked, later = Relay(1), RecordDict(), RecordDict()
    relay.begin(2)
    transport(reply=asked, wanted=(MODEL, MEMORY)).commit(0, memory(1.0, round=2), {}, "")
    relay.accept(0, 2, asked)
    relay.begin(3)
    transport(reply=later, wanted=(MODEL,)).commit(0, memory(2.0, round=3), {}, "")
    relay.accept(0, 3, later)

    assert [kept.start.vector.tolist() for _, kept in relay.memories([0])] == [[2, 2]]


def test_a_run_that_goes_back_to_its_beginning_finds_no_memory_there():
    state = RecordDict()
    transport(state=state).commit(4, memory(2.0, round=3), {}, "")

    assert transport(state=state).recall(4, 1) is None


def from_a_liar(routes):
    """A reply with letters to whom and what the liar claims."""
    record = {}
    for index, (receivers, data) in enumerate(routes):
        record |= {f"to-{index}": receivers, f"data-{index}": data}
    return RecordDict({"letters": ConfigRecord(record)})


@pytest.mark.parametrize("receivers", [["2"], [2.0], [True, False], [b"2"], "2", 2, [-1, 2**60]])
def test_receivers_that_are_no_node_get_nothing_now_or_after_a_checkpoint(receivers):
    relay = Relay(2)

    relay.accept(1, 1, from_a_liar([(receivers, packed(letter()))]))

    assert [delivered(relay, receiver) for receiver in (0, 1, 2)] == [()] * 3
    assert not relay.letters_of(1, 1).keys() & {0, 1, 2}


@pytest.mark.parametrize("data", [b"", b"text", codec.pack([1, 2]), packed(letter())])
def test_what_arrives_late_is_rejected_or_accepted_alike_before_and_after_a_checkpoint(data):
    relay, restored = Relay(2), Relay(2)
    relay.accept(1, 1, from_a_liar([([2], data)]))

    restored.restore({}, [(1, 1, relay.letters_of(1, 1))])

    expected = Expectation(frozenset({1}), round=2, dimension=2, staleness=1)
    before, after = (screen(delivered(hub, 2), expected) for hub in (relay, restored))
    assert [u.vector.tolist() for u in after[0]] == [u.vector.tolist() for u in before[0]]
    assert after[1] == before[1]


LIE = {"round": 1, "half_step": None, "strategy_state": None, "integer_buffers": None, "seconds": {}}
LIES = [
    LIE | {"start": ("a", "b", ())},
    LIE | {"start": (torch.ones(2), torch.ones(0), ()), "round": "x"},
    LIE | {"start": (torch.ones(2, 2), torch.ones(0), ())},
    LIE | {"start": (torch.ones(2, dtype=torch.int64), torch.ones(0), ())},
]


@pytest.mark.parametrize("lie", LIES)
def test_instead_of_a_memory_that_is_none_the_last_known_model_counts(lie):
    relay = Relay(1)
    relay.accept(0, 1, RecordDict({MODEL: ConfigRecord({"data": codec.pack((torch.ones(2), torch.ones(0)))})}))
    relay.accept(0, 1, RecordDict({MEMORY: ConfigRecord({"data": codec.pack(lie)})}))

    ((node, found),) = relay.memories([0])

    assert (node, found.round, found.start.vector.tolist()) == (0, 0, [1.0, 1.0])


@pytest.mark.parametrize(
    "data", [b"", b"text", codec.pack(3), codec.pack({"start": 1}), codec.pack([1, 2]), *map(codec.pack, LIES)]
)
def test_a_memory_that_cannot_be_read_is_as_good_as_none(data):
    relay, reply = Relay(1), RecordDict({MEMORY: ConfigRecord({"data": data})})
    relay.accept(0, 1, reply)

    with pytest.raises(LostError, match=r"^no readable model came from node 0$"):
        list(relay.memories([0]))


def model_of(size, buffers=0):
    return RecordDict({MODEL: ConfigRecord({"data": codec.pack((torch.zeros(size), torch.empty(buffers)))})})


def half_step_of(size):
    return RecordDict({HALF_STEP: ConfigRecord({"data": packed(Update(0, 1, torch.zeros(size), torch.empty(0)))})})


@pytest.mark.parametrize(
    ("name", "reply", "said"),
    [
        (MODEL, RecordDict(), "expected a model of node 3, got 0 bytes that hold none"),
        (MODEL, RecordDict({MODEL: ConfigRecord({"data": b"text"})}), "a model of node 3, got 4 bytes that hold none"),
        (MODEL, RecordDict({MODEL: ConfigRecord({"data": "text"})}), "a model of node 3, got 0 bytes that hold none"),
        (MODEL, model_of(9), "expected a model of (parameters, buffer values) = (10, 0) like most nodes', got (9, 0)"),
        (MODEL, model_of(10, 1), "(10, 0) like most nodes', got (10, 1) from node 3"),
        (MEMORY, RecordDict(), "expected a memory of node 3, got 0 bytes that hold none"),
        (HALF_STEP, RecordDict(), "expected a half-step of node 3, got 0 bytes that hold none"),
        (HALF_STEP, half_step_of(9), "(10, 0) like most nodes', got (9, 0) from node 3"),
    ],
)
def test_what_a_node_was_asked_for_must_be_there_and_of_the_size_that_most_have(name, reply, said):
    relay = Relay(1)
    relay.learn_sizes([model_of(9), model_of(10), RecordDict(), model_of(10)])
    relay.learn_sizes([model_of(9)])  # known already
    reply["letters"] = ConfigRecord({"to-0": [0], "data-0": b"letter"})

    with pytest.raises(TransportError, match=re.escape(said)):
        relay.accept(3, 1, reply, [name])

    assert relay.letters_for(0, [(3, 1)])["letters"] == {}
    relay.accept(3, 1, reply)  # nobody asked


def test_good_models_memories_and_half_steps_are_taken_whether_or_not_the_size_is_known():
    relay, reply = Relay(1), RecordDict()
    wanted = (MODEL, MEMORY, HALF_STEP)
    transport(reply=reply, wanted=wanted).commit(0, memory(2.0, letter(0)), {}, "")

    relay.accept(0, 1, reply, wanted)
    relay.learn_sizes([reply])
    relay.accept(0, 1, reply, wanted)

    assert [kept.start.vector.tolist() for _, kept in relay.memories([0])] == [[2, 2]]
