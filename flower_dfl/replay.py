"""Repeat a recorded run and say where it differs."""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from flower_dfl.checkpoint import recorded_config
from flower_dfl.config import CheckpointConfig
from flower_dfl.engines.local import run_local
from flower_dfl.errors import ResumeError
from flower_dfl.records import RoundSummary, read_lines

__all__ = ["first_difference", "recorded_rounds", "replay"]

_FILES = {"rounds.jsonl": ("round", "node"), "edges.jsonl": ("round", "receiver", "sender")}
"""Compared records, and what names a line in each."""
_UNCOMPARED = ("seconds",)


def recorded_rounds(folder: Path) -> int:
    """Return how many rounds of a run are recorded."""
    try:
        return int(json.loads((folder / "summary.json").read_text(encoding="utf-8"))["rounds"])
    except (OSError, ValueError, KeyError) as error:
        raise ResumeError(f"{folder / 'summary.json'} cannot be read: {error}") from error


def replay(folder: Path, rounds: int, on_round: Callable[[RoundSummary], None] = lambda _: None) -> str | None:
    """Repeat the first rounds of a recorded run in the local engine.

    Args:
        folder: A run folder, complete or not.
        rounds: How many rounds.
        on_round: Called after every round.

    Returns:
        The first difference, with its round and node; None if there is none.
    """
    config = recorded_config(folder)
    on_failure: Literal["skip", "stop"] = "skip" if config.on_node_failure == "skip" else "stop"
    config = replace(config, checkpoint=CheckpointConfig(every=0), on_node_failure=on_failure)
    with tempfile.TemporaryDirectory(prefix="flower-dfl-") as scratch:
        run_local(config, Path(scratch), on_round, last=rounds)
        return first_difference(folder, Path(scratch), rounds)


def first_difference(recorded: Path, repeated: Path, rounds: int) -> str | None:
    """Compare the records of two runs, round by round; models are compared by their fingerprints."""
    then, now = ({name: _by_round(folder / name, rounds) for name in _FILES} for folder in (recorded, repeated))
    for round in range(1, rounds + 1):
        for name, keys in _FILES.items():
            for difference in _differences(then[name].get(round, []), now[name].get(round, []), keys):
                return f"{name}: {difference}"
    return None


def _by_round(path: Path, rounds: int) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for line in read_lines(path):
        if line["round"] <= rounds:
            found.setdefault(line["round"], []).append(line)
    return found


def _differences(then: list[dict[str, Any]], now: list[dict[str, Any]], keys: tuple[str, ...]) -> Iterator[str]:
    indexed = {tuple(line[key] for key in keys): line for line in now}
    for line in then:
        place = ", ".join(f"{key} {line[key]}" for key in keys)
        other = indexed.pop(tuple(line[key] for key in keys), None)
        if other is None:
            yield f"{place} is recorded, but not there when repeated"
            continue
        for field in sorted(line.keys() | other.keys()):
            if field not in _UNCOMPARED and line.get(field) != other.get(field):
                yield f"{place}: {field} was {line.get(field)!r}, is {other.get(field)!r}"
    for missing in indexed:
        place = ", ".join(f"{key} {value}" for key, value in zip(keys, missing, strict=True))
        yield f"{place} is there when repeated, but not recorded"
