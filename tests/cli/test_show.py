import json

import pytest

from flower_dfl.config import parse
from flower_dfl.engines.local import run_local
from tests.figures.recorded import write_run

TINY = {
    "num-nodes": 5,
    "num-byzantine": 2,
    "num-rounds": 3,
    "topology.name": "complete",
    "strategy.name": "oracle",
    "model.name": "lr",
    "data.num-train": 100,
    "data.num-test": 50,
    "train.device": "cpu",
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run of the local engine: the oracle trusts exactly the honest nodes 0, 1 and 2."""
    folder = tmp_path_factory.mktemp("recorded")
    run_local(parse(TINY), folder)
    return folder


def cut(recorded, folder, *names):
    """Copy some files of a run."""
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes((recorded / name).read_bytes())
    return folder


def renew(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_a_completed_run_shows_status_settings_rounds_and_trust(command, recorded):
    code, output, errors = command("show", recorded)

    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0] == f"run folder: {recorded}"
    assert lines[1].startswith("status: completed, 3 of 3 rounds in ")
    assert "  strategy.name = 'oracle' (default 'dfl-dual')" in lines
    assert not any(line.startswith("  train.lr") for line in lines)
    assert sum(line.startswith("│") for line in lines) == 3
    assert "who trusted whom in round 3, as weights in per cent (columns: senders, * Byzantine):" in lines
    assert lines[-5:-1] == [
        "        0   1   2  *3  *4",
        "   0:      33  33   .   .",
        "   1:  33      33   .   .",
        "   2:  33  33       .   .",
    ]


def test_the_numbers_are_those_of_the_summary(command, recorded):
    summary = json.loads((recorded / "summary.json").read_text(encoding="utf-8"))

    _, output, _ = command("show", recorded)

    assert f"{100 * summary['honest_accuracy_mean']:.1f} % │ {100 * summary['honest_accuracy_min']:.1f} %" in output
    assert f" to {100 * summary['honest_accuracy_mean']:.1f} %" in output


def test_another_round_can_be_chosen(command, recorded):
    _, output, _ = command("show", recorded, "--round", "1")

    assert "who trusted whom in round 1" in output


@pytest.mark.parametrize("round", ["0", "4"])
def test_a_round_that_there_is_not_is_an_error(command, recorded, round):
    code, _, errors = command("show", recorded, "--round", round)

    assert code == 2
    assert errors == f"error: the run has the rounds 1 to 3, got --round {round}\n"


def test_a_run_that_goes_on_shows_how_far_it_is(command, recorded, tmp_path):
    folder = cut(recorded, tmp_path / "run", "summary.json", "config.toml")
    lines = (recorded / "rounds.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "rounds.jsonl").write_text("".join(lines[:5]) + lines[5][:20], encoding="utf-8")  # the next is cut off
    renew(folder / "summary.json", status="running", rounds=1)

    code, output, _ = command("show", folder)

    assert code == 0
    assert "status: running, 1 of 3 rounds in " in output
    assert "last sign of life" in output
    assert "who trusted whom in round 1" in output


def test_a_failed_run_shows_error_log_and_failures(command, recorded, tmp_path):
    folder = cut(recorded, tmp_path / "run", "summary.json", "config.toml")
    renew(folder / "summary.json", status="failed", error="NodeFailedError: node 1 [failed]", rounds=0)
    (folder / "run.log").write_text("Traceback", encoding="utf-8")
    failures = [{"round": 1, "node": node, "cause": "ValueError: x", "consequence": "skip"} for node in range(11)]
    failures.insert(0, {"round": 4, "node": -1, "cause": "gone", "consequence": "restart"})
    (folder / "failures.jsonl").write_text("".join(json.dumps(line) + "\n" for line in failures), encoding="utf-8")

    code, output, _ = command("show", folder)

    assert code == 0
    assert "status: failed, 0 of 3 rounds" in output
    assert "error: NodeFailedError: node 1 [failed]\n" in output
    assert f"log: {folder / 'run.log'}\n" in output
    assert "  the whole run, back to the end of round 4: gone (restart)\n  round 1, node 0: " in output
    assert "  round 1, node 8: ValueError: x (skip)\n  and 2 failures more\n" in output


def test_an_interrupted_run_says_so(command, recorded, tmp_path):
    folder = cut(recorded, tmp_path / "run", "summary.json", "config.toml", "rounds.jsonl")
    renew(folder / "summary.json", status="interrupted", error="KeyboardInterrupt: ")

    code, output, _ = command("show", folder)

    assert code == 0
    assert "status: interrupted, 3 of 3 rounds" in output


def test_a_run_that_has_not_started_is_shown(command, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "flower.log").touch()

    code, output, _ = command("show", "run")

    assert code == 0
    assert "status: not started, no round yet" in output
    assert "settings: the defaults" in output


def test_what_happened_to_messages_has_a_mark_of_its_own(command, tmp_path):
    folder = write_run(tmp_path / "run", {}, 0.5, 0.5)
    edges = [
        {"sender": 1, "weight": 0.0, "scores": {}, "rejected": "vector: not finite"},
        {"sender": 2, "weight": 0.0, "scores": {}, "missing": "late"},
        {"sender": 3, "weight": None, "scores": {}},
    ]
    text = "".join(json.dumps({"round": 2, "receiver": 0} | edge) + "\n" for edge in edges)
    (folder / "edges.jsonl").write_text(text, encoding="utf-8")

    _, output, _ = command("show", folder)

    assert "\n   0:       x   ?   !\n" in output
    assert "\n   1:                \n" in output


def test_missing_messages_flags_and_diverged_nodes_are_troubles(command, tmp_path):
    folder = write_run(tmp_path / "run", {}, 0.5, 0.5)
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line |= {"missing": {"late": 2}, "flags": ["absent"], "diverged": line["node"] == 1}
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    _, output, _ = command("show", folder)

    assert "messages to honest nodes that did not come, late: 8\n" in output  # 2 honest nodes, 2 rounds
    assert "honest nodes flagged 'absent': 4 times\n" in output
    assert "diverged honest nodes: 1\n" in output


def test_a_long_run_is_thinned_to_a_screenful_with_its_first_and_last_round(command, tmp_path):
    folder = write_run(tmp_path / "run", {}, 0.5, 0.5)
    line = json.loads((folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()[0])
    text = "".join(json.dumps(line | {"round": number, "accuracy": number / 200}) + "\n" for number in range(1, 201))
    (folder / "rounds.jsonl").write_text(text, encoding="utf-8")

    _, output, _ = command("show", folder)

    rows = [row for row in output.splitlines() if row.startswith("│")]
    assert (len(rows), rows[0].split()[1], rows[-1].split()[1]) == (20, "1", "200")
    assert "(20 of 200 rounds)" in output
    curve = next(row for row in output.splitlines() if row.startswith("accuracy 0 %"))
    assert curve.count("▁") == curve.count("█") == 6  # 50 means of 4 rounds in 8 steps: 6 or 7 of each


def test_trust_among_many_nodes_is_left_to_the_report(command, tmp_path):
    folder = write_run(tmp_path / "run", {}, 0.5, 0.5)
    line = json.loads((folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()[0])
    text = "".join(json.dumps(line | {"node": node}) + "\n" for node in range(41))
    (folder / "rounds.jsonl").write_text(text, encoding="utf-8")

    _, output, _ = command("show", folder)

    assert "trust is shown for up to 40 nodes, the run has 41\n" in output


def test_settings_that_this_version_does_not_know_are_shown(command, recorded, tmp_path):
    folder = cut(recorded, tmp_path / "run", "summary.json", "config.toml")
    with (folder / "config.toml").open("a", encoding="utf-8") as file:
        file.write("\n[future]\nkey = 3\n")

    code, output, _ = command("show", folder)

    assert code == 0
    assert "  future.key = 3\n" in output


def test_a_folder_that_is_no_run_is_an_error_that_points_to_the_runs_in_it(command, tmp_path):
    write_run(tmp_path / "runs" / "a", {}, 0.5, 0.5)

    code, output, errors = command("show", "runs")

    assert (code, output) == (2, "")
    assert errors == (
        "error: expected a run folder, with a summary.json, got runs; the last of 1 runs in it is runs/a\n"
    )


def test_a_folder_that_there_is_not_is_an_error(command):
    code, _, errors = command("show", "nowhere")

    assert code == 2
    assert errors == "error: expected a run folder, with a summary.json, got nowhere\n"
