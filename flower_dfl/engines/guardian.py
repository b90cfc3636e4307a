"""The guardian: a process that ends a command, and all that the command started, once its own starter is gone.

``python -m flower_dfl.engines.guardian COMMAND ...`` runs the command as its child. Whoever starts it holds the other
end of its standard input: the system closes that end however the starter dies, SIGKILL included. Then, on SIGTERM, or
when the command has ended by itself, everything that descends from the command is ended, and nothing else.

A starter that lives says :data:`LEAVE` when it has no more use for the command, and records itself how the run ended.
For one that died the guardian does: the run was interrupted. What the run itself may write while its processes are
being ended, such as that a worker died, is not the cause.

Descendants are looked for about once a second and remembered by pid and creation time: one whose parent was killed is
nobody's descendant any more but still ours, and a pid that the system has given to somebody else since is not.
"""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from flower_dfl.wire import RUN_FOLDER_VARIABLE
from flower_dfl.writing import end_unfinished

__all__ = ["END_TIMEOUT", "LEAVE", "Family", "guard"]

LEAVE = b"leave\n"
_LOOK_EVERY = 1.0
_POLITE, _FORCED = 10.0, 5.0
END_TIMEOUT = _POLITE + _FORCED
"""Seconds in which a family is ended: the first part is for those that end when asked, the second for the others."""
_POLL = 0.05


class Family:
    """A process and its descendants, as far as they were seen."""

    def __init__(self, head: psutil.Process) -> None:
        self._members = {head}

    def look(self) -> set[psutil.Process]:
        """Find what the members have started since, forget the dead, and return the living."""
        living = {member for member in self._members if _is_alive(member)}
        pids = {member.pid for member in living}
        for member in tuple(living):
            with suppress(psutil.NoSuchProcess):
                if member.ppid() not in pids:  # the head, or one whose parent has died
                    living.update(member.children(recursive=True))
        self._members = living
        return set(living)

    def end(self) -> set[psutil.Process]:
        """Ask everybody to end, then kill, also those that appear meanwhile; return who is left in spite of that."""
        for end, patience in ((psutil.Process.terminate, _POLITE), (psutil.Process.kill, _FORCED)):
            told: set[psutil.Process] = set()
            deadline = time.monotonic() + patience
            while (living := self.look()) and time.monotonic() < deadline:
                for member in living - told:
                    with suppress(psutil.NoSuchProcess):
                        end(member)
                told |= living
                time.sleep(_POLL)
        return self.look()


def guard(command: list[str]) -> None:
    """Run a command until it ends, standard input speaks or is closed, or SIGTERM comes; then end its family."""
    leaving = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: leaving.set())
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 - what this module exists for
    family = Family(psutil.Process(child.pid))
    abandoned: Path | None = None
    while not leaving.is_set() and child.poll() is None:
        family.look()
        if select.select([sys.stdin], [], [], _LOOK_EVERY)[0]:
            if not os.read(sys.stdin.fileno(), len(LEAVE)):  # the starter died
                abandoned = _unfinished_run()
            leaving.set()
    left = family.end()
    if abandoned is not None:
        end_unfinished(abandoned, "interrupted", "the process that started the run died")
    if left:
        sys.exit(f"could not end {sorted(member.pid for member in left)}")


def _unfinished_run() -> Path | None:
    """Return the folder of the run that this process was started for, if the run goes on."""
    folder = Path(os.environ.get(RUN_FOLDER_VARIABLE, ""))
    with suppress(OSError, ValueError, KeyError):  # whatever it says, the family has to end
        if json.loads((folder / "summary.json").read_text(encoding="utf-8"))["status"] == "running":
            return folder
    return None


def _is_alive(member: psutil.Process) -> bool:
    try:
        return member.is_running() and member.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    guard(sys.argv[1:])
