"""What the benchmarks share: functions that workers can import, the ends of rounds, and the memory of an engine."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from flower_dfl.config import RunConfig

_INTERVAL = 0.25
_LOOK = 0.05
_KINDS = ("Pss_Anon:", "Pss_File:")


def make_importable(folder: Path, name: str, source: str) -> None:
    """Write a module where this process and Ray's workers can import it."""
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        os.environ["PYTHONPATH"] = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"


def round_ends(run: Callable[..., None], config: RunConfig, folder: Path) -> list[float]:
    """Run a configuration in a new folder; return when it began, and when each round ended.

    The ``flower`` engine's own word may come later, so the run's summary is read.
    """
    folder.mkdir()
    ends = [time.perf_counter()]
    ended = threading.Event()

    def read() -> None:
        while not ended.wait(_LOOK):
            with suppress(OSError):
                rounds = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["rounds"]
                ends.extend([time.perf_counter()] * (rounds + 1 - len(ends)))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        run(config, folder)
    finally:
        ended.set()
        thread.join()
    ends.extend([time.perf_counter()] * (config.num_rounds + 1 - len(ends)))
    return ends


@contextmanager
def memory_samples(*, own: bool = False) -> Iterator[list[tuple[float, float]]]:
    """Sample the memory of the engine that the block runs, as pairs of time and MB.

    Args:
        own: Sample this process, for the ``local`` engine; else all that descends from it.
    """
    samples: list[tuple[float, float]] = []
    ended = threading.Event()
    read = _own_memory if own else _family_memory

    def sample() -> None:
        while not ended.wait(_INTERVAL):
            samples.append((time.perf_counter(), read() / 1e6))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def _own_memory() -> float:
    return float(psutil.Process().memory_info().rss)


def _family_memory() -> float:
    """Return the bytes of all descendants: pages that several of them share are counted once, the object store too."""
    total, stores = 0.0, dict[tuple[int, int], int]()
    for process in psutil.Process().children(recursive=True):
        with suppress(OSError, psutil.Error):  # it may have ended
            total += _proportional(process.pid)
            if process.name() == "raylet":
                stores |= _stores(process.pid)
    return total + sum(stores.values())


def _proportional(pid: int) -> float:
    """Return a process's share of its pages, without shared memory, where the object store is."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return sum(1024.0 * int(line.split()[1]) for line in lines if line.startswith(_KINDS))


def _stores(pid: int) -> dict[tuple[int, int], int]:
    """Return the bytes that the files of Ray's object store take; they have no name any more, only descriptors."""
    found = {}
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if "plasma" in descriptor.readlink().name:
                status = descriptor.stat()
                found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return found
