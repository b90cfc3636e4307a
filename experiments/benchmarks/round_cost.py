"""What does a round cost, compared with a bare torch loop that does the same work?

Ten nodes with 500 images each, the CNN, a ring, plain averaging, evaluation of every node on 1,000 images. The floor
is a loop over ten modules: train, average the neighbours' parameters, evaluate; no messages, records or checks. Two
such loops at once, each over half of the nodes, show what two processors give that share caches and memory. Engines
and floor run in turn, and each ratio is taken within one repetition.

Usage: python experiments/benchmarks/round_cost.py [--rounds T] [--repeat R] [--skip-flower]
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path

import torch
from measuring import make_importable, round_ends
from torch.nn import functional as F

from flower_dfl.config import RunConfig, parse
from flower_dfl.engines.flower import run_flower
from flower_dfl.engines.local import run_local
from flower_dfl.experiment import experiment_for
from flower_dfl.training import one_thread

SETTINGS = {
    "num-nodes": 10,
    "num-byzantine": 0,
    "attack.name": "none",
    "topology.name": "ring",
    "strategy.name": "average",
    "model.name": "cnn",
    "data.name": "data_for_benchmark:load",
    "data.partition": "iid",
}

DATA_MODULE = """
import torch


def load():
    generator = torch.Generator().manual_seed(0)
    def part(count):
        return torch.rand(count, 1, 28, 28, generator=generator), torch.arange(count) % 10
    return part(5000), part(1000)
"""


def main() -> None:
    """Measure floor and engines in turn and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--skip-flower", action="store_true")
    arguments = parser.parse_args()

    floor, both, local, flower, starts = [], [], [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        make_importable(Path(scratch), "data_for_benchmark", DATA_MODULE)
        config = parse(SETTINGS | {"num-rounds": arguments.rounds})
        experiment_for(config)  # loading data and building the model is start-up
        for repetition in range(arguments.repeat):
            floor.append(bare_loop(config))
            both.append(two_bare_loops(config))
            folder = Path(scratch) / f"local-{repetition}"
            folder.mkdir()
            ends = [0.0]
            run_local(config, folder, lambda _, ends=ends: ends.append(time.process_time()))
            local.append(_a_round(ends))
            if not arguments.skip_flower:
                ends = round_ends(run_flower, config, Path(scratch) / f"flower-{repetition}")
                flower.append(_a_round(ends))
                starts.append(ends[1] - ends[0] - flower[-1])

    cpu, wall = (statistics.median(run[index] for run in floor) for index in (0, 1))
    print("| | seconds a round | ratio to the floor |")
    print("|---|---|---|")
    print(f"| bare torch loop, CPU | {cpu:.3f} | 1 |")
    print(f"| `local` engine, CPU | {_row(local, [run[0] for run in floor])}")
    print(f"| bare torch loop, wall | {wall:.3f} | 1 |")
    print(f"| two bare loops, half of the nodes each, wall | {_row(both, [run[1] for run in floor])}")
    if flower:
        print(f"| `flower` engine, wall | {_row(flower, [run[1] for run in floor])}")
        print(f"\nStart-up of the `flower` engine: {statistics.median(starts):.1f} s.")


def two_bare_loops(config: RunConfig) -> float:
    """Return the wall seconds a round of the slower of two loops over half of the nodes."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        return max(wall for _, wall in pool.starmap(bare_loop, [(config, 2), (config, 2)], chunksize=1))


def bare_loop(config: RunConfig, share: int = 1) -> tuple[float, float]:
    """Return CPU and wall seconds a round of the floor, over one ``share``-th of the nodes."""
    experiment = experiment_for(config)
    shards, test, settings = experiment.shards[::share], experiment.test, config.train
    model = experiment.module
    states = [[p.detach().clone() for p in model.parameters()] for _ in shards]
    began = time.process_time(), time.perf_counter()
    with one_thread():
        for _ in range(config.num_rounds):
            trained = []
            for shard, state in zip(shards, states, strict=True):
                _load(model, state)
                model.train()
                optimizer = torch.optim.SGD(model.parameters(), lr=settings.lr)
                for batch in torch.randperm(len(shard)).split(settings.batch_size):
                    optimizer.zero_grad()
                    F.cross_entropy(model(shard.inputs[batch]), shard.labels[batch]).backward()
                    optimizer.step()
                trained.append([p.detach().clone() for p in model.parameters()])
            count = len(trained)
            states = [
                [(a + b + c) / 3 for a, b, c in zip(trained[i - 1], trained[i], trained[(i + 1) % count], strict=True)]
                for i in range(count)
            ]
            for state in states:
                _load(model, state)
                model.eval()
                with torch.no_grad():
                    float((model(test.inputs).argmax(1) == test.labels).float().mean())
    return (
        (time.process_time() - began[0]) / config.num_rounds,
        (time.perf_counter() - began[1]) / config.num_rounds,
    )


def _load(model: torch.nn.Module, state: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), state, strict=True):
            parameter.copy_(value)


def _a_round(ends: list[float]) -> float:
    """Return the seconds a round between the ends of the first and the last round: start-up is left out."""
    return (ends[-1] - ends[1]) / (len(ends) - 2)


def _row(times: list[float], floors: list[float]) -> str:
    ratios = [taken / floor for taken, floor in zip(times, floors, strict=True)]
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"{statistics.median(times):.3f} | {spread} |"


if __name__ == "__main__":
    main()
