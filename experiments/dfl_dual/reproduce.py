"""Run tables and figures of the study, and write them down.

Each table and figure is a set of cells (``study.py``). Cells are run on the local engine, two at a time on two cores;
interrupt and repeat at will. What is written has, for every entry, the mean over seeds, the sample standard deviation,
the worst seed and the seeds, and the paper's number where it printed one. Options restrict what is run; a table always
holds all runs of the study that are complete, and with ``--add`` what the table held before.

Usage: python experiments/dfl_dual/reproduce.py STUDY ... [--profile smoke|standard|paper] [--models M ...]
    [--data D ...] [--attacks A ...] [--rules R ...] [--seeds N ...] [--only-write] [--add] [--jobs N]
    [--results-dir DIR] [--output-dir DIR]
"""

import argparse
import os
import sys
from pathlib import Path

from reporting import earlier_entries, write_study
from running import run_cells
from study import PROFILES, STUDIES, StudyCell, cells_of, seeds_of

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", nargs="+", choices=list(STUDIES))
    parser.add_argument("--profile", choices=list(PROFILES), default="standard")
    parser.add_argument("--models", nargs="+", default=[], help="run only these")
    parser.add_argument("--data", nargs="+", default=[], help="run only these")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="run these instead of the study's")
    parser.add_argument("--attacks", nargs="+", default=[], help="run only these")
    parser.add_argument("--rules", nargs="+", default=[], help="run only these")
    parser.add_argument("--only-write", action="store_true", help="write down what is complete, run nothing")
    parser.add_argument("--add", action="store_true", help="add seeds to the tables that are there")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results-dir", type=Path, default=Path("runs/dfl_dual"))
    parser.add_argument("--output-dir", type=Path, default=HERE / "results", help="where tables and figures go")
    arguments = parser.parse_args()

    chosen = {key: tuple(getattr(arguments, key)) for key in ("models", "data", "attacks", "rules", "seeds")}
    folder = arguments.results_dir / arguments.profile
    studies = {name: _all_cells(name, arguments.profile, arguments.seeds) for name in arguments.study}
    for key, attribute in (("models", "model"), ("data", "data"), ("attacks", "attack"), ("rules", "rule")):
        known = {getattr(cell, attribute) for cells in studies.values() for cell in cells}
        if unknown := [name for name in chosen[key] if name not in known]:
            parser.error(f"--{key}: {unknown[0]!r} is in none of these studies; there are {sorted(known)}")
    wanted = {name: list(cells_of(STUDIES[name], arguments.profile, **chosen)) for name in arguments.study}
    if not any(wanted.values()):
        parser.error("the studies have no run in which all of these meet")
    output = arguments.output_dir / arguments.profile
    if arguments.add:
        try:
            for name, cells in studies.items():
                earlier_entries(name, cells, output)
        except ValueError as error:
            parser.error(f"--add: {error}")
    complete = True
    if not arguments.only_write:
        distinct = {cell.plan.folder: cell.plan for cells in wanted.values() for cell in cells}
        _, complete = run_cells(distinct.values(), folder, arguments.jobs)
    for name, cells in studies.items():
        complete &= _write(name, cells, folder, output, add=arguments.add)
    sys.exit(0 if complete else 1)


def _write(name: str, cells: list[StudyCell], folder: Path, output: Path, *, add: bool) -> bool:
    """Write a study's table and figure, print their paths, and return whether there was anything to write."""
    written = write_study(name, cells, folder, output, add=add)
    if not written:
        print(f"{name}: no run is complete in {folder.resolve()}; nothing is written", file=sys.stderr)
    for path in written:
        print(path.resolve())
    picture = output / f"{name}.png"
    if written and picture not in written and picture.exists():
        print(f"{picture.resolve()} is as it was: not all of its runs are in {folder.resolve()}", file=sys.stderr)
    return bool(written)


def _all_cells(name: str, profile: str, seeds: list[int]) -> list[StudyCell]:
    """Return all cells of a study, of its own seeds and those that are asked for."""
    study = STUDIES[name]
    return list(cells_of(study, profile, seeds=tuple(dict.fromkeys((*seeds_of(study, profile), *seeds)))))


if __name__ == "__main__":
    main()
