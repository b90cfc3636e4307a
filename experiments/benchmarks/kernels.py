"""Time and memory of the majority rules, beside the libraries that offer the same rule.

Every rule runs whole, as a strategy on an inbox of ``n`` models; the peers get the same vectors, in the form that suits
them best, without the cost of unpacking messages. ByzFL is optional: what is not installed is named and left out.

    python experiments/benchmarks/kernels.py
    python experiments/benchmarks/kernels.py --parameters 11200000 --skip-peers --repeats 3
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flower_dfl.registry import build
from flower_dfl.testing import aggregate

RULES = (
    "krum",
    "multi-krum",
    "median",
    "trimmed-mean",
    "geometric-median",
    "bulyan",
    "centered-clipping",
    "ios",
    "bridge-m",
    "bridge-t",
    "bridge-k",
    "bridge-b",
)
MEBIBYTE = 1 << 20
Run = Callable[[], object]


def main() -> None:
    """Print one Markdown table."""
    options = parse()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(added_memory(options))
        return
    rows = models(options.nodes, options.parameters, spread=1e-2, seed=0)
    peers_of, skipped = find_peers()
    print(
        f"n = {options.nodes}, d = {options.parameters:,}, f = {options.byzantine}, float32, {options.threads} threads;"
    )
    print(f"medians of {options.repeats} runs, taken in turn; torch {torch.__version__}, numpy {np.__version__}.")
    print(f"Reading the n * d * 4 bytes once: {1e3 * floor(rows, options.repeats):.1f} ms.")
    for reason in skipped:
        print(f"Left out: {reason}.")
    print()
    print("| rule | ms | MiB added | best peer | ms | MiB added | time / best peer | all peers, ms |")
    print("|---|---|---|---|---|---|---|---|")
    for rule in options.only or RULES:
        peers = {} if options.skip_peers else peers_of(rule, rows, options.byzantine)
        print(line(rule, rows, peers, options), flush=True)
    if not options.skip_peers:
        print()
        print(winners(options, peers_of))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=20, help="members of the closed neighbourhood")
    parser.add_argument("--parameters", type=int, default=1_200_000, help="length of a vector")
    parser.add_argument("--byzantine", type=int, default=4, help="the budget f")
    parser.add_argument("--repeats", type=int, default=7, help="runs of each, interleaved")
    parser.add_argument("--draws", type=int, default=20, help="draws of nearly equal models in which Krum must win")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of torch")
    parser.add_argument("--only", nargs="*", choices=RULES, help="measure these rules only")
    parser.add_argument("--skip-peers", action="store_true", help="measure this package only")
    parser.add_argument("--memory-of", nargs=2, metavar=("RULE", "WHO"), help=argparse.SUPPRESS)
    return parser.parse_args()


def models(nodes: int, parameters: int, spread: float, seed: int) -> list[Tensor]:
    """Return ``nodes`` vectors around a common one, each a tensor of its own."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(parameters, generator=generator)
    return [
        torch.empty(parameters).normal_(generator=generator).mul_(spread * (1 + 0.01 * k)).add_(centre)
        for k in range(nodes)
    ]


def ours(rule: str, rows: Sequence[Tensor], f: int) -> Run:
    """Return the rule as a node would run it."""
    strategy = build("strategy", rule)
    return lambda: aggregate(strategy, rows[0], rows[1:], base=rows[0], f=f).vector


class Record:
    """What Flower's selection reads of a message, without its serialisation."""

    def __init__(self, row: Tensor) -> None:
        self.array_records = {"arrays": self}
        self._arrays = [row.numpy()]

    def __getitem__(self, key: str) -> "Record":
        return self

    def to_numpy_ndarrays(self) -> list[NDArray[np.float32]]:
        """Return the model, not copied."""
        return self._arrays


def find_peers() -> tuple[Callable[[str, Sequence[Tensor], int], dict[str, Run]], list[str]]:
    """Return a function that lists the peers of a rule, and what is not installed."""
    skipped = []
    try:
        import byzfl  # noqa: PLC0415 - optional
    except ImportError as error:
        byzfl = None
        skipped.append(f"ByzFL ({error})")

    def peers_of(rule: str, rows: Sequence[Tensor], f: int) -> dict[str, Run]:
        found = flower_peers(rule, rows, f)
        if byzfl is not None:
            makers: dict[str, Callable[[], Callable[[Sequence[Tensor]], Tensor]]] = {
                "krum": lambda: byzfl.Krum(f),
                "multi-krum": lambda: byzfl.MultiKrum(f),
                "median": byzfl.Median,
                "trimmed-mean": lambda: byzfl.TrMean(f),
                "geometric-median": byzfl.GeometricMedian,
                "centered-clipping": byzfl.CenteredClipping,
            }
            if rule in makers:
                found["ByzFL"] = lambda: makers[rule]()(list(rows))
        return found

    return peers_of, skipped


