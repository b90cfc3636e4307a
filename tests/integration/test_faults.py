"""What a run survives, with processes that are really killed: the same bytes in the end, or a clear end.

The rule of these tests finds a file named after its node and round, and once does what the file says.
"""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import tomli_w

from flower_dfl.config import RunConfig, flatten, parse
from flower_dfl.engines.flower import program, run_flower
from flower_dfl.engines.guardian import END_TIMEOUT
from flower_dfl.engines.local import run_local
from flower_dfl.records import read_lines
from tests.integration.conftest import assert_same_bytes, new_folder, summary_of
from tests.integration.launching import background_run, processes_of, ray_cluster, wait_for_rounds

pytestmark = [pytest.mark.ray, pytest.mark.timeout(500)]

FAULTY = '''
"""A rule that averages, after a fault; and a model large enough for the object store."""

import os
import signal
import time
from dataclasses import dataclass
from math import prod
from pathlib import Path

import psutil
from torch import nn

from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.average import Average


@dataclass(frozen=True, slots=True)
class Faulty(PeerStrategy):
    faults: str

    def aggregate(self, inbox, state, ctx):
        fault = Path(self.faults) / f"node {ctx.node} round {ctx.round}"
        if fault.exists():
            what = fault.read_text()
            if what == "hold":
                self._hold(fault)
            fault.unlink(missing_ok=True)
            if what == "raise":
                raise RuntimeError("planned failure")
            if what == "kill worker":
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "kill mailbox":
                (mailbox,) = [p for p in psutil.Process().parent().children() if "ray::Slots" in " ".join(p.cmdline())]
                mailbox.kill()
                mailbox.wait(timeout=60)
        return Average().aggregate(inbox, state, ctx)

    def _hold(self, fault):
        """Wait at this point of the run until the fault is taken away."""
        deadline = time.monotonic() + 150
        while fault.exists() and time.monotonic() < deadline:
            time.sleep(0.05)


def linear(input_shape, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(input_shape), 16), nn.ReLU(), nn.Linear(16, num_classes))
'''

SMALL = {
    "num-nodes": 4,
    "num-byzantine": 1,
    "num-rounds": 5,
    "topology.name": "complete",
    "strategy.name": "faulty:Faulty",
    "attack.name": "scaling",
    "model.name": "faulty:linear",
    "data.num-train": 200,
    "data.num-test": 50,
    "network.late-rate": 0.3,
    "network.staleness": 1,
    "checkpoint.every": 1,
}
DIED = "its worker process died: ended after node-timeout = 600 s, out of memory, killed, or crashed"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder from which rule and model can be imported here and by workers."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "faulty.py").write_text(FAULTY, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        yield folder
        sys.modules.pop("faulty", None)


@pytest.fixture(scope="module")
def plan(workplace):
    """Where faults are planned; none is left over from another test."""
    return new_folder(workplace, "faults")


@pytest.fixture
def faults(plan):
    """Plan what happens at a node when it closes a round."""

    def planned(what, node, round):
        (plan / f"node {node} round {round}").write_text(what, encoding="utf-8")

    yield planned
    for left in plan.iterdir():
        left.unlink()


@pytest.fixture(scope="module")
def expected(workplace, plan):
    """The run in which nothing fails."""
    folder = new_folder(workplace, "expected")
    run_local(configured(plan), folder)
    return folder


def configured(plan: Path, **changes: object) -> RunConfig:
    return parse(SMALL | {"strategy.params": {"faults": str(plan)}} | changes)


def failures_of(folder: Path) -> list[tuple[int, int, str, str]]:
    lines = read_lines(folder / "failures.jsonl")
    return [(line["round"], line["node"], line["cause"], line["consequence"]) for line in lines]


