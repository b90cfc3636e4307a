"""What the page of one run says, as plain values for its template and its script."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flower_dfl.config import RunConfig, flatten
from flower_dfl.errors import DflError
from flower_dfl.report.pictures import draw_dummies, draw_trigger
from flower_dfl.report.reading import MAX_DRAWN_NODES, Run
from flower_dfl.report.series import MAX_ROUNDS, Chart, charts_of, nodes_on_demand, spread_out
from flower_dfl.report.trust import trust_of
from flower_dfl.report.words import NOTHING, SPACE, amount, per_cent, size

__all__ = ["Tile", "run_page"]


@dataclass(frozen=True, slots=True)
class Tile:
    """One number of the summary.

    Attributes:
        label: What it is.
        value: The number as text.
        note: What it is measured against.
        tone: ``honest``, ``byzantine`` or nothing.
    """

    label: str
    value: str
    note: str = ""
    tone: str = ""


def run_page(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the template says, and what the script draws."""
    rounds = spread_out(list(run.rounds), MAX_ROUNDS)
    charts = charts_of(run, rounds)
    trust = trust_of(run)
    histograms = _histograms(run)
    words = {
        "title": f"{run.settings.get('strategy.name', 'unknown rule')} against "
        f"{run.settings.get('attack.name', 'unknown attack')}",
        "subtitle": _subtitle(run),
        "problem": _problem(run),
        "tiles": _tiles(run),
        "rounds": rounds,
        "nodes": run.nodes,
        "charts": charts,
        "without": _without(run, charts),
        "trust": trust,
        "flags": sorted(run.flags.items(), key=lambda item: -item[1]),
        "histograms": histograms,
        "grouped": len(run.nodes) > MAX_DRAWN_NODES,
        "trigger": _picture(draw_trigger, run) if run.is_attacked else {"reason": "nobody attacks"},
        "dummies": _picture(draw_dummies, run) if _is_inverting(run) else None,
        "table": _table(charts, rounds),
        "SPACE": SPACE,
    }
    data = {
        "rounds": rounds,
        "charts": [chart.as_json() for chart in charts],
        "trust": trust,
        "byzantine": [int(node in run.byzantine) for node in range(len(run.nodes))],
        "down": {number: run.rounds[number].down for number in rounds if run.rounds[number].down},
        "histograms": histograms,
    }
    return words | _nodes(run) | _configuration(run), data


def _subtitle(run: Run) -> str:
    settings = run.settings
    where = [
        f"{len(run.nodes) or settings.get('num-nodes', '?')} nodes, {_liars(run)}",
        f"topology {settings.get('topology.name', '?')}",
        f"model {settings.get('model.name', '?')} on {settings.get('data.name', '?')}",
        f"seed {settings.get('seed', '?')}",
    ]
    return " · ".join(where)


def _liars(run: Run) -> str:
    count = len(run.byzantine) if run.nodes else run.settings.get("num-byzantine", "?")
    return f"{count} Byzantine" + (
        "" if run.is_attacked or not run.byzantine else " in name (they follow the protocol)"
    )


def _problem(run: Run) -> dict[str, str] | None:
    status = run.summary.get("status", "unknown")
    texts = {
        "completed": "",
        "running": "What follows is what was recorded so far.",
        "unknown": "There is no summary.json.",
    }
    text = texts.get(status, str(run.summary.get("error") or "No error was recorded."))
    return (
        {"kind": f"This run is {status}" if status == "running" else f"Status: {status}", "text": text}
        if text
        else None
    )


def _tiles(run: Run) -> list[Tile]:
    summary = run.summary
    diverged, engine = summary.get("diverged_nodes") or [], run.environment.get("engine")
    tiles = [
        Tile(
            "Honest accuracy",
            per_cent(summary.get("honest_accuracy_mean")),
            f"worst node {per_cent(summary.get('honest_accuracy_min'))}",
            "honest",
        ),
        Tile(
            "Attack success",
            per_cent(summary.get("attack_success_rate_mean")),
            f"largest {per_cent(summary.get('attack_success_rate_max'))}" if run.is_attacked else "nobody attacks",
            "byzantine",
        ),
        Tile("Honest trusted", per_cent(summary.get("honest_kept")), "of messages to honest nodes", "honest"),
        Tile(
            "Byzantine trusted",
            per_cent(summary.get("byzantine_kept")),
            "of messages to honest nodes",
            "byzantine",
        ),
        Tile("Consensus", amount(summary.get("consensus_distance")), "distance of honest models"),
        Tile("Rounds", str(summary.get("rounds", len(run.rounds))), f"of {run.settings.get('num-rounds', '?')}"),
        Tile("Bytes received", size(summary.get("bytes_total")), "all nodes, all rounds"),
        Tile("Time", _duration(summary.get("seconds_total")), f"{engine} engine" if engine else ""),
    ]
    lost = sum(frame.decisions.dropped for frame in run.frames.values())
    missing = sum(sum(entry.missing.values()) for entry in run.rounds.values())
    optional = [
        Tile("Dropped by ingress", f"{lost:,}", "messages to honest nodes"),
        Tile("Missing", f"{missing:,}", "messages to honest nodes"),
        Tile("Diverged", f"{len(diverged):,}", f"honest nodes: {_few(diverged)}"),
        Tile("Failed steps", f"{summary.get('failed_steps') or 0:,}", "of nodes"),
    ]
    return tiles + [tile for tile in optional if tile.value != "0"]


