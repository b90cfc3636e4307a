"""How every figure looks, and how it is saved: the same data give the same bytes.

Colours are those of Okabe and Ito, which stay apart for colour-blind readers. Markers and dashes repeat the message for
readers without colour, so nothing is told by colour alone.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure

from flower_dfl.errors import ConfigurationError
from flower_dfl.writing import storing

__all__ = ["BYZANTINE", "HONEST", "SUFFIXES", "house_style", "line_style", "save"]

HONEST, BYZANTINE = "#0072B2", "#D55E00"

SUFFIXES = (".pdf", ".svg", ".png")
"""The formats of a figure: two for print, one to look at."""

# Okabe and Ito's palette without yellow, which vanishes on white. 7 colours, 8 markers and 5 dashes have no common
# factor: the first 280 lines all look different.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)), (0, (9, 3)))

_STYLE = {
    "font.size": 9,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "pdf.fonttype": 42,  # text as text; publishers refuse type 3
    "savefig.dpi": 200,
    "svg.hashsalt": "flower-dfl",
}
_UNDATED: Mapping[str, Mapping[str, None]] = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}, ".png": {}}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw and save in this style, whatever the user's own matplotlib settings are."""
    with matplotlib.style.context(["default", _STYLE]):
        yield


def line_style(index: int) -> dict[str, Any]:
    """Return colour, marker and dashes of the line with this number."""
    return {
        "color": _COLOURS[index % len(_COLOURS)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": _DASHES[index % len(_DASHES)],
    }


def save(figure: Figure, path: Path) -> Path:
    """Save a figure in the format of the path's suffix and return the absolute path.

    Raises:
        ConfigurationError: The suffix is none of :data:`SUFFIXES`.
        DflError: The file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigurationError(f"a picture ends in {', '.join(SUFFIXES)}, got {path.name!r}")
    with storing(path), house_style():
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata=dict(_UNDATED[suffix]))
    return path.resolve()
