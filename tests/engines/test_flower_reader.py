"""Rounds are reported as the summary completes them, from a file that only grows, or is cut back to a checkpoint."""

import json

import pytest

from flower_dfl.engines.flower import _Reader


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rounds.jsonl"


def line(round, node, accuracy=0.5):
    values = {"round": round, "node": node, "byzantine": False, "accuracy": accuracy, "attack_success_rate": None}
    return json.dumps(values | {"distance_to_mean": None, "rejected": 0, "diverged": False}) + "\n"


def written(rounds, accuracy=0.5):
    return "".join(line(round, node, accuracy) for round in rounds for node in range(2))


def report(reader, complete):
    summaries = []
    reader.report(complete, summaries.append)
    return [(summary.round, summary.accuracy_mean) for summary in summaries]


def test_each_round_is_reported_once(path):
    reader = _Reader(path, 0)

    path.write_text(written([1, 2]))
    first = report(reader, 2)
    path.write_text(written([1, 2, 3]))
    second = report(reader, 3)

    assert (first, second) == ([(1, 0.5), (2, 0.5)], [(3, 0.5)])


def test_what_was_reported_is_not_read_again(path):
    reader = _Reader(path, 0)
    path.write_text(written([1]))
    report(reader, 1)
    reported = path.read_text()
    path.write_text("x" * (len(reported) - 1) + "\n" + written([2]))

    assert report(reader, 2) == [(2, 0.5)]


@pytest.mark.parametrize("rest", [line(2, 0), '{"round": 2, "no'])
def test_a_round_that_is_still_being_written_waits(path, rest):
    reader = _Reader(path, 0)
    path.write_text(written([1]) + rest)
    first = report(reader, 1)
    path.write_text(written([1, 2]))

    assert (first, report(reader, 2)) == ([(1, 0.5)], [(2, 0.5)])


def test_a_resumed_run_reports_only_its_new_rounds(path):
    path.write_text(written([1, 2, 3]))

    assert report(_Reader(path, 2), 3) == [(3, 0.5)]


@pytest.mark.parametrize("accuracy", [0.5, 0.25, 0.123456789])
def test_rounds_that_are_played_again_are_reported_again(path, accuracy):
    reader = _Reader(path, 0)
    path.write_text(written([1, 2, 3, 4]))
    report(reader, 4)

    path.write_text(written([1, 2]) + written([3], accuracy))
    again = report(reader, 3)
    path.write_text(written([1, 2]) + written([3, 4], accuracy))

    assert (again, report(reader, 4)) == ([], [(4, accuracy)])


def test_a_round_that_the_run_took_back_before_it_was_read_waits_until_it_is_played_again(path):
    reader = _Reader(path, 0)
    path.write_text(written([1]))
    first = report(reader, 2)
    path.write_text(written([1, 2]))

    assert (first, report(reader, 2)) == ([(1, 0.5)], [(2, 0.5)])


def test_it_says_whether_the_run_went_on(path):
    reader = _Reader(path, 0)
    path.write_text(written([1]))

    assert [reader.report(complete, lambda _: None) for complete in (0, 1, 1)] == [False, True, False]
