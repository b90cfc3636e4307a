"""What the integration tests share: a small configuration, its local result, and rules that misbehave."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flower_dfl.config import RunConfig, parse
from flower_dfl.engines.local import run_local

SMALL: dict[str, Any] = {
    "num-nodes": 6,
    "num-byzantine": 2,
    "num-rounds": 3,
    "model.name": "lr",
    "data.num-train": 600,
    "data.num-test": 100,
    "attack.name": "misbehaviour:Colluders",
}

MISBEHAVIOUR = '''
"""Rules and an attack for tests; workers import them by reference."""

import time
from dataclasses import dataclass
from typing import ClassVar

from flower_dfl.protocols import Attack, PeerStrategy
from flower_dfl.strategies.average import Average
from flower_dfl.strategies.kernels import weighted_mean
from flower_dfl.types import Knowledge


@dataclass(frozen=True, slots=True)
class Colluders(Attack):
    """Each receiver gets another mixture of what everybody trained: needs the second wave."""

    knowledge: ClassVar[Knowledge] = Knowledge.OMNISCIENT

    def craft(self, view, receiver, ctx):
        rows = [update.vector for update in (*view.honest, *view.byzantine)]
        return weighted_mean(rows, [1.0 + (receiver == update.sender) for update in (*view.honest, *view.byzantine)])


@dataclass(frozen=True, slots=True)
class Misbehaves(PeerStrategy[None]):
    """Averages, except at node 1 in round 2."""

    how: str = "raise"

    def aggregate(self, inbox, state, ctx):
        if ctx.node == 1 and ctx.round == 2:
            if self.how == "raise":
                raise RuntimeError("planned failure")
            time.sleep(600)
        return Average().aggregate(inbox, state, ctx)
'''


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, from which the reference ``misbehaviour:...`` can be imported here and by workers."""
    (tmp_path / "misbehaviour.py").write_text(MISBEHAVIOUR, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def small(changes: dict[str, Any]) -> RunConfig:
    """Return the small configuration with changes."""
    return parse(SMALL | changes)


def new_folder(parent: Path, name: str) -> Path:
    """Return a new run folder."""
    folder = parent / name
    folder.mkdir()
    return folder


def local_result(config: RunConfig, parent: Path) -> Path:
    """Run in the local engine and return the folder."""
    folder = new_folder(parent, "local")
    run_local(config, folder)
    return folder


def summary_of(folder: Path) -> dict[str, Any]:
    """Return a run's summary."""
    return dict(json.loads((folder / "summary.json").read_text(encoding="utf-8")))


def lines_without_times(path: Path) -> list[dict[str, Any]]:
    """Return the records, without the seconds, which differ."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def assert_same_bytes(first: Path, second: Path, num_nodes: int) -> None:
    """Check that two runs ended with the same models and recorded the same."""
    for node in range(num_nodes):
        name = f"checkpoint/node-{node}.safetensors"
        one, other = load_file(first / name), load_file(second / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), f"node {node} differs"
    for name in ("rounds.jsonl", "edges.jsonl"):
        assert lines_without_times(first / name) == lines_without_times(second / name)
