"""Does DFL-Dual keep the honest neighbours and drop the Byzantine ones?

Runs DFL-Dual and the oracle for each model, attack, graph and seed in the local engine, and prints a Markdown table.

Usage: python experiments/filtering/filtering.py [--data NAME] [--root DIR] [--rounds T] [--seed N ...]
"""

import argparse
import json
import statistics
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from flower_dfl.config import parse
from flower_dfl.engines.local import run_local
from flower_dfl.records import create_run_folder

LEARNING_RATES = {"lr": 0.02, "fc": 0.05}
ATTACKS = ("label-flip", "scaling")
GRAPHS = {"3 of 5 neighbours": "", "4 of 6 neighbours": "share = 0.66"}


def main() -> None:
    """Run the grid and print one row for each model, attack and graph."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--root", default="")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results-dir", default="runs/filtering")
    arguments = parser.parse_args()

    cells = list(product(LEARNING_RATES, ATTACKS, GRAPHS, arguments.seed))
    results = {
        cell: {rule: _run(arguments, rule, cell) for rule in ("dfl-dual", "oracle")}
        for cell in track(cells, "runs", console=Console(stderr=True))
    }
    print(
        "| model | attack | Byzantine | accuracy | oracle | ASR | oracle | honest kept | Byzantine kept | worst seed |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for model, attack, graph in product(LEARNING_RATES, ATTACKS, GRAPHS):
        runs = [results[model, attack, graph, seed] for seed in arguments.seed]
        worst = min(run["dfl-dual"]["honest_kept"] - run["dfl-dual"]["byzantine_kept"] for run in runs)
        cells_text = [
            _mean(runs, rule, key)
            for key in ("honest_accuracy_mean", "attack_success_rate_mean")
            for rule in ("dfl-dual", "oracle")
        ]
        cells_text += [_mean(runs, "dfl-dual", key) for key in ("honest_kept", "byzantine_kept")]
        print(f"| {model} | {attack} | {graph} | {' | '.join(cells_text)} | {worst:.3f} |")


def _run(arguments: argparse.Namespace, rule: str, cell: tuple[str, str, str, int]) -> dict[str, Any]:
    model, attack, graph, seed = cell
    config = parse(
        {
            "seed": seed,
            "num-rounds": arguments.rounds,
            "eval.every": arguments.rounds,
            "topology.params": GRAPHS[graph],
            "strategy.name": rule,
            "attack.name": attack,
            "model.name": model,
            "data.name": arguments.data,
            "data.root": arguments.root,
            "train.lr": LEARNING_RATES[model],
            "results-dir": arguments.results_dir,
        }
    )
    folder = create_run_folder(config, Path.cwd())
    run_local(config, folder)
    return dict(json.loads((folder / "summary.json").read_text(encoding="utf-8")))


def _mean(runs: list[dict[str, dict[str, Any]]], rule: str, key: str) -> str:
    values = [run[rule][key] for run in runs]
    return "-" if None in values else f"{statistics.mean(values):.3f}"


if __name__ == "__main__":
    main()
