"""Sweeps of real cells, each a process of its own, on the local engine."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
from io import StringIO
from unittest.mock import ANY

import psutil
import pytest
import tomli_w
from rich.console import Console

from flower_dfl.cli.sweep import _Display
from flower_dfl.config import nest, parse
from flower_dfl.engines.local import run_local
from flower_dfl.errors import ConfigurationError, DflError
from flower_dfl.sweeps.cells import runs_of, settings_of
from flower_dfl.sweeps.processes import locked
from flower_dfl.sweeps.running import LocalProcesses, Progress, next_command, outcome, run_sweep
from flower_dfl.sweeps.tables import aggregate, notes, read_cells, unfinished_cells
from tests.sweeps.conftest import BASE, flower_dfl, planned, wait_for, write_run, write_sweep

RULES = '''
"""Rules for tests; cells import them by reference."""

import os
import signal
import time
from pathlib import Path

from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.average import Average


class Broken(PeerStrategy[None]):
    def aggregate(self, inbox, state, ctx):
        raise ZeroDivisionError("planned failure")


class Killed(PeerStrategy[None]):
    def aggregate(self, inbox, state, ctx):
        os.kill(os.getpid(), signal.SIGKILL)


class KilledOnce(Average):
    def aggregate(self, inbox, state, ctx):
        if ctx.round == 3 and not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().aggregate(inbox, state, ctx)


class Endless(PeerStrategy[None]):
    def aggregate(self, inbox, state, ctx):
        Path("pid").write_text(f"{os.getpid()}\\\\n")
        time.sleep(600)
'''


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder in which the reference ``sweep_rules:...`` can be imported."""
    (tmp_path / "sweep_rules.py").write_text(RULES.replace("\\\\n", "\\n"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("sweep_rules", None)


def test_cells_run_and_are_not_run_again(workplace):
    sweep = planned(workplace, "[matrix]\nseed = [0, 1]\n")
    seen = []

    first = run_sweep(sweep, workplace / "out", LocalProcesses(2, "local"), seen.append)

    assert first == {"seed0": "completed", "seed1": "completed"}
    assert dict(seen[0].statuses) == {"seed0": "waiting", "seed1": "waiting"}
    assert seen[0].seconds_left is None
    assert [progress.cell for progress in seen if progress.cell] in (["seed0", "seed1"], ["seed1", "seed0"])
    assert seen[-1].seconds_left == 0
    index = json.loads((workplace / "out" / "sweep.json").read_text(encoding="utf-8"))
    assert index["definition"] == sweep.text
    assert index["cells"] == [
        {"name": cell.name, "hash": cell.hash, "settings": {"seed": seed}, "folder": f"cells/{cell.folder}",
         "status": "completed"}
        for seed, cell in enumerate(sweep.cells)
    ]  # fmt: skip
    logs = [(workplace / "out" / "cells" / cell.folder / "log.txt").read_text(encoding="utf-8") for cell in sweep.cells]
    assert all(log.count("run folder: ") == 1 for log in logs)

    again = run_sweep(sweep, workplace / "out", Refuses())

    assert again == first
    assert [cell.name for cell in read_cells(workplace / "out")] == ["seed0", "seed1"]


class Refuses(LocalProcesses):
    """A backend that nobody may use."""

    def __init__(self):
        super().__init__(1, "local")

    def start(self, folder):
        raise AssertionError(folder)


def test_a_cell_that_fails_is_told_with_its_last_line_and_the_others_go_on(workplace):
    path = write_sweep(workplace, """
        [matrix]
        "strategy.name" = ["sweep_rules:Broken", "sweep_rules:Killed", "average"]
    """)  # fmt: skip

    process = flower_dfl("sweep", path, "--engine", "local", "--results-dir", "out", "--jobs", 1, cwd=workplace)
    output, errors = process.communicate()

    lines = output.splitlines()
    assert process.returncode == 1, errors
    assert lines[0] == f"sweep folder: {workplace / 'out'}"
    assert "1/3 failed sweep_rules:Broken (" in lines[1]
    assert re.search(r"\): failed: node 0 failed .*: ZeroDivisionError: planned failure$", lines[1])
    assert "2/3 failed sweep_rules:Killed (" in lines[2]
    assert lines[2].endswith("): ended by signal 9")
    assert "3/3 completed average (" in lines[3]
    assert lines[4].startswith("1 of 3 cells complete")
    assert [cell.name for cell in read_cells(workplace / "out")] == ["average"]
    assert [cell.summary["status"] for cell in unfinished_cells(workplace / "out")] == ["failed", "failed"]
    assert [cell.summary["error"] for cell in unfinished_cells(workplace / "out")] == [ANY, "ended by signal 9"]


def test_a_cell_that_fails_before_it_has_a_record_is_remembered_with_its_cause_until_it_starts_again(workplace):
    sweep = planned(workplace, """
        [matrix]
        "data.name" = ["har"]
        "data.root" = ["later"]
    """)  # fmt: skip

    statuses = run_sweep(sweep, workplace / "out", LocalProcesses(1, "local"))

    (cell,) = unfinished_cells(workplace / "out")
    assert list(statuses.values()) == [cell.summary["status"]] == ["failed"]
    assert "later" in cell.summary["error"]
    assert notes([], [cell]) == ["0 of 1 cells complete", f"not complete: {cell.name} (failed)"]


def test_a_folder_that_cannot_be_written_is_a_wrong_setting(workplace):
    (workplace / "file").touch()

    with pytest.raises(ConfigurationError, match=r"^cannot write to the sweep folder .*file: File exists$"):
        run_sweep(planned(workplace, "[matrix]\nseed = [1]\n"), workplace / "file", LocalProcesses(1, "local"))


def test_a_cell_that_was_killed_goes_on_from_its_checkpoint(workplace):
    sweep = planned(workplace, """
        [matrix]
        "strategy.name" = ["sweep_rules:KilledOnce"]
        "num-rounds" = [4]
        "checkpoint.every" = [1]
    """)  # fmt: skip

    first = run_sweep(sweep, workplace / "out", LocalProcesses(1, "local"))
    second = run_sweep(sweep, workplace / "out", LocalProcesses(1, "local"))

    assert (list(first.values()), list(second.values())) == (["failed"], ["completed"])
    (cell,) = read_cells(workplace / "out")
    assert len(runs_of(cell.folder.parent)) == 1
    assert "going on after round 2" in (cell.folder.parent / "log.txt").read_text(encoding="utf-8")
    (workplace / "alone").mkdir()
    run_local(parse(cell.settings), workplace / "alone")
    for node in range(3):
        name = f"checkpoint/node-{node}.safetensors"
        assert (cell.folder / name).read_bytes() == (workplace / "alone" / name).read_bytes()


def test_a_wrong_file_is_exit_code_two_before_anything_starts(workplace):
    path = write_sweep(workplace, "[matrix]\nsed = [0]\n")

    process = flower_dfl("sweep", path, "--results-dir", "out", cwd=workplace)
    output, errors = process.communicate()

    assert process.returncode == 2
    assert errors.startswith("error: unknown configuration key 'sed'. Did you mean 'seed'?")
    assert output == ""
    assert not (workplace / "out").exists()


def test_an_interrupted_sweep_ends_its_cells_and_is_exit_code_130(workplace):
    path = write_sweep(workplace, '[matrix]\n"strategy.name" = ["sweep_rules:Endless", "average"]\n')
    process = flower_dfl(
        "sweep", path, "--engine", "local", "--results-dir", "out", "--jobs", 1, cwd=workplace,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background processes ignore it
    )  # fmt: skip
    cell = psutil.Process(int(wait_for(workplace / "pid", process)))
    assert os.getsid(cell.pid) == cell.pid  # a terminal's Ctrl-C goes to the sweep alone

    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)

    assert process.returncode == 130, errors
    assert not cell.is_running()
    statuses = [entry["status"] for entry in json.loads((workplace / "out" / "sweep.json").read_text())["cells"]]
    assert statuses == ["waiting", "waiting"]
    assert unfinished_cells(workplace / "out")[0].summary["status"] == "interrupted"


def test_the_cells_of_a_killed_sweep_end_by_themselves(workplace):
    path = write_sweep(workplace, '[matrix]\n"strategy.name" = ["sweep_rules:Endless"]\n')
    process = flower_dfl("sweep", path, "--engine", "local", "--results-dir", "out", cwd=workplace)
    cell = psutil.Process(int(wait_for(workplace / "pid", process)))

    process.kill()
    process.communicate()

    cell.wait(timeout=100)
    assert unfinished_cells(workplace / "out")[0].summary["status"] == "interrupted"


def test_two_sweeps_cannot_run_in_one_folder(workplace):
    sweep = planned(workplace, "[matrix]\nseed = [0]\n")
    (workplace / "out").mkdir()

    with (
        locked(workplace / "out" / "lock", "the first"),
        pytest.raises(DflError, match=rf"the sweep folder .*out is in use by process {os.getpid()}, started \d{{4}}-"),
    ):
        run_sweep(sweep, workplace / "out", Refuses())


def test_a_lock_is_free_again_when_its_holder_was_killed(tmp_path):
    holder = subprocess.Popen(
        [
            sys.executable, "-c",
            "import sys, time; from pathlib import Path; from flower_dfl.sweeps.processes import locked\n"
            "with locked(Path(sys.argv[1]), 'x'): print('held', flush=True); time.sleep(600)",
            str(tmp_path / "lock"),
        ],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(DflError, match=f"process {holder.pid}"), locked(tmp_path / "lock", "x"):
        pass

    holder.kill()
    holder.communicate()

    with locked(tmp_path / "lock", "x"):
        pass


def test_a_lock_can_be_waited_for(tmp_path):
    held, go_on = threading.Event(), threading.Event()

    def hold():
        with locked(tmp_path / "lock", "x"):
            held.set()
            go_on.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    threading.Timer(0.2, go_on.set).start()

    with locked(tmp_path / "lock", "x", wait=60):
        thread.join()


@pytest.fixture
def cell(tmp_path):
    """The folder of a cell that has not run."""
    folder = tmp_path / "cell"
    folder.mkdir()
    (folder / "settings.toml").write_text("seed = 1\n", encoding="utf-8")
    return folder


def test_a_cell_that_has_not_run_is_run(cell):
    assert next_command(cell, "local") == [
        "run", str(cell / "settings.toml"), "--engine", "local", "--results-dir", str(cell)
    ]  # fmt: skip


def test_a_complete_cell_is_left_alone(cell):
    write_run(cell / "1", {"seed": 1}, {}, status="failed")
    write_run(cell / "2", {"seed": 1}, {})

    assert next_command(cell, "local") is None


def test_a_complete_run_of_other_settings_does_not_count(cell):
    write_run(cell / "1", {"seed": 2}, {})

    assert next_command(cell, "local")[0] == "run"


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A cell with one run, which was interrupted after round 2, with the checkpoint of that."""
    cell = tmp_path_factory.mktemp("cells") / "cell"
    run = cell / "2"
    run.mkdir(parents=True)
    config = parse(tomllib.loads(BASE)["base"] | {"num-rounds": 3, "checkpoint.every": 1})
    (cell / "settings.toml").write_text(tomli_w.dumps(nest(settings_of(config))), encoding="utf-8")

    def interrupt(summary):
        if summary.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_local(config, run, interrupt)
    return cell


@pytest.fixture
def begun(interrupted, tmp_path):
    return shutil.copytree(interrupted, tmp_path / "begun")


def test_an_unfinished_run_with_a_checkpoint_is_resumed(begun):
    shutil.copytree(begun / "2", begun / "1")
    shutil.copytree(begun / "2", begun / "3")
    shutil.rmtree(begun / "3" / "checkpoint")

    assert next_command(begun, "local") == ["resume", str(begun / "2"), "--engine", "local"]


@pytest.mark.parametrize("name", ["edges.jsonl", "checkpoint/state-2/node-1.safetensors"])
def test_a_damaged_run_is_not_resumed_again_and_again(begun, name):
    path = begun / "2" / name
    path.write_bytes(b" " + path.read_bytes()[1:])

    assert next_command(begun, "local")[0] == "run"


def test_a_run_of_other_code_is_not_resumed(begun):
    path = begun / "2" / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"code_version": "0.0.1+other"}), encoding="utf-8")

    assert next_command(begun, "local")[0] == "run"


def test_a_run_whose_configuration_was_cut_off_is_passed_over(begun):
    (begun / "2" / "config.toml").write_text("seed = ", encoding="utf-8")

    assert next_command(begun, "local")[0] == "run"


def test_what_an_earlier_session_said_is_not_why_a_cell_was_interrupted_now(cell):
    assert outcome(cell, 1) == "ended with code 1"  # it did not live to open its log

    (cell / "log.txt").write_text("failed: no space left\n", encoding="utf-8")
    assert outcome(cell, 130) == "interrupted"


def test_only_what_a_process_said_itself_is_why_it_ended(cell):
    (cell / "log.txt").write_text("failed: zu wenig Platz für alles\n", encoding="utf-8")
    start = (cell / "log.txt").stat().st_size

    assert outcome(cell, 1, start) == "ended with code 1"

    with (cell / "log.txt").open("a", encoding="utf-8") as log:
        log.write("Killed\n")
    assert outcome(cell, 1, start) == "Killed"


def test_the_time_left_counts_days():
    output = StringIO()
    with _Display(Console(file=output, force_terminal=True, width=200), 2) as display:
        display.show(Progress({"a": "completed", "b": "running"}, seconds_left=90_061.4))

    assert "left 1 day, 1:01:01, running 1: b" in output.getvalue()


def test_what_is_on_disk_decides_and_not_the_exit_code(cell):
    (cell / "log.txt").write_text("failed: old\nround 1\nfailed: something\ndetails: elsewhere\n\n", encoding="utf-8")

    assert outcome(cell, 0) == "failed: something"
    assert outcome(cell, -9) == "ended by signal 9"

    (cell / "log.txt").write_text("round 1\nKilled\n", encoding="utf-8")
    assert outcome(cell, 1) == "Killed"

    (cell / "log.txt").write_text("", encoding="utf-8")
    assert outcome(cell, 1) == "ended with code 1"

    write_run(cell / "1", {"seed": 1}, {})
    assert outcome(cell, 1) is None


@pytest.mark.timeout(900)
def test_a_sweep_that_is_killed_again_and_again_runs_no_cell_twice_and_loses_none(workplace, tmp_path):
    path = write_sweep(workplace, """
        [matrix]
        "strategy.name" = ["average", "median"]
        attack = [{ name = "none" }, { name = "alie", params = { z = 4.0 } }]
        num-rounds = [100]
        seed = [0, 1, 2]
    """)  # fmt: skip
    command = ("sweep", path, "--engine", "local", "--results-dir", "out", "--jobs", 2)
    draw = random.Random(7)
    complete = {}

    for _ in range(3):
        process = flower_dfl(*command, cwd=workplace)
        for _ in range(1 + draw.randint(1, 3)):  # the folder, and cells
            process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=draw.uniform(0, 3))
        process.kill()
        process.communicate()
        found = completed(workplace / "out")
        assert complete.items() <= found.items(), "no result is lost, none was made anew"
        complete = found

    assert 0 < len(complete) < 12
    process = flower_dfl(*command, cwd=workplace)
    output, errors = process.communicate()

    assert process.returncode == 0, errors
    assert output.count(" completed ") == 12 - len(complete)
    found = completed(workplace / "out")
    assert complete.items() <= found.items()
    assert len(found) == 12
    assert all(len(runs) == 1 for runs in found.values())
    assert unfinished_cells(workplace / "out") == []
    check_table(workplace / "out", tmp_path / "expected")


def completed(folder):
    """Return, for each cell, the complete runs in it, with the time of their last change."""
    found = {}
    for summary in sorted(folder.glob("cells/*/*/summary.json")):
        if json.loads(summary.read_text(encoding="utf-8"))["status"] == "completed":
            found.setdefault(summary.parents[1].name, []).append((summary.parent.name, summary.stat().st_mtime_ns))
    return found


def check_table(folder, scratch):
    """Compare with the same runs, done here one after the other."""
    table = aggregate(read_cells(folder), "honest_accuracy_mean")
    assert len(table.entries) == 4
    for (row, column), entry in table.entries.items():
        attack, _, params = column[0].partition(", ")
        accuracies = []
        for seed in range(3):
            run = scratch / f"{row[0]}-{attack}-{seed}"
            run.mkdir(parents=True)
            choice = {"strategy.name": row[0], "attack.name": attack, "attack.params": params, "seed": seed}
            choice["num-rounds"] = 100  # so that a cell takes seconds, and the sweep is killed in the midst of some
            run_local(parse(tomllib.loads(BASE)["base"] | choice), run)
            accuracies.append(json.loads((run / "summary.json").read_text(encoding="utf-8"))["honest_accuracy_mean"])
        assert entry.mean == pytest.approx(sum(accuracies) / 3)
        assert (entry.worst, entry.seeds) == (min(accuracies), 3)
