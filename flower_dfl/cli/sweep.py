"""``flower-dfl sweep``: all cells of a file, with live progress."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from flower_dfl.cli.display import say
from flower_dfl.sweeps.definition import load_sweep
from flower_dfl.sweeps.processes import follow_parent, locked
from flower_dfl.sweeps.running import Backend, LocalProcesses, Progress, next_command, run_sweep

__all__ = ["sweep", "sweep_cell"]

_SHOWN_NAMES = 3
_HANDOVER_TIMEOUT = 120.0  # until a process of a sweep that was killed has ended

EngineOption = Annotated[Literal["flower", "local"], typer.Option(help="Engine of every cell; it changes no result.")]


def sweep(
    file: Annotated[Path, typer.Argument(help="TOML file with the cells; see docs/sweeps.md.")],
    *,
    engine: EngineOption = "flower",
    results_dir: Annotated[
        Path | None, typer.Option(help="Folder of the sweep; ./runs/NAME OF THE FILE by default.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Cells at once; half of the cores, or of a cluster all, by default.")
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Run the cells on this Ray cluster.")
    ] = None,
) -> None:
    """Run every cell of a sweep that is not complete, each in a process of its own. Repeat it to continue."""
    planned = load_sweep(file)
    folder = (results_dir or Path("runs") / file.stem).resolve()
    console = Console()
    say(console, f"sweep folder: {folder}")
    backend = _backend(engine, jobs, ray_address)
    with _Display(console, len(planned.cells)) as display:
        statuses = run_sweep(planned, folder, backend, display.show)
    complete = sum(status == "completed" for status in statuses.values())
    say(console, f"{complete} of {len(statuses)} cells complete; see: flower-dfl table {folder}")
    if complete < len(statuses):
        raise typer.Exit(1)


def sweep_cell(
    context: typer.Context, folder: Annotated[Path, typer.Argument()], *, engine: EngineOption = "flower"
) -> None:
    """Do what is left to do for one cell: what `flower-dfl sweep` starts. It ends when its standard input does."""
    follow_parent()
    with locked(folder / "lock", f"the cell folder {folder}", wait=_HANDOVER_TIMEOUT):
        command = next_command(folder, engine)
        code = command and context.find_root().command.main(command, standalone_mode=False)
    if code:
        raise typer.Exit(code)


def _backend(engine: str, jobs: int | None, ray_address: str | None) -> Backend:
    if ray_address is None:
        return LocalProcesses(jobs or max(1, (os.cpu_count() or 1) // 2), engine)
    from flower_dfl.sweeps.cluster import RayTasks  # noqa: PLC0415 - imports Ray

    return RayTasks(ray_address, jobs, engine)


class _Display:
    """A live line on a terminal, one plain line for each cell that has ended elsewhere."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._bar = Bar(
            SpinnerColumn(),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=total)

    def __enter__(self) -> "_Display":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def show(self, progress: Progress) -> None:
        """Show a sweep at one moment."""
        names = {
            status: [name for name, now in progress.statuses.items() if now == status]
            for status in ("completed", "failed", "running")
        }
        done = len(names["completed"]) + len(names["failed"])
        left = "-" if progress.seconds_left is None else str(timedelta(seconds=round(progress.seconds_left)))
        running = ", ".join(names["running"][:_SHOWN_NAMES]) + (", ..." if len(names["running"]) > _SHOWN_NAMES else "")
        text = f"failed {len(names['failed'])}, left {left}, running {len(names['running'])}: {running}"
        self._bar.update(self._task, completed=done, description=text)
        if progress.error is not None:
            self._say(f"{done}/{self._total} failed {progress.cell} ({progress.seconds:.1f} s): {progress.error}")
        elif progress.cell is not None and not self._console.is_terminal:
            self._say(f"{done}/{self._total} completed {progress.cell} ({progress.seconds:.1f} s)")

    def _say(self, text: str) -> None:
        say(self._console, text)
