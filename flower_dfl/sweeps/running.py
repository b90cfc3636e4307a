"""Running the cells that are not complete, each in an operating system process of its own.

A process starts by locking its cell's folder and looking at what is there (:func:`next_command`); it ends when the
sweep does, because it follows the pipe that the sweep holds. So a sweep that was killed can be started again at once: a
cell is never run by two processes at the same time, and never again when it is complete.
"""

import json
import multiprocessing
import os
import runpy
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import psutil
import tomli_w

from flower_dfl.checkpoint import load_checkpoint, recorded_config
from flower_dfl.code_version import code_version
from flower_dfl.config import nest
from flower_dfl.engines.guardian import Family
from flower_dfl.errors import ConfigurationError, ResumeError
from flower_dfl.records import check_records
from flower_dfl.sweeps.cells import code_of, completed_run, matching_runs
from flower_dfl.sweeps.definition import PlannedCell, Sweep
from flower_dfl.sweeps.processes import locked
from flower_dfl.writing import write_text

__all__ = ["LOG", "Backend", "Ended", "LocalProcesses", "Progress", "next_command", "outcome", "run_sweep"]

LOG = "log.txt"
"""What the processes of a cell say, in its folder."""

_INTERRUPTED = 130  # what the command ends with after Ctrl-C

_PRELOADED = ["flower_dfl.cli.app", "flower_dfl.data.vision"]  # all that takes seconds to import
_POLL = 0.2
_END_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Ended:
    """A cell's process that has ended.

    Attributes:
        folder: The cell's folder.
        error: Why the cell is not complete; None if it is.
    """

    folder: Path
    error: str | None


class Backend(Protocol):
    """Where the processes of cells run. As a context manager it ends, on leaving, all that still run."""

    @property
    def slots(self) -> int:
        """How many may run at once."""

    def start(self, folder: Path) -> None:
        """Start the process of a cell."""

    def ended(self) -> list[Ended]:
        """Wait a moment, and return the cells whose processes have ended since."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Progress:
    """A sweep at one moment.

    Attributes:
        statuses: Of every cell by name: ``waiting``, ``running``, ``completed`` or ``failed``.
        seconds_left: Estimate, from the mean of the cells that ended in this session; None before the first.
        cell: The cell that has just ended, None if none has.
        seconds: How long it took.
        error: Why it failed, None if it did not.
    """

    statuses: Mapping[str, str]
    seconds_left: float | None
    cell: str | None = None
    seconds: float = 0.0
    error: str | None = None


def run_sweep(
    sweep: Sweep, folder: Path, backend: Backend, report: Callable[[Progress], None] = lambda _: None
) -> dict[str, str]:
    """Run the cells of a sweep that are not complete, and return the status of every cell by name.

    Args:
        sweep: What to run.
        folder: Its folder; what is there from an earlier session counts.
        backend: Where to run it.
        report: Called at the start and whenever a cell starts or ends.

    Raises:
        ConfigurationError: The folder cannot be written.
        DflError: Another process runs a sweep in this folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lock").touch()
    except OSError as error:
        raise ConfigurationError(f"cannot write to the sweep folder {folder}: {error.strerror}") from error
    with locked(folder / "lock", f"the sweep folder {folder}"):
        return _Session(sweep, folder, backend, report).run()


class _Session:
    """One call of :func:`run_sweep`."""

    def __init__(self, sweep: Sweep, folder: Path, backend: Backend, report: Callable[[Progress], None]) -> None:
        self._sweep = sweep
        self._folder = folder
        self._backend = backend
        self._report = report
        self._cells = {_prepare(folder, cell): cell for cell in sweep.cells}
        self._statuses = {
            cell.name: "completed" if completed_run(path) else "waiting" for path, cell in self._cells.items()
        }
        self._began: dict[Path, float] = {}
        self._durations: list[float] = []
        self._errors: dict[str, str] = {}

    def run(self) -> dict[str, str]:
        waiting = deque(path for path, cell in self._cells.items() if self._statuses[cell.name] == "waiting")
        self._publish()
        try:
            with self._backend as backend:
                while waiting or self._began:
                    while waiting and len(self._began) < backend.slots:
                        self._start(waiting.popleft())
                    for ended in backend.ended():
                        self._end(ended)
        finally:
            for path in self._began:  # ended on leaving the backend
                self._statuses[self._cells[path].name] = "completed" if completed_run(path) else "waiting"
            self._write_index()
        return self._statuses

    def _start(self, path: Path) -> None:
        self._began[path] = time.monotonic()
        self._backend.start(path)
        self._statuses[self._cells[path].name] = "running"
        self._errors.pop(self._cells[path].name, None)
        self._publish()

    def _end(self, ended: Ended) -> None:
        name = self._cells[ended.folder].name
        seconds = time.monotonic() - self._began.pop(ended.folder)
        self._durations.append(seconds)
        self._statuses[name] = "failed" if ended.error else "completed"
        if ended.error:
            self._errors[name] = ended.error
        self._publish(cell=name, seconds=seconds, error=ended.error)

    def _publish(self, **last: Any) -> None:  # noqa: ANN401 - fields of Progress
        self._write_index()
        left = sum(status in ("waiting", "running") for status in self._statuses.values())
        mean = sum(self._durations) / len(self._durations) if self._durations else None
        estimate = None if mean is None else mean * left / min(self._backend.slots, max(left, 1))
        self._report(Progress(dict(self._statuses), estimate, **last))

    def _write_index(self) -> None:
        tables = [cell.settings for cell in self._sweep.cells]
        differing = [key for key in tables[0] if any(table[key] != tables[0][key] for table in tables)]
        cells = [
            {
                "name": cell.name,
                "hash": cell.hash,
                "settings": {key: cell.settings[key] for key in differing},
                "folder": str(path.relative_to(self._folder)),
                "status": self._statuses[cell.name],
            }
            | ({"error": self._errors[cell.name]} if cell.name in self._errors else {})
            for path, cell in self._cells.items()
        ]
        write_text(self._folder / "sweep.json", json.dumps({"definition": self._sweep.text, "cells": cells}, indent=1))


