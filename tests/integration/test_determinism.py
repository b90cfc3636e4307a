"""One configuration, in every engine, over every transport, with any number of workers: the same bytes."""

import json
import sys
from pathlib import Path

import pytest

from flower_dfl.config import parse
from flower_dfl.engines.flower import run_flower
from flower_dfl.engines.local import run_local
from flower_dfl.records import read_lines
from tests.integration.conftest import MISBEHAVIOUR, assert_same_bytes, new_folder, summary_of
from tests.integration.launching import ray_cluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

REMEMBERS = '''
"""A rule that has digests, as DFL-Dual, and remembers; it leaves a file named after each worker it was used on."""

import os
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import ray
from torch import nn

from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.dfl_dual import DflDual

RULE = DflDual(iterations=3)


@dataclass(frozen=True, slots=True)
class Remembers(PeerStrategy):
    witnesses: str
    needs = RULE.needs

    def init(self, own):
        return {"past": own, "steps": 0}

    def digest(self, update, ctx):
        return RULE.digest(update, ctx)

    def aggregate(self, inbox, state, ctx):
        if ray.is_initialized():
            (Path(self.witnesses) / str(os.getpid())).touch()
        result = RULE.aggregate(inbox, None, ctx)
        vector = 0.75 * result.vector + 0.25 * state["past"]
        return replace(result, vector=vector, state={"past": vector, "steps": state["steps"] + 1})


def normed(input_shape, num_classes):
    """A model with both kinds of buffers, large enough for the object store."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(prod(input_shape), 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, num_classes)
    )
'''

TROUBLED = {
    "num-nodes": 6,
    "num-byzantine": 2,
    "num-rounds": 5,
    "topology.name": "complete",
    "schedule.name": "edge-failures",
    "schedule.params": "p = 0.2",
    "network.drop-rate": 0.15,
    "network.late-rate": 0.3,
    "network.staleness": 1,
    "network.churn": 0.15,
    "network.absence": 1,
    "strategy.name": "remembers:Remembers",
    "attack.name": "misbehaviour:Colluders",
    "model.name": "remembers:normed",
    "data.num-train": 300,
    "data.num-test": 100,
    "checkpoint.every": 2,
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder from which the rule, the model and the attack can be imported here and by workers."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "remembers.py").write_text(REMEMBERS, encoding="utf-8")
    (folder / "misbehaviour.py").write_text(MISBEHAVIOUR, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        yield folder
        for name in ("remembers", "misbehaviour"):  # other modules' workplaces have their own
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def expected(workplace):
    """What the local engine makes of it."""
    folder = new_folder(workplace, "local")
    run_local(configured(workplace), folder)
    return folder


@pytest.fixture(scope="module")
def cluster():
    """Four CPUs by name, however many there are."""
    with ray_cluster({"num_cpus": 4}) as cluster:
        yield cluster


def configured(workplace, transport="mailbox", witnesses="."):
    return parse(TROUBLED | {"strategy.params": {"witnesses": str(workplace / witnesses)}, "transport": transport})


def test_the_configuration_has_every_kind_of_trouble(expected):
    lines, edges = read_lines(expected / "rounds.jsonl"), read_lines(expected / "edges.jsonl")

    assert {reason for line in lines for reason in line["missing"]} >= {"dropped", "late", "absent"}
    assert any("absent" in line["flags"] for line in lines)
    assert len({len([edge for edge in edges if edge["round"] == round]) for round in range(1, 6)}) > 1


@pytest.mark.parametrize(("transport", "workers"), [("mailbox", 1), ("mailbox", 2), ("mailbox", 4), ("relay", 2)])
def test_every_transport_and_number_of_workers_gives_the_bytes_of_the_local_engine(
    workplace: Path, expected, cluster, transport, workers
):
    witnesses = new_folder(workplace, f"witnesses-{transport}-{workers}")
    config = configured(workplace, transport, witnesses.name)
    folder = new_folder(workplace, f"{transport}-{workers}")
    rounds = []

    run_flower(config, folder, rounds.append, cpus_per_node=4 // workers, ray_address=cluster.address)

    assert [summary.round for summary in rounds] == [1, 2, 3, 4, 5]
    assert_same_bytes(expected, folder, config.num_nodes)
    assert summary_of(folder) | {"seconds_total": 0} == summary_of(expected) | {"seconds_total": 0}
    assert len(list(witnesses.iterdir())) == workers
    states = [json.loads((run / "checkpoint/state-4/manifest.json").read_text()) for run in (expected, folder)]
    assert states[0]["files"] == states[1]["files"]


def test_a_convolutional_network_and_its_inversion_give_the_bytes_of_the_local_engine(tmp_path: Path, cluster):
    """One rounding anywhere would grow: ten steps of inversion multiply it a hundred thousand times."""
    convolutional = {
        "num-nodes": 4,
        "num-byzantine": 1,
        "num-rounds": 2,
        "topology.name": "complete",
        "strategy.name": "dfl-dual",
        "attack.name": "scaling",
        "model.name": "cnn",
        "model.params": {"channels1": 4, "channels2": 8, "hidden": 16},
        "data.num-train": 200,
        "data.num-test": 50,
    }
    config = parse(convolutional)
    local, flower = new_folder(tmp_path, "local"), new_folder(tmp_path, "flower")

    run_local(config, local)
    run_flower(config, flower, cpus_per_node=2, ray_address=cluster.address)

    assert_same_bytes(local, flower, config.num_nodes)
