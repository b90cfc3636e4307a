"""What the sweep tests share: a base that runs in a second, and run folders made by hand."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomli_w

from flower_dfl.config import nest, parse
from flower_dfl.sweeps.cells import settings_of
from flower_dfl.sweeps.definition import Sweep, load_sweep

CHECKOUT = Path(__file__).parents[2]

BASE = """
[base]
num-nodes = 3
num-byzantine = 1
num-rounds = 1
topology.name = "complete"
strategy.name = "average"
attack.name = "none"
model.name = "lr"
train.device = "cpu"
data.num-train = 60
data.num-test = 50
"""


def write_sweep(folder: Path, text: str, base: str = BASE) -> Path:
    """Write a definition and return its path."""
    path = folder / "sweep.toml"
    path.write_text(base + text, encoding="utf-8")
    return path


def planned(folder: Path, text: str, base: str = BASE) -> Sweep:
    """Return the sweep of a definition."""
    return load_sweep(write_sweep(folder, text, base))


def write_run(folder: Path, settings: Mapping[str, Any], summary: Mapping[str, Any], status: str = "completed") -> Path:
    """Write the parts of a run folder that readers of sweeps look at."""
    folder.mkdir(parents=True)
    table = nest(settings_of(parse(settings)))
    (folder / "config.toml").write_text(tomli_w.dumps(table), encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps({"status": status, **summary}), encoding="utf-8")
    return folder


def flower_dfl(*arguments: object, cwd: Path, **options: Any) -> subprocess.Popen[str]:
    """Start the command in another folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "flower_dfl", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"NO_COLOR": "1", "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> str:
    """Return the line of a file once what a process started has written it."""
    while not (path.exists() and path.read_text(encoding="utf-8").endswith("\n")):
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.1)
        assert process.poll() is None, process.communicate()
    return path.read_text(encoding="utf-8").strip()
