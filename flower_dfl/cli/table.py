"""``flower-dfl table``: what a sweep found."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flower_dfl.config import config_keys, parse_assignment
from flower_dfl.errors import ConfigurationError
from flower_dfl.sweeps.cells import settings_in
from flower_dfl.sweeps.formats import FORMATS, write_csv, write_parquet
from flower_dfl.sweeps.tables import Cell, aggregate, notes, read_cells, tidy, unfinished_cells
from flower_dfl.validation import check_known

__all__ = ["table"]

_METRICS = ("honest_accuracy_mean", "honest_accuracy_min", "attack_success_rate_mean")


def table(
    folder: Annotated[Path, typer.Argument(help="Folder of a sweep, or any folder with runs below it.")],
    *,
    metric: Annotated[list[str] | None, typer.Option(help="What to tabulate; may be repeated.")] = None,
    rows: Annotated[list[str] | None, typer.Option(metavar="KEY", help="Rows; may be repeated. [strategy]")] = None,
    columns: Annotated[list[str] | None, typer.Option(metavar="KEY", help="Likewise columns. [attack]")] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only cells with this setting; may be repeated.")
    ] = None,
    format: Annotated[Literal["text", "markdown", "latex"], typer.Option(help="Form of the tables.")] = "text",
    csv: Annotated[Path | None, typer.Option(help="Also write one row a cell to this CSV file.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Likewise to this Parquet file.")] = None,
) -> None:
    """Print mean, spread and worst seed of every metric; refuse to average what differs in more than the seed."""
    wanted = [parse_assignment(text) for text in where or []]
    for key, _ in wanted:
        check_known("configuration key", key, config_keys())
    complete, unfinished = (_chosen(cells, wanted) for cells in (read_cells(folder), unfinished_cells(folder)))
    remarks = notes(complete, unfinished)
    if not complete:
        raise ConfigurationError(f"there is nothing to tabulate in {folder}: {'; '.join(remarks)}")
    tables = [aggregate(complete, name, rows or ["strategy"], columns or ["attack"]) for name in metric or _METRICS]
    for found in tables:
        typer.echo(FORMATS[format](found, remarks if found is tables[-1] else ()) + "\n")
    if csv is not None:
        write_csv(tidy(complete), csv)
    if parquet is not None:
        write_parquet(tidy(complete), parquet)


def _chosen(cells: list[Cell], wanted: list[tuple[str, Any]]) -> list[Cell]:
    """Return the cells that have these settings, spelt as in a whole configuration.

    Raises:
        ConfigurationError: A value can be that of no cell.
    """
    for key, value in wanted:
        found, errors = [], []
        for cell in cells:
            try:
                if settings_in({**cell.settings, key: value}) == cell.settings:
                    found.append(cell)
            except ConfigurationError as error:  # it contradicts the cell's other settings, or is wrong for every cell
                errors.append(error)
        if cells and len(errors) == len(cells):
            raise errors[0]
        cells = found
    return cells
