"""Which of DFL-Dual's features separates honest from Byzantine neighbours, and from which round on.

For every recorded feature the probability that a Byzantine neighbour looks worse than an honest one, over all pairs of
edges into the same honest node in a round, as the mean over nodes and seeds: 1 separates perfectly, 0.5 not at all, 0
the wrong way round. Distances, Wasserstein distances and divergences are worse when larger, trust when smaller.

Usage: python experiments/dfl_dual/features.py [--data D] [--model M] [--attacks A ...] [--seeds N ...] [--study S]
"""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean

from reporting import Result, byzantine_nodes, read_results
from study import STUDIES, cells_of

from flower_dfl.records import read_lines

FEATURES: Mapping[str, int] = {"euclidean": 1, "wasserstein": 1, "trust": -1, "divergence": 1}
"""Recorded scores, and the sign that makes large values suspicious."""
ROUNDS = (1, 2, 3, 5, 8, 11, 15)


def main() -> None:
    """Print a table for each attack."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--study", default="anchored", choices=list(STUDIES))
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--model", default="fc")
    parser.add_argument(
        "--attacks", nargs="+", default=["label-flip", "scaling", "backdoor", "drip 0.4", "alie, z = 1.5"]
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--results-dir", type=Path, default=Path("runs/dfl_dual"))
    arguments = parser.parse_args()

    print(f"| attack | feature | {' | '.join(f'round {number}' for number in ROUNDS)} |")
    print("|---" * (len(ROUNDS) + 2) + "|")
    for attack in arguments.attacks:
        cells = cells_of(
            STUDIES[arguments.study],
            "standard",
            models=(arguments.model,),
            data=(arguments.data,),
            attacks=(attack,),
            seeds=tuple(arguments.seeds),
        )
        chosen = [cell for cell in cells if cell.rule == "dfl-dual"]
        results = read_results(chosen, arguments.results_dir / "standard")
        for feature, sign in FEATURES.items():
            found = [separation(results, feature, sign, number) for number in ROUNDS]
            print(f"| {attack} | {feature} | {' | '.join('-' if v is None else f'{v:.2f}' for v in found)} |")


def separation(results: Iterable[Result], feature: str, sign: int, number: int) -> float | None:
    """Return how often a Byzantine neighbour looks worse than an honest one; ties count half."""
    shares = []
    for result in results:
        byzantine = byzantine_nodes(result)
        seen: dict[int, tuple[list[float], list[float]]] = {}
        for edge in read_lines(result.folder / "edges.jsonl"):
            value = edge["scores"].get(feature)
            counts = (
                edge["round"] == number and edge["receiver"] not in byzantine and edge["sender"] != edge["receiver"]
            )
            if counts and value is not None:
                seen.setdefault(edge["receiver"], ([], []))[edge["sender"] in byzantine].append(sign * value)
        shares += [
            fmean((bad > good) + (bad == good) / 2 for good in honest for bad in others)
            for honest, others in seen.values()
            if honest and others
        ]
    return fmean(shares) if shares else None


if __name__ == "__main__":
    main()
