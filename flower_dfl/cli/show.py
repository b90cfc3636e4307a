"""``flower-dfl show``: a run folder as text, whatever of it is there: finished, going on, failed or empty."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flower_dfl.cli.display import say, share
from flower_dfl.config import RunConfig, flatten, load_toml
from flower_dfl.errors import ConfigurationError
from flower_dfl.records import RoundSummary, read_lines, summarise_round

__all__ = ["show", "sparkline"]

_MARKS = ("summary.json", "config.toml", "run.log", "flower.log")
_LOGS = ("run.log", "flower.log")
_STYLES = {"completed": "green", "failed": "red", "interrupted": "yellow"}
_MOST_ROWS = 20
_MOST_LISTED = 10
_MOST_TRUST_NODES = 40
_SPARKS = ("▁▂▃▄▅▆▇█", "_.-=+*%#")  # blocks, and what stands for them in a terminal without
_SPARK_WIDTH = 60


def show(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    *,
    round: Annotated[int | None, typer.Option(help="Round of which trust is shown; the last by default.")] = None,
) -> None:
    """Show status, settings, rounds, trust and failures of a run."""
    _check_is_run(run)
    console = Console()
    summary = _read_json(run / "summary.json")
    lines = read_lines(run / "rounds.jsonl")
    _print_status(console, run, summary)
    _print_settings(console, run)
    if lines:
        _print_rounds(console, lines)
        _print_trust(console, run, lines, round)
    elif round is not None:
        raise ConfigurationError(f"the run has no round {round}: it has recorded none yet")
    _print_troubles(console, run, lines)


def sparkline(values: Sequence[float], blocks: str) -> str:
    """Draw shares in [0, 1] as one character each, or means of neighbours where there are too many.

    >>> sparkline([0.0, 0.5, 1.0], "▁▂▃▄▅▆▇█")
    '▁▅█'
    """
    step = -(-len(values) // _SPARK_WIDTH)
    parts = [values[first : first + step] for first in range(0, len(values), step)]
    return "".join(blocks[min(int(sum(part) / len(part) * len(blocks)), len(blocks) - 1)] for part in parts)


def _check_is_run(folder: Path) -> None:
    if any((folder / name).is_file() for name in _MARKS):
        return
    runs = sorted(path.parent for path in folder.glob("*/summary.json"))
    inside = f"; the last of {len(runs)} runs in it is {runs[-1]}" if runs else ""
    raise ConfigurationError(f"expected a run folder, with a summary.json, got {folder}{inside}")


def _print_status(console: Console, run: Path, summary: Mapping[str, Any]) -> None:
    environment = _read_json(run / "environment.json")
    status = summary.get("status", "not started")
    say(console, f"run folder: {run.resolve()}")
    say(console, Text.assemble("status: ", (status, _STYLES.get(status, "bold")), f", {_progress(run, summary)}"))
    if environment:
        say(console, f"started: {environment.get('started')}, engine {environment.get('engine')}")
    if summary.get("error"):
        say(console, Text(f"error: {summary['error']}", style="red"))
    for name in _LOGS:
        if status != "completed" and (run / name).exists():
            say(console, f"log: {(run / name).resolve()}")


def _progress(run: Path, summary: Mapping[str, Any]) -> str:
    if not summary:
        return "no round yet"
    wanted = _settings(run).get("num-rounds", "?")
    text = f"{summary['rounds']} of {wanted} rounds in {summary.get('seconds_total', 0.0):.1f} s"
    if summary["status"] == "running":
        idle = max(0.0, time.time() - (run / "summary.json").stat().st_mtime)
        text += f", last sign of life {idle:.0f} s ago"
    return text


def _print_settings(console: Console, run: Path) -> None:
    defaults = flatten(RunConfig())
    changed = {key: value for key, value in _settings(run).items() if value != defaults.get(key)}
    say(console, "\nsettings that differ from the defaults:" if changed else "\nsettings: the defaults")
    for key, value in changed.items():
        say(console, f"  {key} = {value!r}" + (f" (default {defaults[key]!r})" if key in defaults else ""))


def _print_rounds(console: Console, lines: Iterable[Mapping[str, Any]]) -> None:
    rounds = [(summarise_round(of), _missing(of)) for of in _by_round(lines)]
    table = Table(title="honest nodes by round", title_justify="left")
    for title in ("round", "accuracy", "worst", "ASR", "consensus", "rejected", "missing"):
        table.add_column(title, justify="right")
    for summary, missing in _thinned(rounds):
        distance = summary.consensus_distance
        table.add_row(
            str(summary.round),
            share(summary.accuracy_mean),
            share(summary.accuracy_min),
            share(summary.attack_success_rate_mean),
            "-" if distance is None else f"{distance:.3g}",
            str(summary.rejected),
            str(missing),
        )
    say(console, "")
    console.print(table)
    if len(rounds) > _MOST_ROWS:
        say(console, f"({_MOST_ROWS} of {len(rounds)} rounds)")
    _print_curves(console, [summary for summary, _ in rounds])


def _print_curves(console: Console, rounds: Sequence[RoundSummary]) -> None:
    blocks = _SPARKS[0] if console.encoding.startswith("utf") else _SPARKS[1]
    for title, attribute in (("accuracy", "accuracy_mean"), ("ASR", "attack_success_rate_mean")):
        values = [value for summary in rounds if (value := getattr(summary, attribute)) is not None]
        if len(values) > 1:
            curve = sparkline(values, blocks)
            say(console, f"{title:<8} 0 % to 100 %: {curve}  {share(values[0])} to {share(values[-1])}")


def _print_trust(console: Console, run: Path, lines: Sequence[Mapping[str, Any]], wanted: int | None) -> None:
    """Print the weights of one round, honest receivers below one another."""
    last = lines[-1]["round"]
    number = last if wanted is None else wanted
    byzantine = {line["node"]: line["byzantine"] for line in lines}
    if not 1 <= number <= last:
        raise ConfigurationError(f"the run has the rounds 1 to {last}, got --round {number}")
    if len(byzantine) > _MOST_TRUST_NODES:
        say(console, f"\ntrust is shown for up to {_MOST_TRUST_NODES} nodes, the run has {len(byzantine)}")
        return
    edges = {
        (line["receiver"], line["sender"]): line for line in read_lines(run / "edges.jsonl") if line["round"] == number
    }
    say(console, f"\nwho trusted whom in round {number}, as weights in per cent (columns: senders, * Byzantine):")
    say(console, Text.assemble("     ", *(_heading(node, lying) for node, lying in sorted(byzantine.items()))))
    for receiver in sorted(node for node, lying in byzantine.items() if not lying):
        cells = [_trust(edges.get((receiver, sender)), lying) for sender, lying in sorted(byzantine.items())]
        say(console, Text.assemble(f"{receiver:>4}:", *cells))
    say(console, "  . left out, x refused on arrival, ? did not come, ! not finite")


def _heading(node: int, lying: bool) -> tuple[str, str]:
    return (f"{f'*{node}' if lying else node:>4}", "red" if lying else "")


def _trust(edge: Mapping[str, Any] | None, lying: bool) -> tuple[str, str]:
    """Return what became of a message, and its style: red if an attacker was trusted, yellow if a peer was not."""
    if edge is None:
        return ("    ", "")
    if edge.get("missing") or edge.get("rejected"):
        return ("   ?" if edge.get("missing") else "   x", "")
    if edge["weight"] is None:
        return ("   !", "")
    if edge["weight"] > 0:
        return (f"{max(1, 100 * edge['weight']):4.0f}", "red" if lying else "")
    return ("   .", "" if lying else "yellow")


def _print_troubles(console: Console, run: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Print what went wrong; nothing where nothing did."""
    honest = [line for line in lines if not line["byzantine"]]
    missing: Counter[str] = Counter()
    for line in honest:
        missing.update(line.get("missing") or {})
    flags = Counter(flag for line in honest for flag in line["flags"])
    last = [line["node"] for line in honest if line["diverged"] and line["round"] == lines[-1]["round"]]
    found = [
        *(
            f"messages to honest nodes that did not come, {reason}: {times}"
            for reason, times in sorted(missing.items())
        ),
        *(f"honest nodes flagged {flag!r}: {times} times" for flag, times in sorted(flags.items())),
        *([f"diverged honest nodes: {', '.join(map(str, last))}"] if last else []),
        *_failures(read_lines(run / "failures.jsonl")),
    ]
    if found:
        say(console, "\ntroubles:")
    for text in found:
        say(console, f"  {text}")


