"""From cells to numbers: mean, spread and worst seed of what may be averaged, and nothing else.

The part for other code: :func:`read_cells` gives the complete cells of a sweep (or of any folder of runs) with their
settings and summaries, :func:`differing_keys` the settings in which they differ, :func:`tidy` one flat row a cell, and
:func:`aggregate` a table over seeds.

>>> from pathlib import Path
>>> from flower_dfl.sweeps.tables import Cell, aggregate
>>> cells = [Cell(f"s{seed}", Path("."), {"seed": seed, "strategy.name": "krum", "attack.name": "ipm"},
...               {"honest_accuracy_mean": accuracy}) for seed, accuracy in ((0, 0.5), (1, 0.7))]
>>> aggregate(cells, "honest_accuracy_mean").entries[("krum",), ("ipm",)].mean
0.6
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flower_dfl.errors import ConfigurationError
from flower_dfl.records import read_lines, summarise_round
from flower_dfl.sweeps.cells import Cell, code_of, differing_keys, read_cells, unfinished_cells
from flower_dfl.validation import check_known

__all__ = [
    "METRICS",
    "Cell",
    "Entry",
    "Metric",
    "Table",
    "aggregate",
    "differing_keys",
    "measure",
    "notes",
    "read_cells",
    "tidy",
    "unfinished_cells",
]

Label = tuple[str, ...]
"""How a row or a column is called: one text for each of its keys."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What is known of a number.

    Attributes:
        high_is_good: Whether larger values are better for the honest nodes.
        is_share: Whether it is a fraction, shown in per cent.
    """

    high_is_good: bool
    is_share: bool


METRICS: Mapping[str, Metric] = {
    "honest_accuracy_mean": Metric(high_is_good=True, is_share=True),
    "honest_accuracy_min": Metric(high_is_good=True, is_share=True),
    "honest_accuracy_mean_best": Metric(high_is_good=True, is_share=True),
    "honest_accuracy_min_best": Metric(high_is_good=True, is_share=True),
    "attack_success_rate_mean": Metric(high_is_good=False, is_share=True),
    "attack_success_rate_max": Metric(high_is_good=False, is_share=True),
    "consensus_distance": Metric(high_is_good=False, is_share=False),
    "honest_kept": Metric(high_is_good=True, is_share=True),
    "byzantine_kept": Metric(high_is_good=False, is_share=True),
    "diverged_nodes": Metric(high_is_good=False, is_share=False),
    "missing_messages": Metric(high_is_good=False, is_share=False),
    "failed_steps": Metric(high_is_good=False, is_share=False),
    "bytes_total": Metric(high_is_good=False, is_share=False),
    "seconds_total": Metric(high_is_good=False, is_share=False),
}
"""The numbers of a run's summary, after its last round; ``..._best`` is the largest of all rounds.

It is missing where rounds before the last are evaluated on fewer nodes or samples: the luckiest draw would win.
"""

_BEST = "_best"


@dataclass(frozen=True, slots=True)
class Entry:
    """One number over seeds.

    Attributes:
        mean: Mean.
        spread: Sample standard deviation (divisor one less than the number of seeds); None for a single seed.
        worst: The value that is worst for the honest nodes.
        worst_seed: Its seed, the first if there are several.
        seeds: Number of seeds.
    """

    mean: float
    spread: float | None
    worst: float
    worst_seed: int
    seeds: int


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers of one metric by row and column.

    Attributes:
        metric: Name of the metric.
        row_keys: What the rows are.
        column_keys: What the columns are.
        rows: Their labels, in the order of the cells.
        columns: Likewise.
        entries: By row and column; where no cell has the metric, there is none.
        worst_attacks: The entries of the attack whose worst seed is worst, among all attacks on the same thing.
        unexplained: Settings in which entries differ though they are neither in rows nor in columns.
    """

    metric: str
    row_keys: Label
    column_keys: Label
    rows: tuple[Label, ...]
    columns: tuple[Label, ...]
    entries: Mapping[tuple[Label, Label], Entry]
    worst_attacks: frozenset[tuple[Label, Label]]
    unexplained: tuple[str, ...]


def measure(cell: Cell) -> dict[str, float | int | None]:
    """Return all metrics of a complete cell; None where one is not defined, or not recorded."""
    found = {name: cell.summary.get(name) for name in METRICS}
    found["diverged_nodes"] = len(cell.summary.get("diverged_nodes", []))
    is_sampled = any(cell.settings.get(key) for key in ("eval.nodes", "eval.samples"))
    by_round: dict[int, list[Any]] = {}
    for line in read_lines(cell.folder / "rounds.jsonl"):
        by_round.setdefault(line["round"], []).append(line)
    rounds = [summarise_round(lines) for lines in by_round.values()]
    for name, values in (
        ("honest_accuracy_mean", [summary.accuracy_mean for summary in rounds]),
        ("honest_accuracy_min", [summary.accuracy_min for summary in rounds]),
    ):
        best = max((value for value in values if value is not None), default=None)
        found[name + _BEST] = None if is_sampled else best
    return found


