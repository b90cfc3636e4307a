"""What the page of a sweep says: every rule under every attack, over the seeds."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flower_dfl.errors import DflError
from flower_dfl.report.reading import read_rounds
from flower_dfl.report.series import MAX_ROUNDS, spread_out
from flower_dfl.report.words import per_cent
from flower_dfl.sweeps.tables import Cell, aggregate, differing_keys, notes, read_cells, unfinished_cells

__all__ = ["sweep_page"]

_MAX_VALUES = 150_000
_METRICS = {"honest_accuracy_mean": "Honest accuracy", "attack_success_rate_mean": "Attack success rate"}

Values = dict[str, dict[int, list[float]]]
"""The values of all seeds by metric and round."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a cell belongs: the same for all its seeds."""

    setting: str
    strategy: str
    attack: str


def sweep_page(folder: Path, base: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the template says, and what the script draws.

    Args:
        folder: Folder of the sweep.
        base: Folder of the report, which links are relative to.

    Raises:
        DflError: A record is malformed.
    """
    cells, unfinished = read_cells(folder), unfinished_cells(folder)
    by_setting = _by_setting(cells)
    places = {id(cell): place for setting, group in by_setting.items() for cell, place in _places(setting, group)}
    curves = _curves(cells, places)
    recorded = sorted({number for values in curves.values() for metric in values.values() for number in metric})
    rounds = spread_out(recorded, max(2, min(MAX_ROUNDS, _MAX_VALUES // max(1, 6 * len(curves)))))
    attacks = _unique(place.attack for place in curves)
    words = {
        "title": f"Sweep {folder.name}",
        "notes": [note for note in notes(cells, unfinished) if not note.startswith("not complete: ")],
        "tables": [_table(setting, group, metric) for setting, group in by_setting.items() for metric in _METRICS],
        "unfinished": [
            {
                "name": cell.name,
                "status": cell.summary.get("status", "not started"),
                "error": cell.summary.get("error") or "",
            }
            for cell in unfinished
        ],
        "runs": [_run(cell, base) for cell in cells],
        "attacks": attacks,
        "strategies": _unique(place.strategy for place in curves),
        "settings": list(by_setting),
        "metrics": {key: name for key, name in _METRICS.items() if any(key in values for values in curves.values())},
        "rounds": rounds,
    }
    data = {
        "rounds": rounds,
        "attacks": attacks,
        "curves": [
            asdict(place) | {metric: _over_seeds(by_round, rounds) for metric, by_round in values.items()}
            for place, values in curves.items()
        ],
    }
    return words, data


def _by_setting(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Group the cells by all that is neither seed nor rule nor attack, and differs."""
    aside = ("strategy.", "attack.")
    keys = [key for key in differing_keys(cells) if key != "seed" and not key.startswith(aside)]
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(", ".join(f"{key} = {cell.settings[key]}" for key in keys), []).append(cell)
    return groups


def _places(setting: str, group: Sequence[Cell]) -> Iterable[tuple[Cell, _Place]]:
    """Call rules and attacks as :func:`flower_dfl.sweeps.tables.aggregate` does."""
    differing = differing_keys(group)

    def label(cell: Cell, kind: str) -> str:
        params = cell.settings[f"{kind}.params"] if f"{kind}.params" in differing else ""
        return ", ".join(filter(None, (str(cell.settings[f"{kind}.name"]), str(params))))

    return [(cell, _Place(setting, label(cell, "strategy"), label(cell, "attack"))) for cell in group]


def _table(setting: str, group: Sequence[Cell], metric: str) -> dict[str, Any]:
    """Return one table; a rule or an attack without any value is left out."""
    found = aggregate(group, metric)
    rows = [row for row in found.rows if any((row, column) in found.entries for column in found.columns)]
    columns = [column for column in found.columns if any((row, column) in found.entries for row in rows)]

    def entry(where: tuple[tuple[str, ...], tuple[str, ...]]) -> dict[str, Any] | None:
        numbers = found.entries.get(where)
        if numbers is None:
            return None
        seeds = f"worst of {numbers.seeds} seeds {per_cent(numbers.worst)}" if numbers.seeds > 1 else "1 seed"
        return {"mean": per_cent(numbers.mean), "worst": seeds, "is_worst_attack": where in found.worst_attacks}

    return {
        "title": ", ".join(filter(None, (_METRICS[metric], setting))),
        "attacks": [", ".join(column) for column in columns],
        "rows": [(", ".join(row), [entry((row, column)) for column in columns]) for row in rows],
    }


def _curves(cells: Sequence[Cell], places: Mapping[int, _Place]) -> dict[_Place, Values]:
    curves: dict[_Place, Values] = {}
    for cell in cells:
        values = curves.setdefault(places[id(cell)], {})
        try:
            for entry in read_rounds(cell.folder, int(cell.settings["num-nodes"])):
                numbers = (entry.summary.accuracy_mean, entry.summary.attack_success_rate_mean)
                for metric, value in zip(_METRICS, numbers, strict=True):
                    if value is not None:
                        values.setdefault(metric, {}).setdefault(entry.summary.round, []).append(value)
        except (KeyError, TypeError) as error:
            raise DflError(f"{cell.folder} holds a record that lacks something: {error!r}") from error
    return curves


def _over_seeds(by_round: Mapping[int, Sequence[float]], rounds: Sequence[int]) -> dict[str, list[float | None]]:
    seeds = [by_round.get(number) for number in rounds]
    return {
        "mean": [sum(each) / len(each) if each else None for each in seeds],
        "low": [min(each) if each else None for each in seeds],
        "high": [max(each) if each else None for each in seeds],
    }


def _run(cell: Cell, base: Path) -> dict[str, str]:
    report = cell.folder / "report.html"
    return {
        "name": cell.name,
        "accuracy": per_cent(cell.summary.get("honest_accuracy_mean")),
        "worst": per_cent(cell.summary.get("honest_accuracy_min")),
        "attack": per_cent(cell.summary.get("attack_success_rate_mean")),
        "link": quote(Path(os.path.relpath(report, base)).as_posix()) if report.exists() else "",
    }


def _unique(names: Iterable[str]) -> list[str]:
    """Return each name once, in the order of the sweep."""
    return list(dict.fromkeys(names))