def _failures(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    told = [f"{_where(line)}: {line['cause']} ({line['consequence']})" for line in lines]
    return [*told[:_MOST_LISTED], *([f"and {len(told) - _MOST_LISTED} failures more"] if told[_MOST_LISTED:] else [])]


def _where(failure: Mapping[str, Any]) -> str:
    if failure["node"] < 0:
        return f"the whole run, back to the end of round {failure['round']}"
    return f"round {failure['round']}, node {failure['node']}"


def _missing(lines: Iterable[Mapping[str, Any]]) -> int:
    return sum(sum((line.get("missing") or {}).values()) for line in lines if not line["byzantine"])


def _by_round(lines: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    return [list(group) for _, group in groupby(lines, key=lambda line: line["round"])]


def _thinned(rounds: Sequence[tuple[RoundSummary, int]]) -> Sequence[tuple[RoundSummary, int]]:
    """Return at most so many rounds as a table has rows, evenly spread, the first and the last among them."""
    if len(rounds) <= _MOST_ROWS:
        return rounds
    return [rounds[i * (len(rounds) - 1) // (_MOST_ROWS - 1)] for i in range(_MOST_ROWS)]


def _settings(run: Path) -> dict[str, Any]:
    """Return the recorded settings by dotted keys, also those that this version does not know."""
    path = run / "config.toml"
    return dict(_dotted(load_toml(path), "")) if path.exists() else {}


def _dotted(table: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
