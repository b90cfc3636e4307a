"""Do the two searches for patches find a backdoor that is there? On the models that honest nodes end with.

``trust-anchored`` compares models with one that nobody touched, by the worst patch that it can find. Here a node's
final model is compared with what the node ends with if it trains alone, once with each search. Beside them: how often
the attack's own trigger works on that model, as recorded.

Usage: python experiments/dfl_dual/patches.py [--data D] [--model M] [--attack A] [--rule R] [--seed N] [--jobs N]
    [--results-dir DIR]
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import torch
from running import folder_of, run_cells
from safetensors.torch import load_file
from study import PROFILES, STUDIES, StudyCell, cells_of
from torch import Tensor

from flower_dfl.config import RunConfig, parse
from flower_dfl.experiment import experiment_for
from flower_dfl.records import read_lines
from flower_dfl.strategies.trigger_audit import Auditor, Search, class_sample
from flower_dfl.strategies.trust_anchored import TrustAnchored
from flower_dfl.types import NodeId

STUDY = STUDIES["anchored"]
SEARCHES: tuple[Search, ...] = get_args(Search)


class Row(NamedTuple):
    """What there is on one node's final model."""

    node: NodeId
    works: float | None
    """Share of held-out samples on which the attack's trigger works, if it has one."""
    gaps: tuple[float, ...]
    """Largest gap that each search finds."""


def main() -> None:
    """Run what is missing and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--attack", default="drip 0.4", choices=STUDY.attacks)
    parser.add_argument("--rule", default="trust-anchored", choices=STUDY.rules)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", default="standard", choices=list(PROFILES))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results-dir", type=Path, default=Path("runs/dfl_dual"))
    arguments = parser.parse_args()

    def cell(attack: str, rule: str) -> StudyCell:
        found = cells_of(
            STUDY,
            arguments.profile,
            models=(arguments.model,),
            data=(arguments.data,),
            attacks=(attack,),
            rules=(rule,),
            seeds=(arguments.seed,),
        )
        return next(found, None) or parser.error(f"the study has no run of {rule} against {attack} on these data")

    audited, alone = cell(arguments.attack, arguments.rule), cell("none", "local-only")
    folder = arguments.results_dir / arguments.profile
    plans = {plan.folder: plan for plan in (audited.plan, alone.plan)}
    _, complete = run_cells(plans.values(), folder, arguments.jobs)
    if not complete:
        sys.exit(f"a run failed, see {folder.resolve()}")
    print(f"| node | trigger works on | {' | '.join(f'largest gap, {search}' for search in SEARCHES)} |")
    print("|---" * (2 + len(SEARCHES)) + "|")
    for row in rows(parse(audited.plan.settings), *(folder_of(cell.plan, folder) for cell in (audited, alone))):
        shares = ["-" if share is None else f"{share:.1%}" for share in (row.works, *row.gaps)]
        print(f"| {row.node} | {' | '.join(shares)} |")


def rows(config: RunConfig, audited: Path, alone: Path) -> Iterator[Row]:
    """Audit the final model of every honest node of a run, with that of a run in which everybody trains alone."""
    experiment, rule = experiment_for(config), TrustAnchored()
    last = {entry["node"]: entry for entry in read_lines(audited / "rounds.jsonl")}
    for node in experiment.network.honest:
        vector, trusted = (_final(run, node) for run in (audited, alone))
        sample = class_sample(experiment.shards[node], rule.per_class)
        gaps = []
        for search in SEARCHES:
            draw = torch.Generator().manual_seed(node)
            auditor = Auditor(experiment.learner, trusted, sample, pixels=rule.pixels, generator=draw, search=search)
            gaps.append(auditor.audit(vector).gap)
        yield Row(node, last[node]["attack_success_rate"], tuple(gaps))


def _final(run: Path, node: NodeId) -> Tensor:
    return load_file(run / "checkpoint" / f"node-{node}.safetensors")["vector"]


if __name__ == "__main__":
    main()
