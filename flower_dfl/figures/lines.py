"""Curves with bands over seeds, one panel beside the other."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from flower_dfl.figures.series import BYZANTINE_SHARE, ROUND, Band, Line, Panel
from flower_dfl.figures.style import house_style, line_style

__all__ = ["draw_lines", "explain_band"]

_PANELS_ABREAST = 3
_MARKERS_A_LINE = 10
_LEGEND_CHARACTERS = 60  # that fit under one panel
_HANDLE_CHARACTERS = 14  # that a line and its margins take beside a label
_AXIS_LABELS = {BYZANTINE_SHARE: "share of Byzantine nodes", "data.params.p": "degree of non-IID data, p"}


@house_style()
def draw_lines(panels: Sequence[Panel], x: str, y_label: str, legend: str, band: Band) -> Figure:
    """Draw curves.

    Args:
        panels: What to draw; a line's style follows its label, over all panels.
        x: What is on the horizontal axis, as for :func:`~flower_dfl.figures.series.curves`.
        y_label: The metric, a share in [0, 1].
        legend: What tells the lines apart.
        band: What the points have around their means.
    """
    columns = min(len(panels), _PANELS_ABREAST)
    rows = -(-len(panels) // columns)
    labels = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
    abreast = max(1, min(len(labels), columns * _LEGEND_CHARACTERS // (max(map(len, labels)) + _HANDLE_CHARACTERS)))
    figure = Figure(figsize=(1.0 + 3.4 * columns, 0.8 + 2.4 * rows + 0.18 * -(-len(labels) // abreast)))
    grid = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for unused in grid[len(panels) :]:
        unused.remove()
    for number, (axes, panel) in enumerate(zip(grid, panels, strict=False)):
        axes.set_title(panel.title)
        for line in panel.lines:
            _draw(axes, line, labels.index(line.label))
        axes.tick_params(labelbottom=True)
        if number + columns >= len(panels):  # none below it
            axes.set_xlabel(_AXIS_LABELS.get(x, x))
        if number % columns == 0:
            axes.set_ylabel(y_label)
    grid[0].set_ylim(-0.03, 1.03)
    grid[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    if x == ROUND:
        grid[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = {str(line.get_label()): line for axes in figure.axes for line in axes.lines}
    key = figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=abreast,
        title=f"{legend}\n{explain_band(panels, band)}",
        handlelength=3.5,
    )
    key.get_title().set_multialignment("center")
    return figure


def explain_band(panels: Sequence[Panel], band: Band) -> str:
    """Say over how many seeds the points are means, and what the band shows."""
    counts = {point.count for panel in panels for line in panel.lines for point in line.points}
    if counts == {1}:
        return "one seed"
    number = str(max(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    shown = {"min-max": "smallest to largest", "deviation": "± one standard deviation"}[band]
    return f"mean of {number} seeds, band: {shown}"


def _draw(axes: Axes, line: Line, index: int) -> None:
    places = [point.x for point in line.points]
    lows, highs = zip(*((point.low, point.high) for point in line.points), strict=True)
    style = line_style(index)
    step = -(-len(places) // _MARKERS_A_LINE)
    axes.plot(places, [point.mean for point in line.points], label=line.label, markevery=(index % step, step), **style)
    if list(lows) != list(highs):
        faint, outline = (to_rgba(style["color"], alpha) for alpha in (0.15, 0.6))
        axes.fill_between(
            places, lows, highs, facecolor=faint, edgecolor=outline, linestyle=style["linestyle"], linewidth=0.5
        )