def _prepare(folder: Path, cell: PlannedCell) -> Path:
    """Make a cell's folder, with its settings as a file that ``flower-dfl run`` takes too."""
    path = folder / "cells" / cell.folder
    path.mkdir(parents=True, exist_ok=True)
    write_text(path / "settings.toml", tomli_w.dumps(nest(cell.settings)))
    return path


def next_command(folder: Path, engine: str) -> list[str] | None:
    """Return what ``flower-dfl`` has to do for a cell: resume, start anew, or nothing (None), as it is complete.

    A run that other code began, or whose checkpoint or records are damaged, is not resumed.
    """
    if completed_run(folder):
        return None
    for run in reversed(matching_runs(folder)):
        if any(run.glob("checkpoint/state-*")) and code_of(run) == code_version() and _is_sound(run):
            return ["resume", str(run), "--engine", engine]
    return ["run", str(folder / "settings.toml"), "--engine", engine, "--results-dir", str(folder)]


def _is_sound(run: Path) -> bool:
    """Return whether a run has a checkpoint from which it can go on."""
    try:
        checkpoint = load_checkpoint(run, recorded_config(run))
        if checkpoint is not None:
            check_records(run, checkpoint.mark)
    except ResumeError:
        return False
    return checkpoint is not None


def outcome(folder: Path, code: int, log_start: int = 0) -> str | None:
    """Return why a cell whose process ended with this code is not complete, or None if it is.

    What is on disk decides, not the code.

    Args:
        folder: The cell's folder.
        code: What its process ended with.
        log_start: Where in the cell's log that process began; before it is what earlier ones said.
    """
    if completed_run(folder):
        return None
    if code < 0:
        return f"ended by signal {-code}"
    if code == _INTERRUPTED:
        return "interrupted"
    log = folder / LOG
    text = log.read_bytes()[log_start:].decode(errors="replace") if log.exists() else ""
    said = [line.strip() for line in text.split("\n") if line.strip()]
    errors = [line for line in said if line.startswith(("error: ", "failed: "))]
    return (errors or said or [f"ended with code {code}"])[-1]


class LocalProcesses:
    """Processes on this machine, forked from one that has imported everything: that takes longer than a small run.

    Args:
        slots: How many at once.
        engine: Engine of the runs.
        environment: Their environment; None is this process's.
    """

    def __init__(self, slots: int, engine: str, environment: Mapping[str, str] | None = None) -> None:
        self.slots = slots
        self._engine = engine
        self._environment = environment
        self._processes: dict[Path, ForkServerProcess] = {}
        self._log_starts: dict[Path, int] = {}

    def start(self, folder: Path) -> None:
        """Start the process of a cell; its output goes to the cell's log."""
        environment = dict(os.environ if self._environment is None else self._environment)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        log = folder / LOG
        self._log_starts[folder] = log.stat().st_size if log.exists() else 0
        process = context.Process(target=_run_cell, args=(folder, self._engine, environment))
        process.start()
        self._processes[folder] = process

    def ended(self) -> list[Ended]:
        """Wait a moment, and return the cells whose processes have ended since."""
        sentinels = {process.sentinel: folder for folder, process in self._processes.items()}
        found = [sentinels[sentinel] for sentinel in wait(list(sentinels), timeout=_POLL)]  # type: ignore[index]
        return [Ended(folder, outcome(folder, self._close(folder), self._log_starts.pop(folder))) for folder in found]

    def _close(self, folder: Path) -> int:
        process = self._processes.pop(folder)
        process.join()
        code = process.exitcode
        process.close()
        return int(code or 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.terminate()  # once: a second time would interrupt what it does to end
        deadline = time.monotonic() + _END_TIMEOUT
        for process in self._processes.values():
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive() and process.pid is not None:
                with suppress(psutil.NoSuchProcess):
                    Family(psutil.Process(process.pid)).end()


def _run_cell(folder: Path, engine: str, environment: Mapping[str, str]) -> None:
    """Be ``flower-dfl sweep-cell`` from here on."""
    os.setsid()  # Ctrl-C reaches the sweep only, which then ends its cells
    parent = multiprocessing.parent_process()
    log = os.open(folder / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    if parent is not None:
        os.dup2(parent.sentinel, sys.stdin.fileno())  # ends when the sweep does, and the cell with it
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["flower-dfl", "sweep-cell", str(folder), "--engine", engine]
    runpy.run_module("flower_dfl", run_name="__main__", alter_sys=True)
