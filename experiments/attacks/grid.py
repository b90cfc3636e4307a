"""Every attack against five rules: who breaks where.

Each cell (attack, rule, model, seed) is one run of the local engine, in a process of its own; a cell whose summary is
complete is not run again. Prints Markdown tables, one for each model.

Usage: python experiments/attacks/grid.py [--seed N ...] [--model M ...] [--attack A ...] [--jobs N] [--results-dir DIR]
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from flower_dfl.config import parse
from flower_dfl.engines.local import run_local

RULES = ("average", "multi-krum", "bridge-m", "ios", "dfl-dual")
SETTINGS: dict[str, dict[str, Any]] = {
    "lr": {"model.name": "lr", "train.lr": 0.02},
    "fc": {"model.name": "fc", "train.lr": 0.05},
}
ATTACKS: dict[str, tuple[str, str]] = {
    "none": ("none", ""),
    "label-flip": ("label-flip", ""),
    "krum-attack, full": ("krum-attack", "knowledge-level = 'full'"),
    "krum-attack, partial": ("krum-attack", "knowledge-level = 'partial'"),
    "trim-attack, full": ("trim-attack", "knowledge-level = 'full'"),
    "trim-attack, partial": ("trim-attack", "knowledge-level = 'partial'"),
    "alie, z = 1.5": ("alie", "z = 1.5"),
    "ipm": ("ipm", ""),
    "min-max": ("min-max", ""),
    "min-sum": ("min-sum", ""),
    "sign-flip": ("sign-flip", ""),
    "gaussian": ("gaussian", ""),
    "same-value, 0": ("same-value", ""),
    "mimic": ("mimic", ""),
    "dissensus": ("dissensus", ""),
    "isolation": ("isolation", ""),
    "spectral": ("spectral", ""),
    "backdoor": ("backdoor", ""),
    "backdoor, 5 % poison": ("backdoor", "poison-share = 0.05"),
    "backdoor, drip 0.4": ("backdoor", "drip = 0.4"),
    "scaling": ("scaling", ""),
    "dba": ("dba", ""),
    "alie-backdoor, z = 1.5": ("alie-backdoor", "z = 1.5"),
    "alie-backdoor, z = 4": ("alie-backdoor", "z = 4.0"),
    "adaptive (scaling)": ("adaptive", "attack = 'scaling'"),
    "rule-in-the-loop": ("rule-in-the-loop", "rule = '{rule}'"),
    "back-gradient": ("back-gradient", "steps = 5, outer-steps = 3"),
}
Cell = tuple[str, str, str, int]


def main() -> None:
    """Run the cells that are missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--model", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--attack", nargs="+", default=list(ATTACKS), choices=list(ATTACKS))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results-dir", type=Path, default=Path("runs/attacks"))
    arguments = parser.parse_args()

    cells: list[Cell] = list(product(arguments.attack, RULES, arguments.model, arguments.seed))
    failed = []
    with ProcessPoolExecutor(arguments.jobs) as pool:
        futures = {pool.submit(run_cell, cell, arguments.rounds, arguments.results_dir): cell for cell in cells}
        for future in track(as_completed(futures), "cells", total=len(cells), console=Console(stderr=True)):
            error = future.result()
            failed += [f"{futures[future]}: {error}"] if error else []
    for model in arguments.model:
        print(f"\n### {model}\n\n| attack | {' | '.join(RULES)} |\n|---|{'---|' * len(RULES)}")
        for attack in arguments.attack:
            row = [_text(summaries((attack, rule, model), arguments)) for rule in RULES]
            print(f"| {attack} | {' | '.join(row)} |")
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    sys.exit(bool(failed))


def run_cell(cell: Cell, rounds: int, results: Path) -> str:
    """Run one cell unless it is complete; return what went wrong, or nothing."""
    attack, rule, model, seed = cell
    folder = folder_of(cell, results)
    if _status(folder) == "completed":
        return ""
    name, params = ATTACKS[attack]
    try:
        config = parse(
            SETTINGS[model]
            | {
                "seed": seed,
                "num-rounds": rounds,
                "eval.every": rounds,
                "train.epochs": 2,
                "strategy.name": rule,
                "attack.name": name,
                "attack.params": params.format(rule=rule),
            }
        )
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in ("rounds.jsonl", "edges.jsonl"):
            (folder / leftover).unlink(missing_ok=True)
        run_local(config, folder)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def folder_of(cell: Cell, results: Path) -> Path:
    """Return the folder of a cell."""
    name = "-".join(map(str, cell))
    return results / "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in name)


def summaries(key: tuple[str, str, str], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the summaries of all seeds of a cell."""
    folders = (folder_of((*key, seed), arguments.results_dir) for seed in arguments.seed)
    return [json.loads((f / "summary.json").read_text(encoding="utf-8")) for f in folders if _status(f) == "completed"]


def _status(folder: Path) -> str:
    path = folder / "summary.json"
    return str(json.loads(path.read_text(encoding="utf-8"))["status"]) if path.exists() else "missing"


def _text(runs: list[dict[str, Any]]) -> str:
    """Format accuracy (mean over seeds, worst node of all seeds), ASR and kept shares."""
    if not runs:
        return "-"
    accuracy = statistics.mean(run["honest_accuracy_mean"] for run in runs)
    worst = min(run["honest_accuracy_min"] for run in runs)
    text = f"{100 * accuracy:.0f} ({100 * worst:.0f})"
    if runs[0]["attack_success_rate_mean"] is not None:
        text += f" / {100 * statistics.mean(run['attack_success_rate_mean'] for run in runs):.0f}"
    return f"{text} [{_share(runs, 'honest_kept')}, {_share(runs, 'byzantine_kept')}]"


def _share(runs: Iterable[dict[str, Any]], key: str) -> str:
    values = [run[key] for run in runs if run[key] is not None]
    return f"{statistics.mean(values):.2f}" if values else "-"


if __name__ == "__main__":
    main()
