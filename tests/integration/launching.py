"""Runs and Ray clusters in the background, for tests that kill parts of them."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import tomli_w

from flower_dfl.config import RunConfig, flatten
from flower_dfl.engines.flower import program
from flower_dfl.engines.guardian import Family
from tests.integration.conftest import summary_of

PATIENCE = 200.0

WITNESS = '''
"""A rule that averages, and writes down on which worker it did so."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import ray

from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.average import Average


@dataclass(frozen=True, slots=True)
class Witness(PeerStrategy[None]):
    """``together``: no worker goes on before so many of them are at work at the same time."""

    folder: str
    together: int = 0

    def aggregate(self, inbox, state, ctx):
        if ray.is_initialized():
            self._testify(f"{os.getpid()}.json")
        return Average().aggregate(inbox, state, ctx)

    def _testify(self, name):
        context = ray.get_runtime_context()
        said = {
            "cluster": context.gcs_address,
            "machine": context.get_node_id(),
            "cuda": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "gpus": context.get_assigned_resources().get("GPU", 0),
        }
        half = Path(self.folder) / f".{name}"
        half.write_text(json.dumps(said))
        half.rename(Path(self.folder) / name)
        deadline = time.monotonic() + 60
        while len(list(Path(self.folder).glob("[0-9]*.json"))) < self.together:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no {self.together} workers at once within a minute")
            time.sleep(0.05)
'''


@dataclass(frozen=True, slots=True)
class RayCluster:
    """A cluster that runs in a process of its own."""

    address: str
    process: psutil.Popen

    def kill(self, node: int) -> None:
        """Kill a node, given by its place among the resources, as a crash of its machine would; 0 is the head."""
        self.process.stdin.write(f"{node}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == f"killed {node}\n"


@contextmanager
def ray_cluster(*nodes: dict[str, int]) -> Iterator[RayCluster]:
    """Start a cluster, and end it.

    Args:
        nodes: ``num_cpus`` and ``num_gpus`` of each node, head first; GPUs are declared, not there.
    """
    folder = tempfile.mkdtemp(prefix="ray-")  # the paths of its sockets must be short
    process = psutil.Popen(
        [sys.executable, str(Path(__file__).with_name("ray_nodes.py")), json.dumps(nodes)],
        env=os.environ | {"RAY_TMPDIR": folder}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    family = Family(process)
    try:
        address = process.stdout.readline().strip()
        assert address, "the cluster did not start"
        family.look()
        yield RayCluster(address, process)
    finally:
        family.look()
        process.stdin.close()
        psutil.wait_procs([process], timeout=30)
        process.stdout.close()
        family.end()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def background_run(config: RunConfig, workplace: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Start ``flower-dfl run`` and return its process and its run folder; kill it at the end if it still runs."""
    (workplace / "config.toml").write_text(tomli_w.dumps(flatten(config)), encoding="utf-8")
    results = workplace / "results"
    command = [program("flower-dfl"), "run", "config.toml", "--results-dir", str(results), *options]
    with subprocess.Popen(
        command, cwd=workplace, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:  # fmt: skip
        try:
            yield process, _new_folder(results, process)
        finally:
            process.kill()


def wait_for_rounds(folder: Path, count: int) -> None:
    """Wait until a run has recorded so many rounds."""
    deadline = time.monotonic() + PATIENCE
    while summary_of(folder)["rounds"] < count:
        assert time.monotonic() < deadline, f"no {count} rounds within {PATIENCE:.0f} s"
        time.sleep(0.1)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return the processes that were started for a run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("FLOWER_DFL_RUN_FOLDER") == str(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _new_folder(results: Path, process: subprocess.Popen[str]) -> Path:
    deadline = time.monotonic() + PATIENCE
    while not (found := list(results.glob("*/summary.json"))):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the run did not begin"
        time.sleep(0.1)
    return found[0].parent
