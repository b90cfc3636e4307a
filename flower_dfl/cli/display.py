"""What a run shows while it goes: a progress bar and the honest nodes' latest numbers."""

import json
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from flower_dfl.config import RunConfig
from flower_dfl.records import RoundSummary

__all__ = ["Display", "say", "share"]


def say(console: Console, text: str | Text) -> None:
    """Print a line as it is: paths, names and errors may hold what Rich takes for markup."""
    console.print(text, soft_wrap=True, highlight=False, markup=False, emoji=False)


def share(value: float | None) -> str:
    """Format a fraction as per cent; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.1f} %"


class Display:
    """A live progress line on a terminal, one plain line a round elsewhere."""

    def __init__(self, config: RunConfig, engine: str, console: Console) -> None:
        self._console = console
        self._title = f"{config.strategy.name} against {config.attack.name} ({engine})"
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(f"{self._title}: starting", total=config.num_rounds)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def round(self, summary: RoundSummary) -> None:
        """Show one round."""
        consensus = "-" if summary.consensus_distance is None else f"{summary.consensus_distance:.3g}"
        text = (
            f"accuracy {share(summary.accuracy_mean)} (worst {share(summary.accuracy_min)}), "
            f"ASR {share(summary.attack_success_rate_mean)}, consensus {consensus}, rejected {summary.rejected}"
        )
        self._progress.update(self._task, completed=summary.round, description=f"{self._title}: {text}")
        if not self._console.is_terminal:
            say(self._console, f"round {summary.round}: {text}")

    def conclude(self, folder: Path) -> None:
        """Show the summary."""
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        table = Table(title=self._title, show_header=False)
        for label, text in (
            ("honest accuracy, mean", share(summary["honest_accuracy_mean"])),
            ("honest accuracy, worst", share(summary["honest_accuracy_min"])),
            ("attack success rate, mean", share(summary["attack_success_rate_mean"])),
            ("attack success rate, largest", share(summary["attack_success_rate_max"])),
            ("honest neighbours kept", share(summary["honest_kept"])),
            ("Byzantine neighbours kept", share(summary["byzantine_kept"])),
            ("diverged nodes", ", ".join(map(str, summary["diverged_nodes"])) or "none"),
            ("rounds", str(summary["rounds"])),
            ("seconds", f"{summary['seconds_total']:.1f}"),
        ):
            table.add_row(label, text)
        self._console.print(table)
