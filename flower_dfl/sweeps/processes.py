"""Locks that die with their holder, and children that end with their parent."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from flower_dfl.errors import DflError
from flower_dfl.locks import lock

__all__ = ["follow_parent", "locked"]

_POLL = 0.1
_END_TIMEOUT = 60.0


@contextmanager
def locked(path: Path, what: str, *, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of a file. The kernel takes it back when this process ends, however it ends: none is ever stale.

    Args:
        path: The file; it stays, and names the process that last held it.
        what: What is locked, for the message.
        wait: Seconds to wait for another holder.

    Raises:
        DflError: Another process holds it.
    """
    with path.open("a+", encoding="utf-8") as file:
        if not lock(file, wait):
            file.seek(0)
            raise DflError(f"{what} is in use by {file.read().strip() or 'another process'}")
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(psutil.Process().create_time()))
        file.truncate(0)
        file.write(f"process {os.getpid()}, started {started}\n")
        file.flush()
        yield


def follow_parent() -> None:
    """Interrupt this process when its standard input ends, as a pipe does when the process that holds it dies."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1):  # unbuffered: a buffer's lock would be held when the interpreter ends
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_END_TIMEOUT)
        os._exit(1)  # it did not end when asked; what it started follows it in the same way

    threading.Thread(target=watch, daemon=True).start()
