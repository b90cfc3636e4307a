"""Choose learning rates and DFL-Dual's constants, on seeds that no table reports.

First the learning rate of each model: the one with the highest mean accuracy of plain averaging when nobody attacks.
Then DFL-Dual's constants, one changed at a time: the filter is judged by its worst attack, as the share of honest
neighbours kept minus the share of Byzantine ones. Prints both tables; ``study.py`` holds what was chosen.

Usage: python experiments/dfl_dual/choose.py [--seeds N ...] [--jobs N] [--results-dir DIR]
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean

from running import Found, run_cells
from study import Settings, planned

from flower_dfl.sweeps.definition import PlannedCell

RATES: Mapping[tuple[str, str], Sequence[float]] = {
    ("mnist", "lr"): (0.01, 0.02, 0.05, 0.1),
    ("fashion-mnist", "lr"): (0.01, 0.02, 0.05, 0.1),
    ("mnist", "fc"): (0.02, 0.05, 0.1),
    ("fashion-mnist", "fc"): (0.02, 0.05, 0.1),
    ("fashion-mnist", "cnn"): (0.02, 0.05, 0.1),
}

CONSTANTS: Mapping[str, Settings] = {
    "as shipped": {},
    "c2 = 3": {"c2": 3.0},
    "c2 = 10": {"c2": 10.0},
    "c1 = infinity": {"c1": float("inf")},
    "s = 1": {"s": 1.0},
    "s = 1.2": {"s": 1.2},
    "iterations 40 x 0.1": {"iterations": 40, "inversion_lr": 0.1},
    "alpha = 300": {"alpha": 300.0},
    "alpha = 3000": {"alpha": 3000.0},
    "q = sum": {"q": "sum"},
    "base = receiver": {"base": "receiver"},
    "preset literal": {"preset": "literal"},
}
JUDGED_BY = ("label-flip", "scaling", "alie, z = 4")
JUDGED_ON = (("mnist", "lr"), ("fashion-mnist", "fc"))


def main() -> None:
    """Run the cells and print what they say."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results-dir", type=Path, default=Path("runs/dfl_dual"))
    arguments = parser.parse_args()

    rates = {
        (task, rate, seed): planned(
            f"{', '.join(task)}, rate {rate}, seed {seed}",
            "standard",
            *task,
            "none",
            seed,
            {"strategy.name": "average", "train.lr": rate},
        )
        for task, choices in RATES.items()
        for rate, seed in product(choices, arguments.seeds)
    }
    constants = {
        (task, name, attack, seed): planned(
            f"{', '.join(task)}, {name}, {attack}, seed {seed}",
            "standard",
            *task,
            attack,
            seed,
            {"strategy.name": "dfl-dual", "strategy.params": params},
        )
        for task, (name, params), attack, seed in product(JUDGED_ON, CONSTANTS.items(), JUDGED_BY, arguments.seeds)
    }
    folder = arguments.results_dir / "choose"
    found, complete = run_cells([*rates.values(), *constants.values()], folder, arguments.jobs)
    if not complete:
        missing = len(rates) + len(constants) - len(found)
        sys.exit(f"{missing} runs failed, so there is nothing to choose from; see {folder.resolve()}, and repeat")
    _print_rates(found, rates, arguments.seeds)
    _print_constants(found, constants, arguments.seeds)


def _print_rates(
    found: Found, cells: Mapping[tuple[tuple[str, str], float, int], PlannedCell], seeds: Sequence[int]
) -> None:
    print("| data | model | " + "learning rate: accuracy of plain averaging, nobody attacks |\n|---|---|---|")
    for task, choices in RATES.items():
        means = {
            rate: _mean(found, [cells[task, rate, seed] for seed in seeds], "honest_accuracy_mean") for rate in choices
        }
        best = max(means, key=lambda rate: (means[rate], -rate))
        texts = [f"**{rate}: {means[rate]:.3f}**" if rate == best else f"{rate}: {means[rate]:.3f}" for rate in choices]
        print(f"| {task[0]} | {task[1]} | {', '.join(texts)} |")


def _print_constants(
    found: Found, cells: Mapping[tuple[tuple[str, str], str, str, int], PlannedCell], seeds: Sequence[int]
) -> None:
    heads = [f"{', '.join(task)}, {attack}" for task in JUDGED_ON for attack in JUDGED_BY]
    print("\nHonest / Byzantine neighbours kept, accuracy:\n")
    print(f"| constants | {' | '.join(heads)} | worst difference |" + "\n|---" + "|---" * (len(heads) + 1) + "|")
    for name in CONSTANTS:
        entries, differences = [], []
        for task, attack in product(JUDGED_ON, JUDGED_BY):
            group = [cells[task, name, attack, seed] for seed in seeds]
            honest, byzantine, accuracy = (
                _mean(found, group, key) for key in ("honest_kept", "byzantine_kept", "honest_accuracy_mean")
            )
            entries.append(f"{honest:.2f} / {byzantine:.2f}, {accuracy:.3f}")
            differences.append(honest - byzantine)
        print(f"| {name} | {' | '.join(entries)} | {min(differences):.2f} |")


def _mean(found: Found, cells: Sequence[PlannedCell], key: str) -> float:
    return fmean(float(found[cell.name][key]) for cell in cells)


if __name__ == "__main__":
    main()
