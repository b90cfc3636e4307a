"""Runs that join a Ray cluster of several nodes, each with an object store of its own."""

import json
import subprocess

import pytest
import tomli_w

from flower_dfl.config import flatten
from flower_dfl.engines.flower import find_cluster, program, run_flower
from tests.integration.conftest import assert_same_bytes, local_result, new_folder, small
from tests.integration.launching import WITNESS, ray_cluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster():
    """A cluster of three nodes, of which the last has a GPU: declared, not there."""
    with ray_cluster({"num_cpus": 1}, {"num_cpus": 1}, {"num_cpus": 2, "num_gpus": 1}) as cluster:
        yield cluster


@pytest.fixture
def witnesses(workplace):
    """Let the rule ``witness:Witness`` write down which workers there were, and read it."""
    (workplace / "witness.py").write_text(WITNESS, encoding="utf-8")
    folder = new_folder(workplace, "testimony")

    def read():
        return [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("[0-9]*.json")]

    read.settings = {"strategy.name": "witness:Witness", "strategy.params": {"folder": str(folder)}}
    return read


def test_a_run_joins_the_named_cluster_only_and_ends_with_the_bytes_of_the_local_engine(cluster, workplace, witnesses):
    config = small(witnesses.settings)
    expected = local_result(config, workplace)
    (workplace / "config.toml").write_text(tomli_w.dumps(flatten(config)), encoding="utf-8")

    with ray_cluster({"num_cpus": 4}):
        done = subprocess.run(
            [program("flower-dfl"), "run", "config.toml", "--ray-address", cluster.address, "--results-dir", "results"],
            cwd=workplace, capture_output=True, text=True, check=True,
        )  # fmt: skip

    assert done.stdout.startswith(f"Ray cluster {cluster.address}: nodes 3, CPUs 4, GPUs 1\n")
    (folder,) = (workplace / "results").iterdir()
    assert_same_bytes(expected, folder, config.num_nodes)
    assert {said["cluster"] for said in witnesses()} == {cluster.address}
    assert len({said["machine"] for said in witnesses()}) == 3
    assert find_cluster(cluster.address) == done.stdout.splitlines()[0]  # it is there for the next run


def test_two_workers_share_a_declared_gpu_and_both_see_it(cluster, workplace, witnesses):
    settings = witnesses.settings["strategy.params"] | {"together": 2}
    folder = new_folder(workplace, "flower")

    run_flower(
        small(witnesses.settings | {"strategy.params": settings, "train.device": "cpu"}),
        folder, gpus_per_node=0.5, ray_address=cluster.address,
    )  # fmt: skip

    assert [(said["gpus"], said["cuda"]) for said in witnesses()] == [(0.5, "0"), (0.5, "0")]
    assert len({said["machine"] for said in witnesses()}) == 1


def test_workers_that_reserve_no_gpu_see_none(cluster, workplace, witnesses):
    folder = new_folder(workplace, "flower")

    run_flower(small(witnesses.settings), folder, cpus_per_node=2, ray_address=cluster.address)  # fits beside the GPU

    assert {(said["gpus"], said["cuda"]) for said in witnesses()} == {(0, "")}
