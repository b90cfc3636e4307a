import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.ingress import Expectation, screen
from flower_dfl.types import Rejection, Update

NAN, INF = float("nan"), float("inf")
EXPECTED = Expectation(frozenset({1, 2, 3, 4}), round=5, dimension=3, buffer_size=2, with_base=True)


def good(sender=1, **changes):
    update = Update(
        sender,
        round=5,
        vector=torch.full((3,), float(sender if isinstance(sender, int) else 0)),
        base=torch.zeros(3),
        buffers=torch.zeros(2),
        num_examples=10,
        epochs=1,
        batch_size=5,
    )
    return replace(update, **changes)


FAULTS = {
    "NaN": ({"vector": torch.tensor([0, NAN, 0])}, "vector: not finite"),
    "infinite": ({"vector": torch.tensor([0, 0, -INF])}, "vector: not finite"),
    "too long": ({"vector": torch.zeros(4)}, "vector: wrong shape"),
    "empty": ({"vector": torch.empty(0)}, "vector: wrong shape"),
    "scalar": ({"vector": torch.tensor(1.0)}, "vector: wrong shape"),
    "matrix": ({"vector": torch.zeros(1, 3)}, "vector: wrong shape"),
    "float64": ({"vector": torch.zeros(3, dtype=torch.float64)}, "vector: not float32"),
    "half": ({"vector": torch.zeros(3, dtype=torch.float16)}, "vector: not float32"),
    "integers": ({"vector": torch.zeros(3, dtype=torch.int64)}, "vector: not float32"),
    "complex": ({"vector": torch.zeros(3, dtype=torch.complex64)}, "vector: not float32"),
    "no tensor": ({"vector": [0.0, 0.0, 0.0]}, "vector: not a tensor"),
    "nothing": ({"vector": None}, "vector: not a tensor"),
    "text": ({"vector": "zeros"}, "vector: not a tensor"),
    "sparse": ({"vector": torch.zeros(3).to_sparse()}, "vector: wrong shape"),
    "NaN buffers": ({"buffers": torch.tensor([0, NAN])}, "buffers: not finite"),
    "no buffers": ({"buffers": torch.empty(0)}, "buffers: wrong shape"),
    "buffers are text": ({"buffers": "x"}, "buffers: not a tensor"),
    "no base": ({"base": None}, "base: not a tensor"),
    "short base": ({"base": torch.zeros(2)}, "base: wrong shape"),
    "infinite base": ({"base": torch.tensor([INF, 0, 0])}, "base: not finite"),
    "old": ({"round": 4}, "wrong round"),
    "early": ({"round": 6}, "wrong round"),
    "round is a float": ({"round": 5.0}, "wrong round"),
    "round is text": ({"round": "5"}, "wrong round"),
    "round is a tensor": ({"round": torch.tensor([5, 5])}, "wrong round"),
    "no examples": ({"num_examples": 0}, "num_examples: not a positive whole number"),
    "negative examples": ({"num_examples": -5}, "num_examples: not a positive whole number"),
    "fractional examples": ({"num_examples": 2.5}, "num_examples: not a positive whole number"),
    "NaN examples": ({"num_examples": NAN}, "num_examples: not a positive whole number"),
    "absurdly many examples": ({"num_examples": 10**400}, "num_examples: not a positive whole number"),
    "examples are true": ({"num_examples": True}, "num_examples: not a positive whole number"),
    "no epochs": ({"epochs": 0}, "epochs: not a positive whole number"),
    "epochs are text": ({"epochs": "1"}, "epochs: not a positive whole number"),
    "no batches": ({"batch_size": 0}, "batch_size: not a positive whole number"),
    "batches are nothing": ({"batch_size": None}, "batch_size: not a positive whole number"),
}

strangers = st.sampled_from([0, 5, 99, -1, True, 2.0, "1", None, torch.tensor(1), [1], (1, 2)])


def senders_of(updates):
    return [update.sender for update in updates]


def test_well_formed_messages_pass_sorted_by_sender():
    accepted, rejected = screen([good(3), good(1), good(4)], EXPECTED)

    assert senders_of(accepted) == [1, 3, 4]
    assert rejected == ()
    assert accepted[0].vector.tolist() == [1, 1, 1]


def test_no_message_is_fine():
    assert screen([], EXPECTED) == ((), ())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_malformed_message_is_dropped_with_its_reason_and_the_others_stay(fault):
    changes, reason = FAULTS[fault]

    accepted, rejected = screen([good(1), good(2, **changes), good(3)], EXPECTED)

    assert senders_of(accepted) == [1, 3]
    assert rejected == (Rejection(2, reason),)