def tidy(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return one flat row a cell: name, folder, seed, the settings that differ, all metrics."""
    keys = [key for key in differing_keys(cells) if key != "seed"]
    return [
        {"name": cell.name, "folder": str(cell.folder), "seed": cell.settings["seed"]}
        | {key: cell.settings[key] for key in keys}
        | measure(cell)
        for cell in cells
    ]


def aggregate(
    cells: Sequence[Cell], metric: str, rows: Sequence[str] = ("strategy",), columns: Sequence[str] = ("attack",)
) -> Table:
    """Average a metric over seeds.

    Args:
        cells: Complete cells.
        metric: One of :data:`METRICS`.
        rows: Settings that make the rows: keys such as ``num-byzantine``, or groups such as ``strategy``, which is its
            name, and its parameters where they differ.
        columns: Likewise.

    Raises:
        ConfigurationError: Metric or key is unknown, or cells that would be averaged differ in more than the seed, or
            not even in that.
    """
    check_known("metric", metric, list(METRICS))
    for key in (*rows, *columns):
        _check_key(key, cells)
    differing = differing_keys(cells)
    groups: dict[tuple[Label, Label], list[Cell]] = {}
    for cell in cells:
        where = (
            tuple(_label(cell, key, differing) for key in rows),
            tuple(_label(cell, key, differing) for key in columns),
        )
        groups.setdefault(where, []).append(cell)
    for (row, column), group in groups.items():
        _check_comparable(row + column, group)
    entries = {where: entry for where, group in groups.items() if (entry := _entry(group, metric)) is not None}
    explained = [
        key for key in differing if any(key == k or key.startswith(f"{k}.") for k in ("seed", *rows, *columns))
    ]
    return Table(
        metric=metric,
        row_keys=tuple(rows),
        column_keys=tuple(columns),
        rows=tuple(dict.fromkeys(row for row, _ in groups)),
        columns=tuple(dict.fromkeys(column for _, column in groups)),
        entries=entries,
        worst_attacks=_worst_attacks(entries, METRICS[metric], (*rows, *columns)),
        unexplained=tuple(key for key in differing if key not in explained),
    )


def notes(complete: Sequence[Cell], unfinished: Sequence[Cell]) -> list[str]:
    """Say what is missing from tables of these cells, and whether different code made them."""
    seeds = sorted({int(cell.settings["seed"]) for cell in complete})
    found = [f"{len(complete)} of {len(complete) + len(unfinished)} cells complete{_span(seeds)}"]
    found += [f"not complete: {cell.name} ({cell.summary.get('status', 'not started')})" for cell in unfinished]
    versions = sorted({code_of(cell.folder) for cell in complete})
    if len(versions) > 1:
        found.append(f"made by different versions of the code: {', '.join(versions)}")
    return found


def _span(seeds: Sequence[int]) -> str:
    """Return in words which seeds these are, in ascending order."""
    if len(seeds) > 1 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f", seeds {seeds[0]} to {seeds[-1]}"
    return f", seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}" if seeds else ""


def _entry(group: Sequence[Cell], metric: str) -> Entry | None:
    values = [(value, int(cell.settings["seed"])) for cell in group if (value := _value(cell, metric)) is not None]
    if not values:
        return None
    numbers = [value for value, _ in values]
    worst = min(numbers) if METRICS[metric].high_is_good else max(numbers)
    return Entry(
        mean=statistics.fmean(numbers),
        spread=statistics.stdev(numbers) if len(numbers) > 1 else None,
        worst=worst,
        worst_seed=min(seed for value, seed in values if value == worst),
        seeds=len(values),
    )


def _value(cell: Cell, metric: str) -> float | None:
    """Return one metric, without reading the records where the summary has it."""
    if metric.endswith(_BEST) or metric == "diverged_nodes":
        return measure(cell)[metric]
    return cell.summary.get(metric)


def _worst_attacks(
    entries: Mapping[tuple[Label, Label], Entry], metric: Metric, keys: Sequence[str]
) -> frozenset[tuple[Label, Label]]:
    """Find, for each combination of the other keys, the attack whose worst seed is worst."""
    place = next((i for i, key in enumerate(keys) if key in ("attack", "attack.name")), None)
    if place is None or not metric.is_share:
        return frozenset()
    rivals: dict[Label, list[tuple[Label, Label]]] = {}
    for row, column in entries:
        parts = row + column
        if parts[place] != "none":
            rivals.setdefault(parts[:place] + parts[place + 1 :], []).append((row, column))
    choose = min if metric.high_is_good else max
    worst = {others: choose(entries[where].worst for where in found) for others, found in rivals.items()}
    return frozenset(
        where for others, found in rivals.items() for where in found
        if len(found) > 1 and entries[where].worst == worst[others]
    )  # fmt: skip


def _check_key(key: str, cells: Sequence[Cell]) -> None:
    keys = list(cells[0].settings) if cells else []
    check_known("row or column", key, keys + sorted({name.partition(".")[0] for name in keys if "." in name}))


def _label(cell: Cell, key: str, differing: Iterable[str]) -> str:
    if key in cell.settings:
        return str(cell.settings[key])
    parts: list[str] = []
    for name, value in cell.settings.items():
        if name == f"{key}.name":
            parts.insert(0, str(value))
        elif name.startswith(f"{key}.") and name in differing and value != "":
            parts.append(str(value) if name.endswith(".params") else f"{name.removeprefix(f'{key}.')} = {value}")
    return ", ".join(parts)


def _check_comparable(label: Label, group: Sequence[Cell]) -> None:
    others = [key for key in differing_keys(group) if key != "seed"]
    if others:
        values = "; ".join(
            f"{key} = {', '.join(sorted({str(cell.settings[key]) or 'empty' for cell in group}))}" for key in others
        )
        raise ConfigurationError(
            f"the cells of {' / '.join(label)} cannot be averaged, they differ in more than the seed: {values}; "
            f"add it to the rows or columns, or choose a value with --where"
        )
    by_seed: dict[Any, Cell] = {}
    for cell in group:
        if other := by_seed.get(cell.settings["seed"]):
            raise ConfigurationError(f"{other.name} and {cell.name} are the same cell; it would count twice")
        by_seed[cell.settings["seed"]] = cell
