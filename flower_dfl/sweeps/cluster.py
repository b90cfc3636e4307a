"""Cells as tasks of a Ray cluster: each runs on some machine, and its run folder comes back as a tar archive.

The machines need no common disk, only this package, in the same version, and whatever else the cells refer to. A task
is the parent of the same process that the cell would have on one machine: Flower inside a Ray task does not work. When
a machine dies, Ray starts the task again on another; when the sweep dies, Ray ends its tasks and with them the cells.
"""

import gzip
import io
import os
import signal
import tarfile
import tempfile
import time
import uuid
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError, RayTaskError

from flower_dfl.code_version import code_version
from flower_dfl.engines.flower import find_cluster
from flower_dfl.errors import StorageError, TransportError
from flower_dfl.sweeps.running import LOG, Ended, LocalProcesses
from flower_dfl.writing import storing

__all__ = ["RayTasks", "pack", "unpack"]

_POLL = 0.2
_RETRIES = 3
_FETCH_TIMEOUT = 300.0
_EMPTY_TIMEOUT = 120.0
_LOOK_EVERY = 5.0


class RayTasks:
    """Tasks of a cluster, one CPU each.

    Args:
        address: HOST:PORT of the cluster's head. This machine has to be one of the cluster.
        jobs: How many at once; None is one for each CPU that the cluster has at the start.
        engine: Engine of the runs.
    """

    def __init__(self, address: str, jobs: int | None, engine: str) -> None:
        self.slots = jobs or 1
        self._count_cpus = jobs is None
        self._address = address
        self._engine = engine
        self._tasks: dict[Any, Path] = {}
        self._task: Any = None
        self._looked = self._seen = 0.0

    def __enter__(self) -> Self:
        find_cluster(self._address)  # in a bounded time, unlike what follows
        handler = signal.getsignal(signal.SIGTERM)
        ray.init(self._address, logging_level="error", log_to_driver=False)
        signal.signal(signal.SIGTERM, handler)  # Ray has put its own there
        self._task = ray.remote(_run).options(num_cpus=1, max_retries=_RETRIES)
        self._looked = self._seen = time.monotonic()
        if self._count_cpus:
            self.slots = max(1, int(ray.cluster_resources().get("CPU", 1)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            ray.cancel(task, force=True)
        ray.shutdown()

    def start(self, folder: Path) -> None:
        """Start the task of a cell."""
        settings = (folder / "settings.toml").read_bytes()
        self._tasks[self._task.remote(settings, self._engine, code_version())] = folder

    def ended(self) -> list[Ended]:
        """Wait a moment, and return the cells whose tasks have ended since.

        Raises:
            TransportError: The cluster has had no machine for two minutes.
        """
        self._check_machines()
        ready, _ = ray.wait(list(self._tasks), num_returns=1, timeout=_POLL)
        return [Ended(folder := self._tasks.pop(task), _receive(task, folder)) for task in ready]

    def _check_machines(self) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY:
            return
        self._looked = now
        if ray.cluster_resources().get("CPU", 0) >= 1:
            self._seen = now
        elif now - self._seen > _EMPTY_TIMEOUT:
            raise TransportError(f"the Ray cluster at {self._address} has had no CPU for {_EMPTY_TIMEOUT:.0f} s")


def _run(settings: bytes, engine: str, code: str) -> tuple[str | None, bytes]:
    """Run a cell on the machine where this is called; return why it is not complete, and its folder."""
    if code_version() != code:
        raise TransportError(f"a machine of the cluster has flower-dfl {code_version()}, the sweep has {code}")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}  # of this worker
    with tempfile.TemporaryDirectory(prefix="flower-dfl-cell-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        (folder / "settings.toml").write_bytes(settings)
        with LocalProcesses(1, engine, environment) as processes:
            processes.start(folder)
            while not (ended := processes.ended()):
                pass
        return ended[0].error, pack(folder)


def _receive(task: Any, folder: Path) -> str | None:  # noqa: ANN401 - Ray's reference
    """Put what a task returned into the cell's folder; return why the cell is not complete."""
    try:
        error, archive = ray.get(task, timeout=_FETCH_TIMEOUT)
        unpack(archive, folder)
    except RayTaskError as failure:
        return f"{type(failure.cause).__name__}: {failure.cause}"
    except (RayError, TransportError, StorageError) as failure:
        return f"{type(failure).__name__}: {str(failure).partition(chr(10))[0]}"
    return str(error) if error else None


def pack(folder: Path) -> bytes:
    """Return a tar archive of the run folders and the log of a cell."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for path in sorted(folder.iterdir()):
            if path.is_dir() or path.name == LOG:
                archive.add(path, arcname=path.name)
    return buffer.getvalue()


def unpack(data: bytes, folder: Path) -> None:
    """Put the run folders of an archive into a cell's folder, each by one renaming.

    Raises:
        TransportError: The archive is malformed, or holds something else than files and folders inside itself.
        StorageError: It cannot be written.
    """
    with storing(folder), tempfile.TemporaryDirectory(prefix="incoming-", dir=folder) as scratch:
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
                members = archive.getmembers()
                for member in members:
                    if not (member.isfile() or member.isdir()) or member.name.startswith("/"):
                        raise TransportError(f"expected files and folders in the archive, got {member.name!r}")
                archive.extractall(scratch, members, filter="data")  # refuses what would leave the folder
        except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise TransportError(f"the archive of the cell is malformed: {error}") from error
        for path in sorted(Path(scratch).iterdir(), key=lambda path: path.is_dir()):
            target = folder / path.name
            if path.is_dir() and target.exists():  # an attempt of the same second on another machine
                target = folder / f"{path.name}-{uuid.uuid4().hex[:8]}"
            path.replace(target)