def _few(nodes: Sequence[int]) -> str:
    return ", ".join(map(str, nodes[:10])) + (", ..." if len(nodes) > 10 else "")


def _duration(seconds: float | None) -> str:
    """Write a time.

    >>> [_duration(seconds).replace(SPACE, " ") for seconds in (None, 3.94, 83, 7384)]
    ['\N{EN DASH}', '3.9 s', '1:23 min', '2:03:04 h']
    """
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}{SPACE}min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}{SPACE}h"


def _without(run: Run, charts: Sequence[Chart]) -> list[str]:
    shown = {chart.id for chart in charts}
    reasons = {
        "accuracy": "No accuracy: no recorded round was evaluated.",
        "attack-success": "No attack success rate: "
        + ("the attack has no trigger, or no round was evaluated." if run.is_attacked else "nobody attacks."),
        "detection": "No detection: no decision on a neighbour was recorded.",
        "consensus": "No consensus distance: no recorded round was evaluated.",
    }
    return [reason for name, reason in reasons.items() if name not in shown]


def _nodes(run: Run) -> dict[str, Any]:
    curves = nodes_on_demand(run)
    honest = len(run.nodes) - len(run.byzantine)
    everybody = f"all honest ({honest})" if len(curves) == honest else f"the {len(curves)} worst"
    shown = range(len(run.nodes)) if len(run.nodes) <= MAX_DRAWN_NODES else curves
    return {
        "on_demand": everybody if curves else "",
        "choosable": [{"node": node, "byzantine": node in run.byzantine} for node in shown],
    }


def _histograms(run: Run) -> list[dict[str, Any]]:
    """Return label counts of each node, or the mean of each group where there are too many nodes."""
    if not run.nodes or "label_counts" not in run.nodes[0]:
        return []
    counts = np.array([node["label_counts"] for node in run.nodes])
    if len(run.nodes) <= MAX_DRAWN_NODES:
        members = [[node] for node in range(len(run.nodes))]
    else:
        members = [np.flatnonzero(run.groups == group).tolist() for group in range(int(run.groups.max()) + 1)]
    return [
        {
            "name": f"node {group[0]}" if len(group) == 1 else f"{len(group)} nodes, {group[0]} to {group[-1]}",
            "byzantine": group[0] in run.byzantine,
            "examples": int(counts[group].sum()),
            "counts": np.round(counts[group].mean(axis=0), 1).tolist(),
        }
        for group in members
    ]


def _is_inverting(run: Run) -> bool:
    return run.settings.get("strategy.name") == "dfl-dual" or (run.folder / "digests").is_dir()


def _picture(draw: Any, run: Run) -> Any:  # noqa: ANN401 - one of the two functions of pictures.py and what it makes
    """Return a picture, or why there is none."""
    try:
        return draw(run)
    except DflError as error:
        return {"reason": str(error)}
    except Exception as error:  # a user's own data and attacks are called
        return {"reason": f"{type(error).__name__}: {error}"}


def _table(charts: Sequence[Chart], rounds: Sequence[int]) -> dict[str, Any]:
    """Return all numbers of the charts, for those who read rather than look."""
    formats = {"share": per_cent, "number": amount, "bytes": size, "count": amount}
    lines = [(chart, line) for chart in charts for line in chart.lines]
    return {
        "columns": [f"{chart.title}, {line.name}" for chart, line in lines],
        "rows": [
            (number, [formats[chart.unit](line.values[index]) for chart, line in lines])
            for index, number in enumerate(rounds)
        ],
    }


def _configuration(run: Run) -> dict[str, Any]:
    defaults: Mapping[str, Any] = flatten(RunConfig())
    settings = {key: value for key, value in run.settings.items() if key != "results-dir"}
    environment = run.environment
    engine = str(environment.get("engine") or "").partition("+")[0]  # its transport is a setting
    named = {"flower-dfl": environment.get("code_version"), "Python": environment.get("python")}
    versions = named | dict(environment.get("packages", {})) | {"on": environment.get("platform")}
    return {
        "changed": [
            (key, value, defaults.get(key, "no such setting in this version"))
            for key, value in settings.items()
            if defaults.get(key) != value
        ],
        "settings": list(settings.items()),
        "repeat": "flower-dfl run config.toml" + (f" --engine {shlex.quote(engine)}" if engine else ""),
        "command": shlex.join(map(str, environment.get("command", []))),
        "started": str(environment.get("started", "")),
        "versions": [(name, value) for name, value in versions.items() if value],
    }
