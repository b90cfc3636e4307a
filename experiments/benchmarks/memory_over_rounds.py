"""Does a long run keep its memory?

Ten nodes on the complete graph with a model of 200,000 parameters of which only a small layer is used, so that many
rounds take little time; a tenth of the messages is late, and a checkpoint is written every ten rounds. Memory is that
of the ``local`` engine's process, or of all processes of the ``flower`` engine and Ray's object store.

Usage: python experiments/benchmarks/memory_over_rounds.py [--rounds T] [--engine ENGINE]
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from exchange import MODULE
from measuring import make_importable, memory_samples, round_ends

from flower_dfl.config import parse
from flower_dfl.engines.flower import run_flower
from flower_dfl.engines.local import run_local

SETTLED = 20


def main() -> None:
    """Run both engines and print a Markdown table of memory by round."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--engine", choices=("local", "flower"), action="append", help="Only this engine.")
    parser.add_argument("--one", choices=("local", "flower"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    marks = sorted({SETTLED, *(arguments.rounds * quarter // 4 for quarter in (1, 2, 3, 4))})
    if arguments.one:
        print(*measure(arguments.one, arguments.rounds, marks))
        return

    print("| engine | " + " | ".join(f"MB around round {mark}" for mark in marks) + f" | growth after {SETTLED} |")
    print("|---" * (len(marks) + 2) + "|")
    for engine in arguments.engine or ["local", "flower"]:
        command = [sys.executable, __file__, "--rounds", str(arguments.rounds), "--one", engine]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = [float(value) for value in done.stdout.split()[-len(marks) :]]
        growth = f"{100 * (found[-1] / found[0] - 1):+.1f} %"
        print(f"| `{engine}` | " + " | ".join(f"{value:.0f}" for value in found) + f" | {growth} |", flush=True)


def measure(engine: str, rounds: int, marks: list[int]) -> list[float]:
    """Return the largest memory in MB around each of the rounds: in the ten that end there."""
    config = parse(
        {
            "num-nodes": 10,
            "num-rounds": rounds + 1,
            "num-byzantine": 0,
            "attack.name": "none",
            "topology.name": "complete",
            "strategy.name": "average",
            "model.name": "payload_for_benchmark:Payload",
            "model.params": "parameters = 200_000",
            "data.name": "payload_for_benchmark:load",
            "data.partition": "iid",
            "network.late-rate": 0.1,
            "network.staleness": 1,
            "checkpoint.every": 10,
        }
    )
    with tempfile.TemporaryDirectory() as scratch, memory_samples(own=engine == "local") as samples:
        make_importable(Path(scratch), "payload_for_benchmark", MODULE)
        ends = round_ends(run_local if engine == "local" else run_flower, config, Path(scratch) / "run")
    return [
        max(megabytes for when, megabytes in samples if ends[max(mark - 10, 1)] <= when <= ends[mark]) for mark in marks
    ]


if __name__ == "__main__":
    main()
