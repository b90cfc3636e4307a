"""What a decision was, and how well a round's decisions find the attackers."""

import numpy as np
import pytest

from flower_dfl.report.decisions import DROPPED, MISSING, REJECTED, TRUSTED, UNKNOWN, code, count


def _count(rows, byzantine):
    receivers, senders, codes = np.array(rows, dtype=np.int64).T
    return count(receivers, senders, codes.astype(np.uint8), byzantine)


def test_precision_and_recall_are_those_counted_by_hand():
    # Honest 0 and 1, Byzantine 2, 3 and 4. Node 0 rejects 1 (wrong), 2 and 3 (right) and trusts 4 (wrong); node 1
    # trusts 0 (right) and loses 2 to ingress (right). Rejected: 1, 2, 3, 2 -> precision 3/4. Byzantine: 2, 3, 4, 2 ->
    # recall 3/4. Honest messages: 0 -> 1 and 1 -> 0, one rejected -> false alarm 1/2.
    found = _count(
        [(0, 1, REJECTED), (0, 2, REJECTED), (0, 3, REJECTED), (0, 4, 200), (1, 0, 200), (1, 2, DROPPED)], {2, 3, 4}
    )

    assert (found.precision, found.recall, found.false_alarm) == (0.75, 0.75, 0.5)
    assert (found.trusted_honest, found.rejected_honest) == (1, 1)
    assert (found.trusted_byzantine, found.rejected_byzantine, found.dropped, found.missing) == (1, 3, 1, 0)


def test_recall_and_precision_differ_where_honest_nodes_are_rejected():
    # Two of two Byzantine rejected -> recall 1; four rejected in all -> precision 1/2.
    found = _count([(0, 1, REJECTED), (0, 2, REJECTED), (0, 3, REJECTED), (0, 4, REJECTED)], {3, 4})

    assert (found.precision, found.recall) == (0.5, 1.0)


def test_what_byzantine_nodes_decide_does_not_count():
    found = _count([(2, 0, REJECTED), (2, 1, 200), (0, 2, 200)], {2})

    assert (found.rejected_honest, found.trusted_honest, found.trusted_byzantine) == (0, 0, 1)


def test_a_message_that_never_came_is_no_detection():
    found = _count([(0, 2, MISSING), (0, 3, UNKNOWN)], {2, 3})

    assert (found.recall, found.precision, found.false_alarm, found.missing) == (None, None, None, 1)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"weight": 0.0}, REJECTED),
        ({"weight": -0.1}, REJECTED),
        ({"weight": 1e-9}, TRUSTED + 1),  # never looks like a rejection
        ({"weight": 0.5}, TRUSTED + 125),
        ({"weight": 7.0}, 255),
        ({"weight": None}, UNKNOWN),
        ({"weight": 0.0, "rejected": "non-finite"}, DROPPED),
        ({"weight": None, "missing": "dropped"}, MISSING),
        ({"weight": 0.0, "missing": None, "rejected": None}, REJECTED),
    ],
)
def test_a_line_becomes_one_byte(line, expected):
    assert code(line) == expected
