"""What does one aggregation cost, for every registered rule? Prints the table of the README.

One node with nine neighbours. All have trained the same model for an epoch on 2,000 images of their own, labels skewed
and drawn evenly; the fully connected network (101,770 parameters), Fashion-MNIST, one thread. Milliseconds are medians
of processor time; for rules with digests they include all ten of them. The last line is that epoch.

Usage: python experiments/benchmarks/rules.py [--root DIR] [--repeat R] [--rules RULE ...]
"""

import argparse
import inspect
import re
import statistics
import time

import torch

from flower_dfl import registry
from flower_dfl.config import parse
from flower_dfl.errors import ByzantineBudgetError
from flower_dfl.experiment import experiment_for
from flower_dfl.randomness import generator
from flower_dfl.testing import aggregate
from flower_dfl.training import one_thread, train

SETTINGS = {
    "model.name": "fc",
    "data.name": "fashion-mnist",
    "data.num-train": 20_000,
    "data.num-test": 100,
    "data.partition": "label-skew",
    "data.params": {"p": 0.8},
    "train.lr": 0.05,
    "train.sampling": "class-balanced",
}
PARAMS = {"nnm": {"rule": "krum"}, "bucketing": {"rule": "krum"}, "clip-first": {"rule": "krum"}}
BUDGETS = {
    "bridge-b": "max(4b, 3b + 2) neighbours",
    "bridge-k": "b + 3 neighbours",
    "bridge-t": "2b + 1 neighbours",
    "bulyan": "n >= 4f + 3",
    "cs-plus": "mixing weight of b neighbours",
    "geometric-median": "n >= 2f + 1",
    "gts": "mixing weight of b neighbours",
    "ios": "n >= 2f + 1",
    "krum": "n >= 2f + 3",
    "median": "n >= 2f + 1",
    "multi-krum": "n >= 2f + 3",
    "nna": "n > 2f",
    "nnm": "n > 2f, and the inner rule's",
    "trimmed-mean": "n >= 2f + 1",
}


def main() -> None:
    """Time every rule once it has warmed up."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", default="", help="folder of the full Fashion-MNIST; FLOWER_DFL_DATA without")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--rules", nargs="+", default=registry.names("strategy"))
    arguments = parser.parse_args()

    experiment = experiment_for(parse(SETTINGS | {"data.root": arguments.root}))
    base, training = experiment.initial.vector, experiment.config.train
    models, epochs = [], []
    print("| rule | paper | needs | budget | ms |\n|---|---|---|---|---|")
    with one_thread():
        for node, shard in enumerate(experiment.shards):
            began = time.process_time()
            state = train(experiment.module, experiment.initial, shard, training, generator(0, "train", node=node))
            epochs.append(time.process_time() - began)
            models.append(state.vector)
        for name in arguments.rules:
            rule = registry.build("strategy", name, PARAMS.get(name, {}))
            times = []
            for _ in range(arguments.repeat + 1):
                began = time.process_time()
                try:
                    aggregate(
                        rule,
                        models[0],
                        torch.stack(models[1:]),
                        base=base,
                        f=1,
                        learner=experiment.learner,
                        data=experiment.shards[0],
                    )
                except ByzantineBudgetError as error:
                    raise SystemExit(f"{name}: {error}") from error
                times.append(time.process_time() - began)
            needs = ", ".join(sorted(need.name.lower().replace("_", " ") for need in rule.needs)) or "-"
            milliseconds = 1000 * statistics.median(times[1:])
            print(f"| `{name}` | {_paper(rule)} | {needs} | {BUDGETS.get(name, '-')} | {milliseconds:.1f} |")
    print(f"\nOne epoch of local training: {1000 * statistics.median(epochs):.1f} ms")


def _paper(rule: object) -> str:
    """Return the link of the first reference in a rule's documentation."""
    text = inspect.getdoc(type(rule)) or ""
    link = re.search(r"https?://\S+[^\s.]", text)
    title = re.search(r"References:\s+(.*?)\*", text, re.DOTALL)
    if link is None or title is None:
        return "-"
    authors = " ".join(title[1].split()).rstrip(" ,").split(",")[0]
    return f"[{authors} et al.]({link[0]})"


if __name__ == "__main__":
    main()
