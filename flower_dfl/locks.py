"""Locks of files. The kernel takes them back when a process ends, however it ends: none is ever stale."""

import fcntl
import time
from typing import IO, Any

__all__ = ["lock"]

_POLL = 0.1


def lock(file: IO[Any], wait: float, *, shared: bool = False) -> bool:
    """Lock an open file until it is closed; return whether that was possible before the time was over.

    Args:
        file: The file.
        wait: Seconds to wait for another holder.
        shared: Whether others may hold it as well, if they share it too.

    Raises:
        OSError: The file system knows no locks.
    """
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)
        else:
            return True
