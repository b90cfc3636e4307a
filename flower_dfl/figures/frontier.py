"""What every rule gains and risks: accuracy against attack success rate, both in the worst case over the attacks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi, sin
from statistics import fmean
from typing import cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import Bbox, BboxBase

from flower_dfl.errors import ConfigurationError
from flower_dfl.figures.meetings import meetings
from flower_dfl.figures.series import METRICS, value_of
from flower_dfl.figures.style import BYZANTINE, HONEST, house_style
from flower_dfl.sweeps.tables import Cell

__all__ = ["Standing", "compared", "count_seeds", "draw_frontier", "standings"]

_ROOM = 6  # pixels around a point that names keep clear of


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a rule stands.

    Attributes:
        name: The rule; with the parameters that tell it apart where it occurs with several.
        accuracy: Its lowest honest accuracy over the attacks, each a mean over seeds.
        attack_success_rate: Its largest attack success rate over the attacks that have a trigger, likewise.
        efficient: Whether no other rule is at least as good in both and better in one.
    """

    name: str
    accuracy: float
    attack_success_rate: float
    efficient: bool


def standings(cells: Sequence[Cell]) -> tuple[Standing, ...]:
    """Return where every rule stands.

    Args:
        cells: Completed runs with parameters as settings, see :func:`~flower_dfl.figures.series.with_parameters`.

    Raises:
        ConfigurationError: The rules did not meet the same attacks with the same seeds, or one of them twice, the runs
            differ in more than rule, attack and seed, or no attack has a trigger.
    """
    rules = meetings(cells)
    _check_same_attacks(rules)
    return compared({name: _worst(name, attacks) for name, attacks in sorted(rules.items())})


def compared(worst: Mapping[str, tuple[float, float]]) -> tuple[Standing, ...]:
    """Return where rules stand whose lowest accuracy and largest attack success rate are known."""
    return tuple(
        Standing(name, accuracy, rate, not any(_beats(other, (accuracy, rate)) for other in worst.values()))
        for name, (accuracy, rate) in worst.items()
    )


def count_seeds(cells: Sequence[Cell]) -> tuple[int, int]:
    """Return over how many seeds the means of :func:`standings` are taken, at least and at most."""
    counts = [len(members) for attacks in meetings(cells).values() for members in attacks.values()]
    return min(counts), max(counts)


@house_style()
def draw_frontier(found: Sequence[Standing], attacks: int, seeds: tuple[int, int]) -> Figure:
    """Draw the rules as labelled points, those on the Pareto front filled and joined by a line.

    Args:
        found: Where the rules stand.
        attacks: Over how many attacks the worst was taken.
        seeds: Over how many seeds the means were taken, at least and at most.
    """
    figure = Figure(figsize=(6.4, 5.0))
    axes = figure.subplots()
    front = sorted((s for s in found if s.efficient), key=lambda s: (s.attack_success_rate, s.accuracy))
    behind = [s for s in found if not s.efficient]
    for group, label, marker in (
        (front, "Pareto front: no rule is as good in both and better in one", "o"),
        (behind, "other rules", "s"),
    ):
        if group:
            filled, edge = (HONEST, HONEST) if group is front else ("none", BYZANTINE)
            axes.scatter(
                [s.attack_success_rate for s in group],
                [s.accuracy for s in group],
                marker=marker,
                facecolors=filled,
                edgecolors=edge,
                label=label,
            )
    # A step: between two rules of the front nothing is known to do better than the one to the left.
    axes.step([s.attack_success_rate for s in front], [s.accuracy for s in front], "--", where="post", color=HONEST)
    worst = "" if attacks == 1 else f", worst of {attacks} attacks"
    axes.set(xlim=(-0.04, 1.04), xlabel=f"attack success rate{worst}", ylabel=f"honest accuracy{worst}")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.margins(y=0.12)
    fewest, most = seeds
    means = f"means of {most if fewest == most else f'{fewest} to {most}'} seeds" if most > 1 else "one seed"
    figure.legend(loc="outside lower center", ncols=1, title=means)
    _label(axes, found)
    return figure


def _check_same_attacks(rules: Mapping[str, Mapping[str, Sequence[Cell]]]) -> None:
    """Refuse rules that met different attacks, or the same with different seeds."""
    met = {
        rule: {f"{attack} with seed {cell.settings['seed']}" for attack, members in attacks.items() for cell in members}
        for rule, attacks in rules.items()
    }
    for rule, own in met.items():
        for other, theirs in met.items():
            if missing := sorted(theirs - own):
                raise ConfigurationError(
                    f"rules must have met the same attacks with the same seeds, but "
                    f"{', '.join(missing)} was tried on {other} and not on {rule}"
                )


def _worst(name: str, attacks: Mapping[str, Sequence[Cell]]) -> tuple[float, float]:
    """Return the lowest accuracy and the largest attack success rate of a rule."""
    rates = [
        fmean(value_of(cell, METRICS["asr"]) for cell in members)
        for members in attacks.values()
        if members[0].summary[METRICS["asr"].summary] is not None
    ]
    if not rates:
        raise ConfigurationError(f"none of the attacks on {name} has a trigger, so there is no attack success rate")
    accuracies = [
        fmean(value_of(cell, METRICS["accuracy"]) for cell in members)
        for members in attacks.values()
        if members[0].settings["attack.name"] != "none"
    ]
    return min(accuracies), max(rates)


def _beats(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Return whether the first accuracy and rate are as good as the second and better in one."""
    return first != second and first[0] >= second[0] and first[1] <= second[1]


def _label(axes: Axes, found: Iterable[Standing]) -> None:
    """Write every name where it covers neither a point nor another name, as near as there is room."""
    figure = cast("Figure", axes.figure)
    figure.draw_without_rendering()  # from here on the layout is known
    point = figure.dpi / 72  # in pixels
    spots = {}
    for standing in sorted(found, key=lambda s: (s.attack_success_rate, s.accuracy, s.name)):
        x, y = axes.transData.transform((standing.attack_success_rate, standing.accuracy))
        spots[standing] = Bbox.from_bounds(x - _ROOM, y - _ROOM, 2 * _ROOM, 2 * _ROOM)
    taken = list(spots.values())
    for standing, spot in spots.items():
        note = axes.annotate(
            standing.name,
            (standing.attack_success_rate, standing.accuracy),
            (0, 0),
            textcoords="offset points",
            fontsize=8,
            ha="center",
            va="center",
            path_effects=[withStroke(linewidth=2, foreground="white")],
            arrowprops={"arrowstyle": "-", "color": "#777777", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 4},
        )
        note.set_in_layout(False)
        place = min(
            _places_around(spot, note.get_window_extent()),
            key=lambda box: (_is_outside(box, axes.bbox), sum(map(box.overlaps, taken))),
        )
        taken.append(place.padded(1))
        across, up = (np.add(place.p0, place.p1) - np.add(spot.p0, spot.p1)) / 2 / point
        note.set_position((float(across), float(up)))


def _places_around(spot: Bbox, text: Bbox) -> Iterator[Bbox]:
    """Return boxes of the text's size around a spot, the nearest first."""
    x, y = np.add(spot.p0, spot.p1) / 2
    for radius in range(_ROOM + 2, 30 * _ROOM, _ROOM):
        for step in range(16):
            across, up = cos(pi * step / 8), sin(pi * step / 8)
            left = x + across * (radius + text.width / 2) - text.width / 2
            low = y + up * (radius + text.height / 2) - text.height / 2
            yield Bbox.from_bounds(left, low, text.width, text.height)


def _is_outside(box: Bbox, frame: BboxBase) -> bool:
    return bool(box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1)
