"""The cells of a sweep on disk.

The run folders are the truth, nothing else is: a cell is complete when a run folder in it says ``completed`` and holds
the cell's settings. ``sweep.json`` only says which cells belong to the sweep, and why one failed that left no record.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flower_dfl.config import RunConfig, anchored, flatten, load_toml, parse
from flower_dfl.errors import ConfigurationError

__all__ = [
    "Cell",
    "code_of",
    "completed_run",
    "differing_keys",
    "hash_settings",
    "matching_runs",
    "read_cells",
    "read_settings",
    "read_summary",
    "runs_of",
    "settings_in",
    "settings_of",
    "unfinished_cells",
]

Settings = Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Cell:
    """One run and what it found.

    Attributes:
        name: Name within the sweep; in a folder of runs that is none, the run folder's path below it.
        folder: The run folder (of a cell that never started, the cell's folder).
        settings: Its whole configuration, flat, without ``results-dir``, which decides no result.
        summary: Its ``summary.json``; empty if it never started.
    """

    name: str
    folder: Path
    settings: Settings
    summary: Mapping[str, Any]


def read_cells(folder: Path) -> list[Cell]:
    """Read the complete cells of a sweep, in its order, or the complete runs anywhere below any other folder.

    Raises:
        ConfigurationError: There is neither a sweep nor a run.
    """
    return [cell for cell in _all_cells(folder) if cell.summary.get("status") == "completed"]


def unfinished_cells(folder: Path) -> list[Cell]:
    """Read the cells that :func:`read_cells` leaves out: failed, interrupted, running, or never started."""
    return [cell for cell in _all_cells(folder) if cell.summary.get("status") != "completed"]


def differing_keys(cells: Iterable[Cell]) -> list[str]:
    """Return the keys that do not have the same value in all cells, in the order of the configuration."""
    settings = [cell.settings for cell in cells]
    return [key for key in settings[0] if any(table[key] != settings[0][key] for table in settings)] if settings else []


def settings_of(config: RunConfig) -> dict[str, str | int | float]:
    """Return the flat configuration without ``results-dir``."""
    return {key: value for key, value in flatten(config).items() if key != "results-dir"}


def settings_in(table: Mapping[str, Any]) -> dict[str, str | int | float]:
    """Return the settings of a table as a run of them records them: all of them, with absolute paths.

    Raises:
        ConfigurationError: The table is no configuration.
    """
    return settings_of(anchored(parse(table)))


def hash_settings(settings: Settings) -> str:
    """Return the SHA-256 of settings, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()


def read_settings(path: Path) -> dict[str, str | int | float]:
    """Return the settings in a TOML file.

    Raises:
        ConfigurationError: It cannot be read, or holds no configuration.
    """
    try:
        return settings_of(parse(load_toml(path)))
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def read_summary(run: Path) -> dict[str, Any]:
    """Return a run's summary; empty where it has none."""
    path = run / "summary.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def code_of(run: Path) -> str:
    """Return the version of the code that made a run."""
    path = run / "environment.json"
    return str(json.loads(path.read_text(encoding="utf-8")).get("code_version")) if path.exists() else "unknown"


def runs_of(cell: Path) -> list[Path]:
    """Return the run folders in a cell's folder, oldest first: their names begin with the time."""
    return sorted(path.parent for path in cell.glob("*/summary.json"))


def completed_run(cell: Path) -> Path | None:
    """Return the complete run of a cell, None if there is none."""
    complete = (run for run in matching_runs(cell) if read_summary(run).get("status") == "completed")
    return next(complete, None)


def matching_runs(cell: Path) -> list[Path]:
    """Return the run folders in a cell's folder that hold the cell's settings, oldest first."""
    wanted = read_settings(cell / "settings.toml")
    return [run for run in runs_of(cell) if _holds(run, wanted)]


def _holds(run: Path, settings: Settings) -> bool:
    try:
        return read_settings(run / "config.toml") == settings
    except ConfigurationError:  # cut off by a crash, or written by another version
        return False


def _all_cells(folder: Path) -> Iterator[Cell]:
    index = folder / "sweep.json"
    if index.exists():
        for entry in json.loads(index.read_text(encoding="utf-8"))["cells"]:
            yield _cell(entry, folder / entry["folder"])
        return
    runs = sorted(path.parent for path in folder.rglob("summary.json") if (path.parent / "config.toml").exists())
    if not runs:
        raise ConfigurationError(f"expected a sweep or a folder with runs, but {folder} holds neither")
    for run in runs:
        yield Cell(str(run.relative_to(folder)), run, read_settings(run / "config.toml"), read_summary(run))


def _cell(entry: Mapping[str, Any], folder: Path) -> Cell:
    """Return a cell; of one that failed without saying so in its records, what the sweep was told."""
    runs = runs_of(folder)
    run = completed_run(folder) or (runs[-1] if runs else folder)
    summary = read_summary(run)
    if entry.get("status") == "failed" and summary.get("status", "running") == "running":
        summary |= {"status": "failed", "error": entry.get("error")}
    return Cell(entry["name"], run, read_settings(folder / "settings.toml"), summary)
