"""What does it cost to exchange large models, beside reading and copying the same bytes in one process?

Ten nodes with a model as large as ResNet-18 (11,173,962 parameters, 45 MB), of which only a small layer is used: a
round publishes, collects, checks and averages, and trains and evaluates next to nothing. Both transports run on the
complete graph and on the ring. Memory is what the engine's processes and Ray's object store take beyond an engine that
runs a model of 110 parameters.

Usage: python experiments/benchmarks/exchange.py [--rounds T] [--relay-rounds T] [--parameters D] [--nodes N]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import make_importable, memory_samples, round_ends

from flower_dfl.config import RunConfig, parse
from flower_dfl.engines.flower import run_flower
from flower_dfl.strategies.kernels import weighted_mean
from flower_dfl.training import one_thread

SMALL = 110

MODULE = """
import torch
from torch import nn


class Payload(nn.Module):
    def __init__(self, input_shape, num_classes, parameters):
        super().__init__()
        self.head = nn.Linear(input_shape[0], num_classes)
        used = sum(p.numel() for p in self.head.parameters())
        self.payload = nn.Parameter(torch.randn(parameters - used))

    def forward(self, inputs):
        return self.head(inputs)


def load():
    part = torch.linspace(0, 1, 1000).view(100, 10), torch.arange(100) % 10
    return part, part
"""


def main() -> None:
    """Measure the floor, an idle engine and the exchanges, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30, help="Rounds through the object store; at least 3.")
    parser.add_argument(
        "--relay-rounds", type=int, default=4, help="Rounds through Flower's messages; 0 is none, else at least 3."
    )
    parser.add_argument("--parameters", type=int, default=11_173_962)
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--graph", choices=("complete", "ring"), action="append", help="Only this graph.")
    arguments = parser.parse_args()

    print("| graph, transport | seconds a round | peak beyond idle, MB | peak later, of the first rounds' |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        make_importable(Path(scratch), "payload_for_benchmark", MODULE)
        _, idle, _ = exchange(settings(arguments.nodes, "ring", "mailbox", SMALL, 6), Path(scratch) / "idle")
        for graph in arguments.graph or ["complete", "ring"]:
            degree = 2 if graph == "ring" else arguments.nodes - 1
            reading, averaging = floor(arguments.nodes, degree, arguments.parameters)
            print(f"| {graph}, reading and copying as much in one thread | {reading:.3f} | | |")
            print(f"| {graph}, averaging as much in one thread | {averaging:.3f} | | |", flush=True)
            for transport, rounds in (("mailbox", arguments.rounds), ("relay", arguments.relay_rounds)):
                if rounds:
                    config = settings(arguments.nodes, graph, transport, arguments.parameters, rounds)
                    seconds, peak, later = exchange(config, Path(scratch) / f"{graph}-{transport}")
                    print(f"| {graph}, {transport} | {seconds:.3f} | {peak - idle:.0f} | {later:.2f} |", flush=True)
    print(f"\nIdle engine: {idle:.0f} MB.")


def floor(nodes: int, degree: int, parameters: int) -> tuple[float, float]:
    """Return the seconds that one round's reads and copies take, and those of its averages.

    A node copies its half-step and its new start to where others find them, and reads its own and its neighbours'.
    """
    vectors = [torch.randn(parameters) for _ in range(nodes)]
    target = torch.empty(parameters)

    def read_and_copy() -> None:
        for node in range(nodes):
            for step in range(degree + 1):
                vectors[(node + step) % nodes].sum()
            target.copy_(vectors[node])
            target.copy_(vectors[node])

    def average() -> None:
        for node in range(nodes):
            members = [vectors[(node + step) % nodes] for step in range(degree + 1)]
            weighted_mean(members, [1.0] * len(members))

    with one_thread():
        return _median_of_three(read_and_copy), _median_of_three(average)


def _median_of_three(work: Callable[[], None]) -> float:
    times = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def settings(nodes: int, graph: str, transport: str, parameters: int, rounds: int) -> RunConfig:
    """Return the configuration of one measurement; it has one round more, which is left out."""
    return parse(
        {
            "num-nodes": nodes,
            "num-rounds": rounds + 1,
            "num-byzantine": 0,
            "attack.name": "none",
            "topology.name": graph,
            "strategy.name": "average",
            "model.name": "payload_for_benchmark:Payload",
            "model.params": f"parameters = {parameters}",
            "data.name": "payload_for_benchmark:load",
            "data.partition": "iid",
            "eval.every": rounds + 1,
            "checkpoint.every": 0,
            "transport": transport,
        }
    )


def exchange(config: RunConfig, folder: Path) -> tuple[float, float, float]:
    """Return seconds a round, peak memory in MB, and the last third's peak as a share of the first's.

    The last round is left out: it also evaluates, and writes every model to the disk.
    """
    with memory_samples() as samples:
        _, *ends, _ = round_ends(run_flower, config, folder)
    third = len(ends) // 3
    early, peak, later = (
        max((megabytes for when, megabytes in samples if begin <= when <= end), default=float("nan"))
        for begin, end in ((0.0, ends[third]), (0.0, ends[-1]), (ends[-1 - third], ends[-1]))
    )
    return (ends[-1] - ends[0]) / (len(ends) - 1), peak, later / early


if __name__ == "__main__":
    main()
