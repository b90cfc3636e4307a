"""Tables as text, Markdown, LaTeX, CSV and Parquet."""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flower_dfl.errors import ConfigurationError, DflError
from flower_dfl.sweeps.tables import METRICS, Entry, Label, Table
from flower_dfl.writing import storing

__all__ = ["FORMATS", "to_latex", "to_markdown", "to_text", "write_csv", "write_parquet"]


def to_text(table: Table, notes: Sequence[str] = ()) -> str:
    """Return a table as aligned text."""
    grid = _grid(table, lambda text: text, "{} *", "±")
    widths = [max(len(line[column]) for line in grid) for column in range(len(grid[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in grid]
    return "\n".join([*lines, "", *_remarks(table, "*"), *notes])


def to_markdown(table: Table, notes: Sequence[str] = ()) -> str:
    """Return a table in Markdown."""
    head, *body = _grid(table, lambda text: text.replace("|", "\\|"), "**{}**", "±")
    lines = [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body)]
    return "\n".join([*lines, "", *(f"- {note}" for note in (*_remarks(table, "Bold"), *notes))])


def to_latex(table: Table, notes: Sequence[str] = ()) -> str:
    """Return a table as a LaTeX ``tabular``, the remarks as comments."""
    head, *body = _grid(table, _escape, "\\textbf{{{}}}", "$\\pm$")
    lines = [f"{' & '.join(line)} \\\\" for line in (head, *body)]
    return "\n".join(
        [
            *(f"% {note}" for note in (*_remarks(table, "Bold"), *notes)),
            f"\\begin{{tabular}}{{{'l' * len(head)}}}",
            "\\hline",
            lines[0],
            "\\hline",
            *lines[1:],
            "\\hline",
            "\\end{tabular}",
        ]
    )


FORMATS: Mapping[str, Callable[[Table, Sequence[str]], str]] = {
    "text": to_text,
    "markdown": to_markdown,
    "latex": to_latex,
}


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write tidy rows; what is None is empty."""
    with storing(path), path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write tidy rows.

    Raises:
        ConfigurationError: pyarrow is not installed.
        DflError: The file cannot be written.
    """
    try:
        import pyarrow  # noqa: PLC0415 - an extra
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError("Parquet needs pyarrow: pip install 'flower-dfl[report]'") from error
    try:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)
    except OSError as error:
        raise DflError(f"cannot write {path}: {error}") from error


def _grid(table: Table, escape: Callable[[str], str], mark: str, plus_minus: str) -> list[list[str]]:
    """Return head and body of a table as texts."""
    corner = f"{', '.join(table.row_keys)} / {', '.join(table.column_keys)}"
    grid = [[escape(corner), *(escape(_joined(column)) for column in table.columns)]]
    for row in table.rows:
        line = [escape(_joined(row))]
        for column in table.columns:
            entry = table.entries.get((row, column))
            text = "-" if entry is None else _entry(entry, table.metric, plus_minus)
            line.append(mark.format(text) if (row, column) in table.worst_attacks else text)
        grid.append(line)
    return grid


def _joined(label: Label) -> str:
    return ", ".join(label) or "all"


def _entry(entry: Entry, metric: str, plus_minus: str) -> str:
    mean, spread, worst = (_number(value, metric) for value in (entry.mean, entry.spread, entry.worst))
    return f"{mean} {plus_minus} {spread} ({worst}; {entry.seeds})"


def _number(value: float | None, metric: str) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if METRICS[metric].is_share else f"{value:.4g}"


def _remarks(table: Table, mark: str) -> list[str]:
    """Say how to read a table."""
    unit = " in per cent" if METRICS[table.metric].is_share else ""
    remarks = [f"{table.metric}{unit}: mean, sample standard deviation (worst seed; number of seeds)"]
    if table.worst_attacks:
        extreme = "lowest" if METRICS[table.metric].high_is_good else "highest"
        remarks.append(f"{mark}: the attack with the {extreme} worst seed")
    if not table.entries:
        remarks.append(f"{table.metric} is not defined for any of these cells")
    if table.unexplained:
        remarks.append(f"entries also differ in {', '.join(table.unexplained)}")
    return remarks


def _escape(text: str) -> str:
    special = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    return re.sub(r"[\\~^&%$#_{}]", lambda found: special.get(found[0], f"\\{found[0]}"), text)