def flower_peers(rule: str, rows: Sequence[Tensor], f: int) -> dict[str, Run]:
    """Return the arithmetic of Flower's strategy for a rule, where it has one."""
    from flwr.serverapp.strategy import bulyan, fedtrimmedavg, multikrum  # noqa: PLC0415 - only here

    records = [Record(row) for row in rows]
    arrays = [row.numpy() for row in rows]
    n = len(rows)

    def select(count: int) -> list[NDArray[np.float32]]:
        return [record.to_numpy_ndarrays()[0] for record in multikrum.select_multikrum(records, f, count)]

    def run_bulyan() -> object:
        chosen = select(n - 2 * f)
        median = np.median(np.stack(chosen), axis=0)
        return bulyan.aggregate_n_closest_weights([median], [[array] for array in chosen], n - 4 * f)

    runs: dict[str, Run] = {
        "krum": lambda: select(1)[0],
        "multi-krum": lambda: np.mean(np.stack(select(n - f)), axis=0),
        "median": lambda: np.median(np.stack(arrays), axis=0),
        "trimmed-mean": lambda: fedtrimmedavg.trim_mean(np.stack(arrays), f / n),
        "bulyan": run_bulyan,
    }
    return {"Flower": runs[rule]} if rule in runs else {}


def seconds(run: Run) -> float:
    """Return the duration of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def floor(rows: Sequence[Tensor], repeats: int) -> float:
    """Return the time of reading every number once."""
    return statistics.median(seconds(lambda: [float(row.sum()) for row in rows]) for _ in range(repeats))


def line(rule: str, rows: Sequence[Tensor], peers: dict[str, Run], options: argparse.Namespace) -> str:
    """Measure one rule and its peers in turn; return a line of the table."""
    runs = {"ours": ours(rule, rows, options.byzantine)} | peers
    durations: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.repeats):
        for name, run in runs.items():
            durations[name].append(seconds(run))
    medians = {name: 1e3 * statistics.median(values) for name, values in durations.items()}
    own = medians.pop("ours")
    cells = [rule, f"{own:.1f}", measure_memory(rule, "ours", options)]
    if medians:
        best = min(medians, key=medians.__getitem__)
        cells += [best, f"{medians[best]:.1f}", measure_memory(rule, best, options), f"{own / medians[best]:.2f}"]
        cells.append(", ".join(f"{name} {value:.0f}" for name, value in medians.items()))
    else:
        cells += ["-"] * 5
    return f"| {' | '.join(cells)} |"


def measure_memory(rule: str, who: str, options: argparse.Namespace) -> str:
    """Return the MiB that a rule adds, measured in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--memory-of", rule, who]
    for name in ("nodes", "parameters", "byzantine", "threads"):
        command += [f"--{name}", str(getattr(options, name))]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def added_memory(options: argparse.Namespace) -> str:
    """Return the peak of the resident memory above what it is with libraries warm and inputs made, in MiB (Linux)."""
    rule, who = options.memory_of
    peers_of, _ = find_peers()

    def make(rows: Sequence[Tensor]) -> Run:
        return ours(rule, rows, options.byzantine) if who == "ours" else peers_of(rule, rows, options.byzantine)[who]

    make(models(options.nodes, 4096, spread=1e-2, seed=1))()
    rows = models(options.nodes, options.parameters, spread=1e-2, seed=0)
    run = make(rows)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = resident("VmRSS")
    run()
    return f"{(resident('VmHWM') - before) / MEBIBYTE:.1f}"


def resident(field: str) -> int:
    """Return a field of the process's status, in bytes."""
    for entry in Path("/proc/self/status").read_text().splitlines():
        if entry.startswith(f"{field}:"):
            return int(entry.split()[1]) * 1024
    raise ValueError(f"no field {field} in /proc/self/status")


def winners(options: argparse.Namespace, peers_of: Callable[[str, Sequence[Tensor], int], dict[str, Run]]) -> str:
    """Return how often each Krum picks the model that exact distances pick, with models 1e-5 apart."""
    right: dict[str, int] = {}
    for draw in range(options.draws):
        rows = models(options.nodes, options.parameters, spread=1e-5, seed=100 + draw)
        expected = rows[exact_winner(rows, options.byzantine)]
        runs = {"ours": ours("krum", rows, options.byzantine)} | peers_of("krum", rows, options.byzantine)
        for name, run in runs.items():
            right[name] = right.get(name, 0) + np.array_equal(np.asarray(run()), expected.numpy())
    counts = ", ".join(f"{name} {count}" for name, count in right.items())
    return f"Right Krum winner of {options.draws} draws with models 1e-5 apart: {counts}."


def exact_winner(rows: Sequence[Tensor], f: int) -> int:
    """Return Krum's winner by differences in float64, one pair at a time."""
    n = len(rows)
    squared = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        here = rows[i].double()
        for j in range(i):
            squared[i, j] = squared[j, i] = (here - rows[j]).square().sum()
    return int(squared.sort(dim=1).values[:, 1 : n - f - 1].sum(dim=1).argmin())


if __name__ == "__main__":
    main()
