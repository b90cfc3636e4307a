"""The ``flower`` engine, from the outside: a private SuperLink that runs the app, watched until it has ended.

``flwr run`` returns 0 for failed runs, leaves a SuperLink behind, and shares it with every other checkout on the
machine. Here each run gets a SuperLink of its own (own home, free ports, neutral working directory) under a guardian,
which ends whatever was started, and nothing else, also when this process is killed.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import tomli_w

import flower_dfl
from flower_dfl.checkpoint import checkpoint_round
from flower_dfl.config import RunConfig, flatten
from flower_dfl.engines.guardian import END_TIMEOUT, LEAVE
from flower_dfl.errors import ConfigurationError, DflError, NodeFailedError, TransportError
from flower_dfl.records import RoundSummary, reopen, summarise_round
from flower_dfl.validation import workers_allowed
from flower_dfl.wire import COMMAND_VARIABLE, MOST_WORKERS_VARIABLE, RUN_FOLDER_VARIABLE
from flower_dfl.writing import end_unfinished

__all__ = ["find_cluster", "private_superlink", "program", "run_flower"]

_START_TIMEOUT = 60.0
_START_TRIES = 3
_POLL = 0.2
_SILENCE = 20.0
"""Seconds without a new round after which Flower is asked what has become of the run, and between two times."""
_CONNECT_TIMEOUT = 5.0
_NO_PROXY = ("no_proxy", "NO_PROXY")
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def run_flower(
    config: RunConfig,
    folder: Path,
    on_round: Callable[[RoundSummary], None] = lambda _: None,
    *,
    cpus_per_node: float = 1.0,
    gpus_per_node: float = 0.0,
    ray_address: str | None = None,
) -> None:
    """Run a configuration on Flower's simulation engine and wait for its end.

    Args:
        config: What to run.
        folder: An existing folder: empty, or a run's own, which then goes on from its newest checkpoint. Flower's logs
            go to ``flower.log`` in it.
        on_round: Called after every round.
        cpus_per_node: CPUs that Ray reserves for each worker, a whole number; decides how many work at once.
        gpus_per_node: GPUs, likewise; fractions share one.
        ray_address: The Ray cluster to join, as HOST:PORT; ``local`` starts one for this run. By default the one in the
            environment variable RAY_ADDRESS, or else ``local``.

    Raises:
        ConfigurationError: Flower cannot reserve such resources, or FLOWER_DFL_MOST_WORKERS is no number of workers.
        TransportError: Flower could not be started.
        NodeFailedError: The run failed; the message is the one that the ServerApp recorded.
    """
    if not (float(cpus_per_node).is_integer() and cpus_per_node >= 1 and gpus_per_node >= 0):
        raise ConfigurationError(
            "expected a whole number of CPUs per worker, at least 1, and no negative share of GPUs, "
            f"got {cpus_per_node:g} and {gpus_per_node:g}"
        )
    most_workers = min(config.num_nodes, workers_allowed(os.environ) or config.num_nodes)
    if (folder / "summary.json").exists():
        reopen(folder, checkpoint_round(folder, config))
    try:
        with tempfile.TemporaryDirectory(prefix="flower-dfl-", ignore_cleanup_errors=True) as scratch:
            workplace = Path(scratch)
            _write_app(workplace / "app", config)
            with private_superlink(workplace, folder, ray_address, most_workers) as (environment, process):
                run_id = _submit(workplace, environment, config, cpus_per_node, gpus_per_node)
                _watch(folder, process, lambda: _status(workplace, environment, run_id), on_round)
    except KeyboardInterrupt:
        end_unfinished(folder, "interrupted", "KeyboardInterrupt")
        raise
    except Exception as error:
        end_unfinished(folder, "failed", f"{type(error).__name__}: {error}")
        raise


def _write_app(app: Path, config: RunConfig) -> None:
    """Write a Flower app that holds nothing but its configuration."""
    app.mkdir()
    project = {
        "project": {"name": "flower-dfl", "version": flower_dfl.__version__, "license": "Apache-2.0"},
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "flower-dfl",
                    "fab-include": ["pyproject.toml"],
                    "components": {
                        "serverapp": "flower_dfl.server_app:app",
                        "clientapp": "flower_dfl.client_app:app",
                    },
                    "config": flatten(config),
                }
            }
        },
    }
    (app / "pyproject.toml").write_text(tomli_w.dumps(project), encoding="utf-8")
    (app / "README.md").write_text("A flower-dfl run.\n", encoding="utf-8")


@contextmanager
def private_superlink(
    workplace: Path, folder: Path, ray_address: str | None = None, most_workers: int | None = None
) -> Iterator[tuple[Mapping[str, str], psutil.Process]]:
    """Start a SuperLink, hand out its environment and its guardian, and end it with everything that it started.

    Args:
        workplace: An existing folder for its home; the connection in it is called ``private``.
        folder: Where its log goes, ``flower.log``.
        ray_address: The Ray cluster of its simulations; see :func:`run_flower`.
        most_workers: The most that a simulation of this app starts; by default as many as fit.
    """
    for attempt in range(_START_TRIES):
        home = workplace / f"home-{attempt}"
        home.mkdir()
        port, control = _free_port(), _free_port()
        environment = _environment(home, folder, ray_address, most_workers)
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "private"\n\n[superlink.private]\naddress = "127.0.0.1:{port}"\ninsecure = true\n',
            encoding="utf-8",
        )
        with (folder / "flower.log").open("ab") as log:
            guardian = psutil.Popen(
                [
                    sys.executable, "-m", "flower_dfl.engines.guardian",
                    program("flower-superlink"), "--insecure", "--simulation", "--isolation", "subprocess",
                    "--control-api-address", f"127.0.0.1:{control}", "--host", "127.0.0.1", "--port", str(port),
                ],
                env=environment, cwd=workplace, stdin=subprocess.PIPE, stdout=log, stderr=log,
                start_new_session=True,  # Ctrl-C reaches this process only, which then has the others ended in order
            )  # fmt: skip
        try:
            if _is_healthy(port, guardian):
                yield environment, guardian
                return
        finally:
            with suppress(BrokenPipeError):  # it has ended
                guardian.stdin.write(LEAVE)
                guardian.stdin.close()
            psutil.wait_procs([guardian], timeout=END_TIMEOUT + _CONNECT_TIMEOUT)
    raise TransportError(f"Flower's SuperLink did not start in {_START_TRIES} tries; see {folder / 'flower.log'}")


def find_cluster(address: str) -> str:
    """Join a Ray cluster for a moment and return where it is and what it has.

    Args:
        address: HOST:PORT of the cluster's head.

    Raises:
        ConfigurationError: The address is malformed.
        TransportError: No cluster that this machine belongs to answers there within a minute.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise ConfigurationError(f"expected a Ray address HOST:PORT, or 'local', got {address!r}")
    try:
        socket.create_connection((host, int(port)), _CONNECT_TIMEOUT).close()
        done = subprocess.run(
            [sys.executable, "-m", "flower_dfl.transport.cluster", address],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_START_TIMEOUT, check=False,
        )  # fmt: skip
    except (OSError, OverflowError) as error:
        raise TransportError(f"no Ray cluster answers at {address}: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise TransportError(f"no Ray cluster answers at {address} within {_START_TIMEOUT:.0f} s") from error
    if done.returncode != 0:
        raise TransportError(f"the Ray cluster at {address} cannot be joined: {done.stderr.strip()[-1000:]}")
    return done.stdout.strip()


def _environment(
    home: Path, folder: Path, ray_address: str | None = None, most_workers: int | None = None
) -> dict[str, str]:
    """Return Flower's environment: offline, private, and with the caller's own modules importable.

    Flower's processes start in another folder, so that relative paths are made absolute.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    modules = os.pathsep.join([str(Path.cwd()), *(str(Path(entry).absolute()) for entry in given)])
    data = os.environ.get("FLOWER_DFL_DATA")
    direct = [entry for entry in map(os.environ.get, _NO_PROXY) if entry]
    return {
        **os.environ,
        **({"FLOWER_DFL_DATA": str(Path(data).expanduser().absolute())} if data else {}),
        # Ray joins any cluster on the machine if it is not told
        "RAY_ADDRESS": ray_address or os.environ.get("RAY_ADDRESS") or "local",
        # gRPC would ask a proxy for this machine
        **dict.fromkeys(_NO_PROXY, "*" if "*" in direct else ",".join([*direct, "127.0.0.1", "localhost"])),
        "PATH": path,
        "PYTHONPATH": modules,
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        RUN_FOLDER_VARIABLE: str(folder),
        COMMAND_VARIABLE: json.dumps(sys.argv),
        **({MOST_WORKERS_VARIABLE: str(most_workers)} if most_workers else {}),
    }


def program(name: str) -> str:
    """Return the path of a program of this environment."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is None:
        raise ConfigurationError(f"the program {name!r} is not installed beside {sys.executable}; is flwr installed?")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_healthy(port: int, process: psutil.Process) -> bool:
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        try:
            with _DIRECTLY.open(f"http://127.0.0.1:{port}/health", timeout=1):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(_POLL)
    return False


def _submit(workplace: Path, environment: Mapping[str, str], config: RunConfig, cpus: float, gpus: float) -> str:
    federation = (
        f"num-supernodes={config.num_nodes} client-resources-num-cpus={cpus:g} client-resources-num-gpus={gpus:g}"
    )
    answer = _flwr(workplace, environment, "run", "app", "private", "--federation-config", federation)
    run_id = answer.get("run-id")
    if not run_id:
        raise TransportError(f"Flower did not accept the run: {answer.get('error-message', answer)}")
    return str(run_id)


def _status(workplace: Path, environment: Mapping[str, str], run_id: str) -> str:
    """Return Flower's own word on the run, such as ``running`` or ``finished:failed``."""
    try:
        answer = _flwr(workplace, environment, "ls", "private", "--run-id", run_id)
    except _NoAnswerError:  # the machine is busy, perhaps with the run
        return "unknown"
    runs = answer.get("runs", [])
    return str(runs[0].get("status", "unknown")) if runs else "unknown"


class _NoAnswerError(TransportError):
    """Flower's command line did not answer in time."""


def _flwr(workplace: Path, environment: Mapping[str, str], *arguments: str) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [program("flwr"), *arguments, "--format", "json"],
            env=dict(environment), cwd=workplace, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_START_TIMEOUT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise _NoAnswerError(f"'flwr {arguments[0]}' did not answer within {_START_TIMEOUT:.0f} s") from error
    start, end = done.stdout.find("{"), done.stdout.rfind("}")
    try:
        return dict(json.loads(done.stdout[start : end + 1]))
    except (json.JSONDecodeError, ValueError) as error:
        raise TransportError(f"'flwr {arguments[0]}' said: {(done.stdout + done.stderr).strip()[-2000:]}") from error


def _watch(
    folder: Path, process: psutil.Process, status: Callable[[], str], on_round: Callable[[RoundSummary], None]
) -> None:
    """Follow the records until the run has ended; raise if it failed. A resumed run has recorded rounds already."""
    reader = _Reader(folder / "rounds.jsonl", _summary(folder).get("rounds", 0))
    heard = time.monotonic()
    while True:
        summary = _summary(folder)
        if reader.report(summary.get("rounds", 0), on_round):
            heard = time.monotonic()
        if summary.get("status") == "completed":
            return
        if summary.get("status") == "failed":
            raise NodeFailedError(str(summary["error"]))
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            raise TransportError(f"Flower's SuperLink ended before the run did; see {folder / 'flower.log'}")
        if time.monotonic() - heard > _SILENCE:  # asking takes two seconds of a processor
            said = status()
            heard = time.monotonic()
            if said.startswith("finished") and _summary(folder).get("status") not in ("completed", "failed"):
                raise DflError(f"Flower ended the run ({said}) before its end; see {folder / 'flower.log'}")
        time.sleep(_POLL)


@dataclass(slots=True)
class _Reader:
    """Reports rounds as they are completed, and reads what it has reported no second time.

    Attributes:
        path: ``rounds.jsonl``.
        seen: The last round that was reported.
        place: Where the next one begins in the file.
    """

    path: Path
    seen: int
    place: int = 0

    def report(self, complete: int, on_round: Callable[[RoundSummary], None]) -> bool:
        """Report the rounds that were completed since; return whether the number of complete ones has changed.

        The summary says how many there are: the file may end in the middle of a round that is being written.
        """
        if complete == self.seen:
            return False
        if complete > self.seen:
            rounds = self._rounds_up_to(complete)
            if min(rounds, default=0) != self.seen + 1:  # not read yet, or written anew from a checkpoint on
                self.place = 0
                rounds = self._rounds_up_to(complete)
            for number in range(self.seen + 1, complete + 1):
                if number not in rounds:  # the run has gone back to its checkpoint meanwhile
                    complete = number - 1
                    break
                on_round(summarise_round(rounds[number]))
        before, self.seen = self.seen, complete
        return complete != before

    def _rounds_up_to(self, complete: int) -> dict[int, list[dict[str, Any]]]:
        """Return the lines from the place on, by round."""
        rounds: dict[int, list[dict[str, Any]]] = {}
        with self.path.open("rb") as file:
            file.seek(max(self.place - 1, 0))
            if self.place and file.read(1) != b"\n":
                return rounds
            while (line := file.readline()).endswith(b"\n"):
                record = json.loads(line)
                if record["round"] > complete:
                    break
                rounds.setdefault(record["round"], []).append(record)
                self.place = file.tell()
        return rounds


def _summary(folder: Path) -> dict[str, Any]:
    """Return the run's summary so far; empty before the ServerApp has started."""
    path = folder / "summary.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
