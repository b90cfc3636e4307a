"""``flower-dfl plot``: the figures of a sweep."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flower_dfl.config import parse_assignment
from flower_dfl.errors import ConfigurationError
from flower_dfl.extras import needs_extra
from flower_dfl.figures.meetings import count_attacks
from flower_dfl.figures.series import (
    BYZANTINE_SHARE,
    METRICS,
    ROUND,
    Band,
    axis_for,
    curves,
    pick,
    with_parameters,
)
from flower_dfl.sweeps.tables import Cell, read_cells, unfinished_cells

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot"]

Kind = StrEnum(
    "Kind", ["rounds", "byzantine", "skew", "frontier", "matrix"]
)  # typer repeats enumerations, not literals
MetricName = StrEnum("MetricName", ["accuracy", "worst-accuracy", "asr", "worst-asr"])

_AXES = {Kind.rounds: ROUND, Kind.byzantine: BYZANTINE_SHARE, Kind.skew: "data.params.p"}
_USUAL = ("accuracy", "asr")
_NAMED = 3  # runs that a warning lists


def plot(
    folder: Annotated[Path, typer.Argument(help="A sweep, or any folder of runs.")],
    *,
    kind: Annotated[
        list[Kind] | None,
        typer.Option(
            help="Against the round, the share of Byzantine nodes or the degree of non-IID data; accuracy against "
            "attack success rate; or every rule against every attack. May be repeated. Without --kind and --x: what "
            "the runs differ in."
        ),
    ] = None,
    x: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Against this setting, such as attack.params.beta. May be repeated."),
    ] = None,
    lines: Annotated[str, typer.Option(metavar="KEY", help="Setting of which every value gets a line.")] = (
        "strategy.name"
    ),
    panels: Annotated[
        str | None, typer.Option(metavar="KEY", help="Setting of which every value gets a panel.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only the runs with this setting. May be repeated."),
    ] = None,
    metric: Annotated[
        list[MetricName] | None, typer.Option(help="What to draw; accuracy and asr by default. May be repeated.")
    ] = None,
    band: Annotated[
        Band, typer.Option(help="Around the mean over seeds: smallest to largest, or one standard deviation.")
    ] = "min-max",
    out: Annotated[Path | None, typer.Option(help="Folder for the figures; FOLDER/figures by default.")] = None,
) -> None:
    """Draw a sweep as PDF, SVG and PNG and print the absolute paths."""
    cells = pick(_completed(folder), dict(map(parse_assignment, where or [])))
    place = out or folder / "figures"
    axes = [_AXES[name] for name in kind or [] if name in _AXES] + (x or [])
    if not kind and not axes:
        axes = [axis_for(cells, lines, panels)]
    if Kind.frontier in (kind or []):
        _save_frontier(cells, place)
    if Kind.matrix in (kind or []):
        for name in metric or _USUAL:
            _save_matrix(cells, str(name), place)
    for axis in axes:
        for name in metric or _USUAL:
            _save_curves(cells, str(name), axis, lines=lines, panels=panels, band=band, place=place)


def _completed(folder: Path) -> list[Cell]:
    cells = read_cells(folder)
    unfinished = [cell.name for cell in unfinished_cells(folder)]
    if not cells:
        raise ConfigurationError(f"none of the {len(unfinished)} runs in {folder} is complete")
    if unfinished:
        named = ", ".join(unfinished[:_NAMED]) + (", ..." if len(unfinished) > _NAMED else "")
        typer.echo(f"warning: left out {len(unfinished)} runs that are not complete: {named}", err=True)
    return [with_parameters(cell) for cell in cells]


def _save_curves(
    cells: Sequence[Cell], name: str, axis: str, *, lines: str, panels: str | None, band: Band, place: Path
) -> None:
    with needs_extra("report"):
        from flower_dfl.figures.lines import draw_lines  # noqa: PLC0415 - imports matplotlib

    metric = METRICS[name]
    measured = _measured(cells, name)
    if measured:
        figure = draw_lines(curves(measured, metric, axis, lines, panels, band=band), axis, metric.label, lines, band)
        _save(figure, place, f"{name}-by-{axis}")


def _save_frontier(cells: Sequence[Cell], place: Path) -> None:
    with needs_extra("report"):
        from flower_dfl.figures.frontier import count_seeds, draw_frontier, standings  # noqa: PLC0415 - imports matplotlib

    figure = draw_frontier(standings(cells), attacks=count_attacks(cells), seeds=count_seeds(cells))
    _save(figure, place, "frontier")


def _save_matrix(cells: Sequence[Cell], name: str, place: Path) -> None:
    with needs_extra("report"):
        from flower_dfl.figures.matrix import draw_matrix, matrix_of  # noqa: PLC0415 - imports matplotlib

    measured = _measured(cells, name)
    if measured:
        _save(draw_matrix([matrix_of(measured, METRICS[name])]), place, f"{name}-matrix")


def _save(figure: "Figure", place: Path, name: str) -> None:
    """Write a figure in every format and print the paths."""
    from flower_dfl.figures.style import SUFFIXES, save  # noqa: PLC0415 - imports matplotlib

    for suffix in SUFFIXES:
        typer.echo(str(save(figure, place / f"{name}{suffix}")))


def _measured(cells: Sequence[Cell], name: str) -> list[Cell]:
    """Return the runs that have a metric, and say which attacks have none."""
    metric = METRICS[name]
    measured = [cell for cell in cells if cell.summary.get(metric.summary) is not None]
    if len(measured) < len(cells):
        without = sorted({str(cell.settings["attack.name"]) for cell in cells if cell not in measured})
        typer.echo(f"no {metric.label} under {', '.join(without)}: {len(cells) - len(measured)} runs", err=True)
    return measured
