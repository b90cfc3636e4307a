"""``flower-dfl report``: one HTML file of a run or a sweep."""

from pathlib import Path
from typing import Annotated

import typer

from flower_dfl.extras import needs_extra

__all__ = ["report"]


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a run or of a sweep.")],
    *,
    out: Annotated[Path | None, typer.Option(help="HTML file to write; report.html in the folder by default.")] = None,
) -> None:
    """Write a report that needs no network and no other file, and print where it is."""
    with needs_extra("report"):
        from flower_dfl.report import write_report  # noqa: PLC0415 - imports Jinja

    typer.echo(str(write_report(folder, out)))
