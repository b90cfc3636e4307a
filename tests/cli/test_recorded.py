"""``resume`` and ``verify``: going on with a recorded run, and repeating one."""

import json
import os
import shutil
import signal
import subprocess

import pytest

from flower_dfl.config import parse
from flower_dfl.engines.flower import program
from flower_dfl.engines.local import run_local
from flower_dfl.records import read_lines

TINY = {
    "num-nodes": 4,
    "num-byzantine": 1,
    "num-rounds": 4,
    "topology.name": "complete",
    "strategy.name": "dfl-detector",
    "attack.name": "scaling",
    "model.name": "lr",
    "data.num-train": 120,
    "data.num-test": 40,
    "train.device": "cpu",
    "checkpoint.every": 2,
}

KILLS_ITSELF = '''
"""Averaging that ends its process in round 4, once."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.average import Average


@dataclass(frozen=True, slots=True)
class KillsItself(PeerStrategy[None]):
    before: str

    def aggregate(self, inbox, state, ctx):
        if ctx.node == 1 and ctx.round == 4 and not Path(self.before).exists():
            Path(self.before).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Average().aggregate(inbox, state, ctx)
'''


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run_local(parse(TINY), folder)
    return folder


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The same run, interrupted after round 3, with the checkpoint of round 2."""
    folder = tmp_path_factory.mktemp("interrupted")

    def interrupt(summary):
        if summary.round == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_local(parse(TINY), folder, interrupt)
    return folder


@pytest.fixture
def cut(interrupted, tmp_path):
    return shutil.copytree(interrupted, tmp_path / "cut")


def ends(folder):
    """Everything that a run leaves, without clock times."""
    records = [
        [line | {"seconds": None} for line in read_lines(folder / name)] for name in ("rounds.jsonl", "edges.jsonl")
    ]
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8")) | {"seconds_total": None}
    models = {path.name: path.read_bytes() for path in (folder / "checkpoint").glob("*.safetensors")}
    assert len(models) == TINY["num-nodes"]
    return records, summary, models


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_an_interrupted_run_goes_on_and_ends_with_the_bytes_of_one_that_never_stopped(command, cut, whole):
    code, output, errors = command("resume", cut)

    assert (code, errors) == (0, "")
    assert output.startswith(f"run folder: {cut}, going on after round 2\nround 3: ")
    assert output.endswith(f"results: {cut}\n")
    assert ends(cut) == ends(whole)


def test_resuming_a_completed_run_says_that_it_is_and_changes_nothing(command, whole):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}

    code, output, _ = command("resume", whole)

    assert (code, output) == (0, f"completed already: {whole}\n")
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_a_cluster_that_is_not_there_is_said_before_anything_is_touched(command, cut):
    before = {path: path.stat().st_mtime_ns for path in cut.rglob("*")}

    code, output, errors = command("resume", cut, "--engine", "flower", "--ray-address", "127.0.0.1:1")

    assert (code, output) == (1, "")
    assert errors.startswith("failed: no Ray cluster answers at 127.0.0.1:1")
    assert {path: path.stat().st_mtime_ns for path in cut.rglob("*")} == before


@pytest.mark.parametrize("name", ["resume", "verify"])
def test_a_folder_that_holds_no_run_is_refused(command, tmp_path, name):
    for folder in (tmp_path, tmp_path / "nowhere"):
        code, _, errors = command(name, folder)

        assert code == 1
        assert errors == f"failed: {folder} is no run folder: it must hold config.toml and environment.json\n"


@pytest.mark.parametrize("name", ["resume", "verify"])
def test_a_changed_configuration_is_refused_by_the_key_that_changed(command, cut, name):
    path = cut / "config.toml"
    path.write_text(path.read_text(encoding="utf-8").replace("num-rounds = 4", "num-rounds = 5"), encoding="utf-8")

    code, _, errors = command(name, cut)

    assert code == 1
    assert errors == (
        f"failed: the configuration is not the one of {cut / 'environment.json'}: num-rounds was 4, is 5\n"
    )


def test_another_code_version_is_refused_by_resume_and_remarked_by_verify(command, cut):
    change(cut / "environment.json", code_version="0.0.0+other")

    resumed, verified = command("resume", cut), command("verify", cut, "--rounds", "1")

    assert resumed[0] == 1
    assert resumed[2].startswith(
        f"failed: {cut / 'environment.json'} was written by code version '0.0.0+other', this is '"
    )
    assert verified[0] == 0
    assert verified[2] == "warning: the run was recorded by another version of the code\n"


def test_records_that_are_not_those_of_the_checkpoint_are_refused(command, cut):
    path = cut / "rounds.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"node": 1', b'"node": 2', 1))

    code, _, errors = command("resume", cut)

    assert code == 1
    assert errors.startswith(f"failed: {path} does not hold what was written up to the checkpoint: it is damaged\n")
    assert json.loads((cut / "summary.json").read_text(encoding="utf-8"))["status"] == "interrupted"  # as it was


def test_a_line_that_was_cut_off_is_written_anew(command, cut, whole):
    path = cut / "edges.jsonl"
    path.write_bytes(path.read_bytes()[:-10])

    code, _, _ = command("resume", cut)

    assert code == 0
    assert ends(cut) == ends(whole)


@pytest.mark.parametrize("name", ["rounds.jsonl", "edges.jsonl", "summary.json", "checkpoint/node-2.safetensors"])
def test_a_full_disk_fails_the_run_and_names_the_file_and_with_space_again_it_goes_on(command, cut, whole, name):
    shutil.rmtree(cut / "checkpoint")  # so that it begins anew
    path = cut / name
    full = path if path.suffix == ".jsonl" else path.with_suffix(".partial")  # others are written beside and moved
    full.parent.mkdir(exist_ok=True)
    full.unlink(missing_ok=True)
    full.symlink_to("/dev/full")

    failed = command("resume", cut)
    full.unlink()
    resumed = command("resume", cut)

    assert failed[0] == 1
    assert failed[2].startswith(f"failed: cannot write {path}: No space left on device\n")
    assert resumed[0] == 0
    assert ends(cut) == ends(whole)


def test_what_fails_in_a_resumed_run_is_logged_in_its_folder(command, cut):
    (cut / "edges.jsonl").unlink()

    code, _, errors = command("resume", cut)

    assert code == 1
    assert errors.endswith(f"details: {cut / 'run.log'}\n")
    assert "Traceback" in (cut / "run.log").read_text(encoding="utf-8")


def test_a_recorded_run_is_verified_as_far_as_it_went(command, whole, interrupted):
    assert command("verify", whole)[:2][1].splitlines()[-1] == f"the same in all of 4 rounds: {whole}"
    assert command("verify", interrupted)[1].splitlines()[-1] == f"the same in all of 3 rounds: {interrupted}"


def test_verify_names_the_first_difference_and_repeats_only_the_rounds_that_it_is_asked_for(command, cut):
    path = cut / "rounds.jsonl"
    lines = read_lines(path)
    changed = next(line for line in lines if (line["round"], line["node"]) == (2, 1))
    changed["accuracy"] = -1.0
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    short, long = command("verify", cut, "--rounds", "1"), command("verify", cut)

    assert short[0] == 0
    assert short[1].splitlines()[-1] == f"the same in all of 1 rounds: {cut}"
    assert long[0] == 1
    assert long[2].startswith(
        "failed: the repeated run differs first in rounds.jsonl: round 2, node 1: accuracy was -1.0, is 0."
    )


def test_a_run_without_a_recorded_round_cannot_be_verified(command, cut):
    change(cut / "summary.json", rounds=0)

    code, _, errors = command("verify", cut)

    assert code == 1
    assert errors == f"failed: {cut} has no recorded round\n"


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(tmp_path):
    (tmp_path / "rules.py").write_text(KILLS_ITSELF, encoding="utf-8")
    rule = [
        f"strategy.params.before={tmp_path / 'before'}" if key == "strategy.params" else f"{key}={value}"
        for key, value in (TINY | {"strategy.name": "rules:KillsItself", "strategy.params": ""}).items()
    ]
    arguments = ["--engine", "local", *(part for setting in rule for part in ("--set", setting))]

    def call(*words):
        done = subprocess.run(
            [program("flower-dfl"), *words], cwd=tmp_path, capture_output=True, text=True, check=False,
            env=os.environ | {"COLUMNS": "200"},
        )  # fmt: skip
        return done.returncode, done.stdout

    killed = call("run", *arguments, "--results-dir", "killed")
    (folder,) = (tmp_path / "killed").iterdir()
    status = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["status"]
    resumed = call("resume", str(folder))
    call("run", *arguments, "--results-dir", "whole")
    (expected,) = (tmp_path / "whole").iterdir()

    assert (killed[0], status) == (-signal.SIGKILL, "running")
    assert resumed[0] == 0
    assert "going on after round 2" in resumed[1]
    assert ends(folder) == ends(expected)
