"""Run tables and figures of the study, and write them down.

Each table and figure is a set of cells (``study.py``). Cells are run on the local engine, two at a time on two cores;
interrupt and repeat at will. What is written has, for every entry, the mean over seeds, the sample standard deviation,
the worst seed and the number of seeds, and the paper's number where it printed one.

Usage: python experiments/dfl_dual/reproduce.py STUDY ... [--profile smoke|standard|paper] [--models M ...]
    [--data D ...] [--attacks A ...] [--rules R ...] [--seeds N ...] [--only-write] [--jobs N] [--results-dir DIR]
"""

import argparse
import os
import sys
from pathlib import Path

from reporting import write_study
from running import run_cells
from study import PROFILES, STUDIES, cells_of

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", nargs="+", choices=list(STUDIES))
    parser.add_argument("--profile", choices=list(PROFILES), default="standard")
    parser.add_argument("--models", nargs="+", default=[], help="only these")
    parser.add_argument("--data", nargs="+", default=[], help="only these")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="these instead of the profile's")
    parser.add_argument("--attacks", nargs="+", default=[], help="only these")
    parser.add_argument("--rules", nargs="+", default=[], help="only these")
    parser.add_argument("--only-write", action="store_true", help="write down what is complete, run nothing")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results-dir", type=Path, default=Path("runs/dfl_dual"))
    parser.add_argument("--output-dir", type=Path, default=HERE / "results", help="where tables and figures go")
    arguments = parser.parse_args()

    chosen = {key: tuple(getattr(arguments, key)) for key in ("models", "data", "attacks", "rules", "seeds")}
    folder = arguments.results_dir / arguments.profile
    wanted = {name: list(cells_of(STUDIES[name], arguments.profile, **chosen)) for name in arguments.study}
    complete = True
    if not arguments.only_write:
        distinct = {cell.plan.folder: cell.plan for cells in wanted.values() for cell in cells}
        _, complete = run_cells(distinct.values(), folder, arguments.jobs)
    for name, cells in wanted.items():
        for path in write_study(name, cells, folder, arguments.output_dir / arguments.profile):
            print(path)
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
