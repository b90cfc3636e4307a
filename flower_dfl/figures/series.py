"""From recorded runs to the numbers of a figure: what is averaged, what is compared, and what may not be.

A point of a curve is a mean over seeds: runs that are equal in everything else. Lines of a panel may differ in one
setting and in the parameters that belong to it. Whatever else differs is refused, with the settings that differ: a
curve never mixes two experiments.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from statistics import fmean, stdev
from typing import Any, Literal, Self

from flower_dfl.config import parse_assignment
from flower_dfl.errors import ConfigurationError
from flower_dfl.records import read_lines, summarise_round
from flower_dfl.sweeps import tables
from flower_dfl.sweeps.tables import Cell
from flower_dfl.validation import check_known

__all__ = [
    "BYZANTINE_SHARE",
    "METRICS",
    "ROUND",
    "Band",
    "Line",
    "Metric",
    "Panel",
    "Point",
    "axis_for",
    "curves",
    "differing",
    "pick",
    "value_of",
    "with_parameters",
]

Band = Literal["min-max", "deviation"]
"""What the band around a mean over seeds shows: the smallest to the largest, or one standard deviation either way."""

ROUND, BYZANTINE_SHARE = "round", "byzantine-share"
"""What can be on the horizontal axis besides settings."""

# What decides no result, see RunConfig: it never keeps two runs apart.
_NEUTRAL = frozenset({"checkpoint.every", "data.root", "node-timeout", "record-digests", "train.device", "transport"})
_SEED = "seed"


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that is recorded for every run and round.

    Attributes:
        label: How an axis calls it.
        summary: Its key in ``summary.json``.
        round: Its name in :class:`~flower_dfl.records.RoundSummary`.
    """

    label: str
    summary: str
    round: str

    @property
    def high_is_good(self) -> bool:
        """Whether larger values are better for the honest nodes."""
        return tables.METRICS[self.summary].high_is_good


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("honest accuracy", "honest_accuracy_mean", "accuracy_mean"),
    "worst-accuracy": Metric("accuracy of the worst honest node", "honest_accuracy_min", "accuracy_min"),
    "asr": Metric("attack success rate", "attack_success_rate_mean", "attack_success_rate_mean"),
    "worst-asr": Metric(
        "attack success rate at the worst honest node", "attack_success_rate_max", "attack_success_rate_max"
    ),
}


@dataclass(frozen=True, slots=True)
class Point:
    """What the seeds of one setting gave.

    Attributes:
        x: Place on the horizontal axis.
        mean: Mean over the seeds.
        low: Lower end of the band; the mean where there is one seed.
        high: Its upper end.
        count: Number of seeds.
    """

    x: float
    mean: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, x: float, values: Sequence[float], band: Band) -> Self:
        """Return the point of values, one for each seed."""
        mean = fmean(values)
        if len(values) == 1 or band == "min-max":
            return cls(x, mean, min(values), max(values), len(values))
        return cls(x, mean, mean - stdev(values), mean + stdev(values), len(values))


@dataclass(frozen=True, slots=True)
class Line:
    """A curve."""

    label: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """The curves that are compared with one another."""

    title: str
    lines: tuple[Line, ...]


def with_parameters(cell: Cell) -> Cell:
    """Return a cell with every parameter as a setting of its own: ``attack.params.beta``, not ``attack.params``."""
    return replace(cell, settings=dict(_leaves(cell.settings, "")))


