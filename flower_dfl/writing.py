"""Writing files, as a whole or not at all, with errors that name them. It imports nothing that takes time."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flower_dfl.errors import StorageError

__all__ = ["end_unfinished", "storing", "write_bytes", "write_json", "write_text"]


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Name the file in the error of writing it: a full disk, a folder that is gone."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file of JSON as a whole, or not at all."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file of text as a whole, or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file as a whole, or not at all."""
    temporary = path.with_suffix(".partial")
    with storing(path):
        temporary.write_bytes(content)
        temporary.replace(path)


def end_unfinished(folder: Path, status: str, error: str) -> None:
    """Record how a run ended whose writer could not, because its process was ended from outside.

    What fails while an interrupted run is being ended is no failure of the run.
    """
    path = folder / "summary.json"
    if not path.exists():
        return
    summary = json.loads(path.read_text(encoding="utf-8"))
    if summary["status"] == "running" or (status, summary["status"]) == ("interrupted", "failed"):
        write_json(path, summary | {"status": status, "error": error})
