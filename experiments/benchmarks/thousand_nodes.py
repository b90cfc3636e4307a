"""What does a node cost in a large network, beside the same node in a small one?

Random graphs in which every node has four neighbours, logistic regression, the same number of images a node whatever
the size of the network, evaluation after the last round only. Sizes run in turn on each engine, in one process after
the other, and the ratio is that of wall seconds a node and round.

Usage: python experiments/benchmarks/thousand_nodes.py [--data NAME] [--images M] [--rounds T] [--engine ENGINE]
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import memory_samples, round_ends

from flower_dfl.config import RunConfig, parse
from flower_dfl.engines.flower import run_flower
from flower_dfl.engines.local import run_local

FEWEST_STEPS = 300
"""Steps of nodes between the first and the last round that is timed, at least: small networks play more rounds."""


def main() -> None:
    """Measure each engine at both sizes and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="fashion-mnist", help="'fashion-mnist-mini' needs no download.")
    parser.add_argument("--images", type=int, default=60, help="Training images a node; 6 for 'fashion-mnist-mini'.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engine", choices=("local", "flower"), action="append", help="Only this engine.")
    parser.add_argument("--one", nargs=2, metavar=("ENGINE", "NODES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        engine, nodes = arguments.one
        print(*measure(engine, settings(arguments.data, arguments.images, int(nodes), arguments.rounds)))
        return

    print("| engine, nodes | ms a node and round | ratio to the smallest | peak memory, MB | start-up, s |")
    print("|---|---|---|---|---|")
    for engine in arguments.engine or ["local", "flower"]:
        smallest = None
        for nodes in arguments.sizes:
            options = ["--data", arguments.data, "--images", str(arguments.images), "--rounds", str(arguments.rounds)]
            command = [sys.executable, __file__, *options, "--one", engine, str(nodes)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            cost, peak, start = map(float, done.stdout.split()[-3:])
            smallest = smallest or cost
            print(
                f"| `{engine}`, {nodes} | {cost:.2f} | {cost / smallest:.2f} | {peak:.0f} | {start:.1f} |", flush=True
            )


def settings(data: str, images: int, nodes: int, rounds: int) -> RunConfig:
    """Return the configuration of one measurement."""
    return parse(
        {
            "num-nodes": nodes,
            "num-rounds": max(rounds, -(-FEWEST_STEPS // nodes)) + 1,
            "num-byzantine": 0,
            "attack.name": "none",
            "topology.name": "random-regular",
            "topology.params": "degree = 4",
            "strategy.name": "average",
            "model.name": "lr",
            "data.name": data,
            "data.partition": "iid",
            "data.num-train": images * nodes,
            "eval.every": 1_000_000,
            "checkpoint.every": 0,
        }
    )


def measure(engine: str, config: RunConfig) -> tuple[float, float, float]:
    """Return milliseconds a node and round, peak memory in MB, and the seconds of start-up.

    The last round is left out: it also evaluates every node on all test data.
    """
    with tempfile.TemporaryDirectory() as scratch, memory_samples(own=engine == "local") as samples:
        began, *ends, _ = round_ends(run_local if engine == "local" else run_flower, config, Path(scratch) / "run")
    seconds = (ends[-1] - ends[0]) / (len(ends) - 1)
    peak = max((megabytes for _, megabytes in samples), default=float("nan"))
    return 1_000 * seconds / config.num_nodes, peak, ends[0] - began - seconds


if __name__ == "__main__":
    main()