@pytest.mark.parametrize(
    ("sender", "recorded"),
    [(0, 0), (7, 7), (-3, -3), (True, -1), (False, -1), (1.0, -1), ("1", -1), (None, -1), ([1], -1), ({}, -1)],
)
def test_a_message_of_an_unknown_sender_is_dropped(sender, recorded):
    accepted, rejected = screen([good(sender), good(3)], EXPECTED)

    assert senders_of(accepted) == [3]
    assert rejected == (Rejection(recorded, "unknown sender"),)


def test_of_two_messages_of_one_sender_none_counts():
    accepted, rejected = screen([good(1), good(2), good(1, vector=torch.ones(3))], EXPECTED)

    assert senders_of(accepted) == [2]
    assert rejected == (Rejection(1, "duplicate sender"),) * 2


def test_a_malformed_duplicate_takes_the_good_one_along():
    accepted, rejected = screen([good(1), good(1, vector=None)], EXPECTED)

    assert accepted == ()
    assert rejected == (Rejection(1, "duplicate sender"),) * 2


def test_the_largest_claim_is_two_to_the_53():
    accepted, _ = screen([good(1, num_examples=2**53), good(2, num_examples=2**53 + 1)], EXPECTED)

    assert senders_of(accepted) == [1]


def test_a_base_is_removed_unchecked_where_the_rule_did_not_ask_for_it():
    expected = replace(EXPECTED, with_base=False)

    accepted, rejected = screen([good(1, base=None), good(2, base=torch.tensor([NAN])), good(3, base="x")], expected)

    assert senders_of(accepted) == [1, 2, 3]
    assert [update.base for update in accepted] == [None] * 3
    assert rejected == ()


def test_the_digest_and_the_claims_of_a_good_message_are_kept():
    digest = torch.ones(2, 2)

    ((message,), _) = screen([good(1, digest=digest, num_examples=7)], EXPECTED)

    assert torch.equal(message.digest, digest)
    assert message.num_examples == 7


def test_messages_are_not_changed():
    message = good(1, base=None)

    screen([message], replace(EXPECTED, with_base=False))

    assert message.vector.tolist() == [1, 1, 1]
    assert message.base is None


@given(
    kinds=st.lists(st.sampled_from([*FAULTS, "good"]), min_size=4, max_size=4),
    twice=st.sets(st.integers(1, 4)),
    unknown=st.lists(strangers, max_size=4),
    shuffle=st.randoms(use_true_random=False),
)
def test_of_any_mixture_of_messages_exactly_the_well_formed_ones_remain_in_any_order(kinds, twice, unknown, shuffle):
    messages = [good(sender, **({} if kind == "good" else FAULTS[kind][0])) for sender, kind in enumerate(kinds, 1)]
    messages += [good(sender) for sender in twice] + [good(sender) for sender in unknown]
    shuffled = random.Random(shuffle.random()).sample(messages, len(messages))

    accepted, rejected = screen(messages, EXPECTED)
    again, rejected_again = screen(shuffled, EXPECTED)

    # A second message of the same round takes both out; one that claims another round says nothing about this one.
    elsewhere = {kind for kind, (change, _) in FAULTS.items() if "round" in change}
    wanted = [
        sender
        for sender, kind in enumerate(kinds, 1)
        if (kind == "good" and sender not in twice) or (kind in elsewhere and sender in twice)
    ]
    assert senders_of(accepted) == senders_of(again) == wanted
    assert len(rejected) == len(messages) - len(wanted)
    assert sorted(r.reason for r in rejected) == sorted(r.reason for r in rejected_again)
    assert rejected == rejected_again
    assert all(torch.equal(a.vector, b.vector) for a, b in zip(accepted, again, strict=True))


LENIENT = replace(EXPECTED, staleness=1)


def test_a_message_one_round_old_counts_where_that_is_allowed():
    old, fresh = good(1, round=4), good(2)

    accepted, rejected = screen([old, fresh], LENIENT)

    assert [(u.sender, u.round) for u in accepted] == [(1, 4), (2, 5)]
    assert rejected == ()


def test_an_old_message_gives_way_to_a_fresh_one_of_the_same_sender_in_any_order():
    old, fresh = good(1, round=4), good(1)

    for messages in ([old, fresh], [fresh, old]):
        accepted, rejected = screen(messages, LENIENT)

        assert [u.round for u in accepted] == [5]
        assert [(r.sender, r.reason) for r in rejected] == [(1, "superseded")]


@pytest.mark.parametrize("round", [3, 6])
def test_older_and_future_messages_are_rejected_all_the_same(round):
    accepted, rejected = screen([good(1, round=round)], LENIENT)

    assert accepted == ()
    assert [r.reason for r in rejected] == ["wrong round"]


def test_two_old_messages_of_one_sender_are_both_dropped():
    accepted, rejected = screen([good(1, round=4), good(1, round=4)], LENIENT)

    assert accepted == ()
    assert [r.reason for r in rejected] == ["duplicate sender"] * 2