def flower_dfl(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("flower-dfl"), *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("transport", ["mailbox", "relay"])
def test_a_restarting_run_ends_with_the_bytes_of_one_in_which_nothing_failed(
    workplace: Path, plan: Path, expected: Path, faults, transport: str
) -> None:
    faults("raise", 1, 2)
    faults("kill worker", 2, 3)
    if transport == "mailbox":
        faults("kill mailbox", 0, 4)
    folder = new_folder(workplace, f"restart-{transport}")

    run_flower(configured(plan, **{"on-node-failure": "restart", "transport": transport}), folder)

    assert_same_bytes(expected, folder, SMALL["num-nodes"])
    raised, killed, *lost = failures_of(folder)
    assert raised == (2, 1, "RuntimeError: planned failure", "restart")
    assert killed == (3, 2, DIED, "restart")
    backs = [(round, how) for round, node, _, how in lost if node == -1]  # after the steps that found it out
    assert backs == [(3, "restart")] * (transport == "mailbox")
    assert all("LostError: " in cause and how == "restart" for _, _, cause, how in lost)
    assert summary_of(folder)["status"] == "completed"
    assert summary_of(folder)["restarts"] == 2 + len(lost)


def test_a_skipping_run_goes_on_without_the_step_however_it_failed(workplace: Path, plan: Path, faults) -> None:
    config = configured(plan, **{"on-node-failure": "skip"})
    raised, killed = new_folder(workplace, "skip-raised"), new_folder(workplace, "skip-killed")
    faults("raise", 1, 2)
    faults("raise", 2, 3)
    run_local(config, raised)
    faults("raise", 1, 2)
    faults("kill worker", 2, 3)

    run_flower(config, killed)

    assert_same_bytes(raised, killed, SMALL["num-nodes"])
    assert failures_of(killed) == [(2, 1, "RuntimeError: planned failure", "skip"), (3, 2, DIED, "skip")]
    assert summary_of(killed)["failed_steps"] == 2
    assert (summary_of(killed) | {"seconds_total": 0}) == (summary_of(raised) | {"seconds_total": 0})
    flags = {(line["round"], line["node"]): line["flags"] for line in read_lines(killed / "rounds.jsonl")}
    assert flags[2, 1] == flags[3, 2] == ["failed"]


def test_a_stopping_run_ends_clearly_and_can_be_resumed_until_it_is_whole(
    workplace: Path, plan: Path, expected: Path, faults
) -> None:
    faults("kill worker", 1, 1)
    (workplace / "stopped.toml").write_text(tomli_w.dumps(flatten(configured(plan))), encoding="utf-8")
    killed = flower_dfl("run", "stopped.toml", "--results-dir", "stopped", cwd=workplace)
    (folder,) = (workplace / "stopped").iterdir()
    assert killed.returncode == 1, killed.stdout + killed.stderr
    assert f"node 1 failed between the exchanges of rounds 1 and 2: {DIED}" in killed.stderr
    assert failures_of(folder) == [(1, 1, DIED, "stop")]
    assert summary_of(folder)["status"] == "failed"
    assert DIED in summary_of(folder)["error"]

    faults("kill mailbox", 2, 2)
    lost = flower_dfl("resume", folder, cwd=workplace)
    assert lost.returncode == 1, lost.stdout + lost.stderr
    assert "failed between the exchanges of rounds 2 and 3: LostError: the mailbox " in lost.stderr
    assert {(round, how) for round, _, _, how in failures_of(folder)} == {(2, "stop")}
    assert summary_of(folder)["status"] == "failed"

    faults("hold", 0, 3)
    with resumed(folder, workplace) as process:
        wait_for_rounds(folder, 2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=100)
    assert process.returncode == 130
    assert summary_of(folder)["status"] == "interrupted"
    assert left_behind(folder) == []
    elsewhere = shutil.copytree(folder, workplace / "elsewhere")

    faults("hold", 0, 4)
    (plan / "node 0 round 3").unlink()
    with resumed(folder, workplace) as process:
        wait_for_rounds(folder, 3)
        process.kill()
    assert left_behind(folder) == []
    assert summary_of(folder)["status"] == "interrupted"
    assert summary_of(folder)["error"] == "the process that started the run died"

    (plan / "node 0 round 4").unlink()
    whole = flower_dfl("resume", folder, cwd=workplace)
    local = flower_dfl("resume", elsewhere, "--engine", "local", cwd=workplace)
    assert (whole.returncode, local.returncode) == (0, 0), whole.stdout + whole.stderr + local.stdout + local.stderr
    assert "going on after round 3\n" in whole.stdout
    for ended in (folder, elsewhere):
        assert_same_bytes(expected, ended, SMALL["num-nodes"])
        assert summary_of(ended) | {"seconds_total": 0} == summary_of(expected) | {"seconds_total": 0}


def test_a_machine_that_is_lost_takes_a_restarting_run_back_to_its_checkpoint(
    workplace: Path, plan: Path, expected: Path, faults
) -> None:
    faults("hold", 0, 3)
    config = configured(plan, **{"on-node-failure": "restart"})
    with (
        ray_cluster({"num_cpus": 1}, {"num_cpus": 2}) as cluster,
        background_run(config, workplace, "--ray-address", cluster.address) as (process, folder),
    ):
        wait_for_rounds(folder, 2)
        cluster.kill(1)
        (plan / "node 0 round 3").unlink()
        output, _ = process.communicate(timeout=300)

    assert process.returncode == 0, output
    assert_same_bytes(expected, folder, SMALL["num-nodes"])
    # what is noticed first is a worker that died or, if none was at work there, a half-step that is gone
    assert {how for _, _, _, how in failures_of(folder)} == {"restart"}
    assert summary_of(folder)["restarts"] >= 1


@contextmanager
def resumed(folder: Path, workplace: Path) -> Iterator[subprocess.Popen[str]]:
    """Resume a run in the background."""
    command = [program("flower-dfl"), "resume", str(folder)]
    with subprocess.Popen(
        command, cwd=workplace, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=_heed_interrupts,  # noqa: PLW1509 - no thread is running here
    ) as run:  # fmt: skip
        try:
            yield run
        finally:
            run.kill()


def _heed_interrupts() -> None:
    """Undo what a shell does to its background processes, and pytest may be one: they ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def left_behind(folder: Path) -> list[psutil.Process]:
    """Return which processes of a run are there when all should have ended."""
    _, alive = psutil.wait_procs(processes_of(folder), timeout=END_TIMEOUT + 15)
    return alive
