"""FLTrust and FedAvg under attack on MNIST: runs the cells that are missing, then writes a table and a figure.

One Flower run on Ray plays all cells of a model, a label skew and a seed. A cell whose record is complete is not run
again.

Usage: python experiments/fltrust/table.py [--model M ...] [--p P ...] [--seed N ...] [--results-dir DIR] [--out DIR]
    [--set KEY=VALUE ...]
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w
from cells import Cell, cells_of, path_of, record_of

from flower_dfl.config import parse_assignment
from flower_dfl.engines.flower import private_superlink, program
from flower_dfl.figures.lines import draw_lines
from flower_dfl.figures.series import BYZANTINE_SHARE, Line, Panel, Point
from flower_dfl.figures.style import save

HERE = Path(__file__).resolve().parent
GRID: Sequence[Mapping[str, Any]] = (
    {"model": "lr", "p": 0.1},
    {"model": "lr", "p": 0.5},
    {
        "model": "cnn",
        "p": 0.1,
        "seed": 0,
        "num-rounds": 40,
        "rules": "fltrust",
        "attacks": "none krum trim scaling optimal",
        "shares": "0.6",
    },
)
"""What is measured, as changes of the app's configuration; without a seed, with every seed."""
LONGEST_CELL = 300.0
"""Seconds without a new record after which a run is given up; the first cell's include the start of Flower."""

Records = Mapping[Cell, Mapping[str, Any]]


def main() -> None:
    """Run the missing cells and write what is known."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", nargs="+", default=["lr", "cnn"])
    parser.add_argument("--p", type=float, nargs="+", default=[0.1, 0.5])
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results-dir", type=Path, default=Path("runs/fltrust"))
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of pyproject.toml")
    arguments = parser.parse_args()

    folder, out = arguments.results_dir.resolve(), arguments.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))
    common, changes = project["tool"]["flwr"]["app"]["config"], dict(map(parse_assignment, arguments.set))
    runs = [
        common | part | changes | {"results-dir": str(folder), "seed": seed}
        for seed in arguments.seed
        for part in GRID
        if part["model"] in arguments.model and part["p"] in arguments.p and part.get("seed", seed) == seed
    ]
    print(f"records: {folder}", flush=True)
    for config in runs:
        _complete(config, folder)
    records = {cell: record for config in runs for cell, record in _records(config, folder).items()}
    missing = sum(len(cells_of(config)) for config in runs) - len(records)
    if records:
        print(f"table: {_write_table(records, out)}")
        print(f"figure: {_draw(records, out)}")
    print(f"{len(records)} cells complete, {missing} missing")
    sys.exit(bool(missing))


def _records(config: Mapping[str, Any], folder: Path) -> dict[Cell, dict[str, Any]]:
    found = {cell: record_of(cell, config, folder) for cell in cells_of(config)}
    return {cell: record for cell, record in found.items() if record is not None}


def _complete(config: Mapping[str, Any], folder: Path) -> None:
    """Run one Flower app for the cells that have no record, and print each as it gets one."""
    seen = set(_records(config, folder))
    cells = cells_of(config)
    if len(seen) == len(cells):
        return
    with tempfile.TemporaryDirectory(prefix="fltrust-", ignore_cleanup_errors=True) as scratch:
        workplace = Path(scratch)
        settings = workplace / "run.toml"
        settings.write_text(tomli_w.dumps(config), encoding="utf-8")
        federation = f"num-supernodes={config['num-clients']} client-resources-num-cpus=1"
        with private_superlink(workplace, folder) as (environment, _), (folder / "run.log").open("ab") as log:
            process = subprocess.Popen(
                [
                    program("flwr"), "run", str(HERE), "private", "--stream", "--run-config", str(settings),
                    "--federation-config", federation,
                ],
                env=dict(environment), cwd=workplace, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
            deadline = time.monotonic() + LONGEST_CELL
            running = True
            while running and time.monotonic() < deadline and len(seen) < len(cells):
                time.sleep(1)
                running = process.poll() is None  # asked before the records are read: the last one is not missed
                for cell, record in _records(config, folder).items():
                    if cell not in seen:
                        seen.add(cell)
                        deadline = time.monotonic() + LONGEST_CELL
                        print(
                            f"{len(seen)} of {len(cells)}: {path_of(cell, folder).stem}: "
                            f"error {record['error']:.3f}, {record['seconds']:.1f} s",
                            flush=True,
                        )
            process.kill()
            process.wait()
    if len(seen) < len(cells):
        print(f"the run ended before its last cell; see {folder / 'run.log'}", file=sys.stderr)


def _groups(records: Records) -> dict[Cell, list[Mapping[str, Any]]]:
    """Return the records of all seeds, by cells whose seed is none."""
    groups: dict[Cell, list[Mapping[str, Any]]] = {}
    for cell, record in records.items():
        groups.setdefault(replace(cell, seed=-1), []).append(record)
    return groups


def _write_table(records: Records, out: Path) -> Path:
    """Write one row for all seeds of a cell."""
    lines = [
        "| data | model | attack | malicious | rule | error | deviation | worst | ASR | trust | diverged | seeds "
        "| seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell, runs in _groups(records).items():
        errors = [run["error"] for run in runs]
        columns = [
            f"{runs[0]['settings']['data']}-{cell.p:g}", cell.model, cell.attack, f"{cell.share:.0%}", cell.rule,
            f"{statistics.mean(errors):.3f}", f"{statistics.stdev(errors):.3f}" if len(errors) > 1 else "-",
            f"{max(errors):.3f}", _mean(runs, "attack_success_rate"), _mean(runs, "malicious_trust"),
            str(sum(run["diverged"] for run in runs)), str(len(runs)),
            f"{statistics.mean(run['seconds'] for run in runs):.1f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(columns)} |")
    out.mkdir(parents=True, exist_ok=True)
    path = out / "results.md"
    path.write_text("\n".join(["# FLTrust under attack: every cell", "", *lines]) + "\n", encoding="utf-8")
    return path


def _mean(runs: Sequence[Mapping[str, Any]], key: str) -> str:
    values = [run[key] for run in runs if run[key] is not None]
    return f"{statistics.mean(values):.3f}" if values else "-"


def _draw(records: Records, out: Path) -> Path:
    """Draw the error against the share of malicious clients, for what was run at the most shares.

    Every line starts at the error without an attack.
    """
    errors = {cell: [run["error"] for run in runs] for cell, runs in _groups(records).items()}
    shares = {(cell.model, cell.p): len({c.share for c in errors if c.model == cell.model}) for cell in errors}
    panels = []
    for model, p in (key for key, count in shares.items() if count == max(shares.values())):
        here = [cell for cell in errors if (cell.model, cell.p) == (model, p)]
        lines = []
        for rule, attack in dict.fromkeys((cell.rule, cell.attack) for cell in here if cell.attack != "none"):
            of_line = [cell for cell in here if cell.rule == rule and cell.attack in ("none", attack)]
            of_line.sort(key=lambda cell: cell.share)
            points = (Point.of(cell.share, errors[cell], "min-max") for cell in of_line)
            lines.append(Line(f"{rule}, {attack}", tuple(points)))
        panels.append(Panel(f"{model}, p = {p:g}", tuple(lines)))
    figure = draw_lines(panels, BYZANTINE_SHARE, "testing error", "rule, attack", "min-max")
    return save(figure, out / "figures" / "error.png")


if __name__ == "__main__":
    main()