def _leaves(settings: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if key.endswith("params") and isinstance(value, str):
            value = parse_assignment(f"{key}={{{value}}}")[1]  # noqa: PLW2901 - the same table, read
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def pick(cells: Iterable[Cell], conditions: Mapping[str, Any]) -> list[Cell]:
    """Return the cells whose settings are these.

    Raises:
        ConfigurationError: No cell has such a setting, or none has such a value; the message lists the values.
    """
    cells = list(cells)
    for key, value in conditions.items():
        check_known("setting", key, sorted({name for cell in cells for name in cell.settings}))
        kept = [cell for cell in cells if key in cell.settings and cell.settings[key] == value]
        if not kept:
            values = ", ".join(sorted({repr(cell.settings[key]) for cell in cells if key in cell.settings}))
            raise ConfigurationError(f"no run has {key} = {value!r}; recorded are {values}")
        cells = kept
    return cells


def differing(cells: Sequence[Cell]) -> list[str]:
    """Return the settings in which cells differ and which decide a result, the seed among them."""
    keys = sorted({key for cell in cells for key in cell.settings} - _NEUTRAL)
    return [key for key in keys if len({_shown(cell, key) for cell in cells}) > 1]


def axis_for(cells: Sequence[Cell], lines: str, panels: str | None) -> str:
    """Return what belongs on the horizontal axis: the one number besides seed, lines and panels that differs.

    The round where there is none; also where there are several, because then no axis makes the cells comparable and
    :func:`curves` says so.
    """
    free = [key for key in _free(cells, lines) if key != panels and not (panels and _belongs(key, panels))]
    numbers = [key for key in free if all(isinstance(cell.settings.get(key), int | float) for cell in cells)]
    if len(numbers) != 1:
        return ROUND
    return BYZANTINE_SHARE if numbers == ["num-byzantine"] else numbers[0]


def curves(
    cells: Sequence[Cell], metric: Metric, x: str, lines: str, panels: str | None, *, band: Band = "min-max"
) -> tuple[Panel, ...]:
    """Return the curves of a metric.

    Args:
        cells: Completed runs.
        metric: What is on the vertical axis.
        x: What is on the horizontal axis: ``round``, ``byzantine-share``, or a setting that holds numbers.
        lines: Setting of which every value gets a line.
        panels: Setting of which every value gets a panel; None is one panel.
        band: What is around the means.

    Raises:
        ConfigurationError: The cells differ in what is neither on the axis nor told apart by line, panel and seed, or
            one of them lacks the metric or the setting on the axis.
    """
    _check_comparable(cells, x, lines, panels)
    return tuple(
        Panel(
            title if panels is None or panels.endswith(".name") else f"{panels} = {title}",
            tuple(Line(label, _points(members, metric, x, band)) for label, members in _split(within, lines)),
        )
        for title, within in _split(cells, panels)
    )


def _check_comparable(cells: Sequence[Cell], x: str, lines: str, panels: str | None) -> None:
    """Refuse cells that would mix experiments, see the module."""
    for key in (x, lines, panels):
        if key not in {ROUND, BYZANTINE_SHARE, None}:
            check_known("setting", key, sorted({name for cell in cells for name in cell.settings}))
    on_axis = {_SEED, {ROUND: "", BYZANTINE_SHARE: "num-byzantine"}.get(x, x)}
    for title, within in _split(cells, panels):
        _refuse(f"the runs{f' with {panels} = {title}' if panels else ''}", _free(within, lines) - on_axis)
        for label, members in _split(within, lines):
            _refuse(f"the runs of the line {label!r}", set(differing(members)) - on_axis)
            _check_seeds(members)


def _free(cells: Sequence[Cell], lines: str) -> set[str]:
    """Return the settings in which cells differ and which neither the line nor the seed tells."""
    return {key for key in differing(cells) if key not in {_SEED, lines} and not _belongs(key, lines)}


def _refuse(what: str, free: set[str]) -> None:
    if free:
        raise ConfigurationError(
            f"{what} also differ in {', '.join(sorted(free))}, so they cannot be one curve or one panel; "
            f"put it on --x, --lines or --panels, or choose by --where KEY=VALUE"
        )


def _check_seeds(members: Sequence[Cell]) -> None:
    """Refuse runs that are repetitions of one another: they would pass for further seeds."""
    seen: dict[tuple[str, ...], str] = {}
    for cell in members:
        place = tuple(_shown(cell, key) for key in sorted(set(cell.settings) - _NEUTRAL))
        if place in seen:
            raise ConfigurationError(f"{seen[place]} and {cell.name} have the same settings and seed; leave one out")
        seen[place] = cell.name


def _belongs(key: str, owner: str) -> bool:
    """Return whether a setting is a parameter of the component that ``owner`` names: of the rule, of the attack."""
    component, _, last = owner.rpartition(".")
    return last in {"name", "partition"} and key.startswith(f"{component}.params")


def _split(cells: Iterable[Cell], key: str | None) -> list[tuple[str, list[Cell]]]:
    """Return cells by the value of a setting: numbers in their order, then texts. Without a key, all are under ""."""
    if key is None:
        return [("", list(cells))]
    ordered = sorted(cells, key=lambda cell: _order(cell.settings.get(key)))
    return [(title, list(members)) for title, members in groupby(ordered, lambda cell: _shown(cell, key))]


def _order(value: Any) -> tuple[bool, float, str]:  # noqa: ANN401 - a setting
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (not number, value if number else 0.0, "" if number else str(value))


def _shown(cell: Cell, key: str) -> str:
    """Return a setting as text: 1 and 1.0 are the same."""
    value = cell.settings.get(key, "default")
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _points(members: Sequence[Cell], metric: Metric, x: str, band: Band) -> tuple[Point, ...]:
    if x == ROUND:
        return _round_points(members, metric, band)
    places = sorted((_place(cell, x), value_of(cell, metric)) for cell in members)
    return tuple(
        Point.of(place, [value for _, value in group], band) for place, group in groupby(places, lambda pair: pair[0])
    )


def _place(cell: Cell, x: str) -> float:
    if x == BYZANTINE_SHARE:
        return float(cell.settings["num-byzantine"]) / float(cell.settings["num-nodes"])
    value = cell.settings.get(x)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        raise ConfigurationError(f"{x} cannot be on the axis: {cell.name} has {_shown(cell, x)!r}, expected a number")
    return float(value)


def value_of(cell: Cell, metric: Metric) -> float:
    """Return a metric of a run; raise a :class:`ConfigurationError` where it has none."""
    value = cell.summary.get(metric.summary)
    if value is None:
        raise _lacks(metric, cell)
    return float(value)


def _round_points(members: Sequence[Cell], metric: Metric, band: Band) -> tuple[Point, ...]:
    values: dict[int, list[float]] = {}
    for cell in members:
        lines = read_lines(cell.folder / "rounds.jsonl")
        for number, group in groupby(lines, lambda line: line["round"]):
            value = getattr(summarise_round(group), metric.round)
            if value is not None:
                values.setdefault(number, []).append(value)
    if not values:
        raise _lacks(metric, members[0])
    return tuple(Point.of(number, found, band) for number, found in sorted(values.items()))


def _lacks(metric: Metric, cell: Cell) -> ConfigurationError:
    return ConfigurationError(f"{cell.name} has no {metric.label}, under attack {cell.settings['attack.name']!r}")
