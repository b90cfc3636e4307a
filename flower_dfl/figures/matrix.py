"""Every rule against every attack: a table of numbers that colours make readable from afar."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from flower_dfl.figures.meetings import meetings
from flower_dfl.figures.series import Metric, value_of
from flower_dfl.figures.style import house_style
from flower_dfl.sweeps.tables import Cell

__all__ = ["Matrix", "draw_matrix", "matrix_of"]

_ENTRY = 0.27  # inches
_LETTER = 0.065
_LIGHT_BELOW = 0.6  # of the darkest


@dataclass(frozen=True, slots=True)
class Matrix:
    """A share in [0, 1] for every rule and attack.

    Attributes:
        label: What the shares are.
        rules: The rows, from top to bottom.
        attacks: The columns.
        values: The shares by rule and attack; an entry that is missing is left blank.
        high_is_good: Which end is light.
    """

    label: str
    rules: tuple[str, ...]
    attacks: tuple[str, ...]
    values: Mapping[tuple[str, str], float]
    high_is_good: bool


def matrix_of(cells: Sequence[Cell], metric: Metric) -> Matrix:
    """Return the means over seeds of a metric, the rule with the best mean over its attacks on top.

    Args:
        cells: Completed runs with parameters as settings, see :func:`~flower_dfl.figures.series.with_parameters`.
        metric: What all of them have.

    Raises:
        ConfigurationError: The runs differ in more than rule, attack and seed, or one of them is there twice.
    """
    met = meetings(cells)
    values = {
        (rule, attack): fmean(value_of(cell, metric) for cell in members)
        for rule, attacks in met.items()
        for attack, members in attacks.items()
    }
    sign = -1.0 if metric.high_is_good else 1.0
    means = {rule: fmean(values[rule, attack] for attack in attacks) for rule, attacks in met.items()}
    rules = sorted(met, key=lambda rule: (sign * means[rule], rule))
    attacks = sorted({attack for _, attack in values}, key=lambda attack: (attack != "none", attack))
    return Matrix(metric.label, tuple(rules), tuple(attacks), values, metric.high_is_good)


@house_style()
def draw_matrix(matrices: Sequence[Matrix]) -> Figure:
    """Draw matrices side by side, with per cent in every entry; dark is bad.

    Args:
        matrices: At least one; all with the rules of the first.
    """
    rules = matrices[0].rules
    names = _LETTER * max(map(len, rules))
    headings = _LETTER * max(len(attack) for matrix in matrices for attack in matrix.attacks)
    widths = [_ENTRY * max(len(matrix.attacks), 4) for matrix in matrices]
    figure = Figure(figsize=(names + sum(widths) + 0.9 * len(matrices), 0.7 + headings + 0.8 * _ENTRY * len(rules)))
    for axes, matrix in zip(
        figure.subplots(1, len(matrices), squeeze=False, width_ratios=widths)[0], matrices, strict=True
    ):
        shares = np.array(
            [[matrix.values.get((rule, attack), np.nan) for attack in matrix.attacks] for rule in rules]
        )  # (r, a)
        image = axes.imshow(
            shares, aspect="auto", vmin=0.0, vmax=1.0, cmap="Blues_r" if matrix.high_is_good else "Oranges"
        )
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelsize=7, top=True, labeltop=True, bottom=False, labelbottom=False)
        axes.set_xticks(range(len(matrix.attacks)), matrix.attacks, rotation=90)
        axes.set_yticks(range(len(rules)), rules if matrix is matrices[0] else [""] * len(rules))
        for (row, column), share in np.ndenumerate(shares):
            if not np.isnan(share):
                darkness = 1.0 - share if matrix.high_is_good else share
                colour = "black" if darkness < _LIGHT_BELOW else "white"
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=6, color=colour)
        figure.colorbar(
            image, ax=axes, label=matrix.label, format=PercentFormatter(1.0), orientation="horizontal", shrink=0.6,
            aspect=30, pad=0.01,
        )  # fmt: skip
    return figure
