"""The real thing: Flower's simulation engine and Ray, started as a user starts them.

That every transport gives the same bytes is in test_determinism.py, what else a run survives in test_faults.py.
"""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flower_dfl.engines.flower import run_flower
from flower_dfl.errors import NodeFailedError
from tests.integration.conftest import assert_same_bytes, local_result, new_folder, small, summary_of

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

CHECKOUT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent


def test_flwr_run_works_with_the_documented_environment_alone(workplace: Path) -> None:
    config = small({"attack.name": "scaling", "topology.name": "ring"})
    expected = local_result(config, workplace)
    home = new_folder(workplace, "home")
    settings = (
        f"num-nodes=6 num-byzantine=2 num-rounds=3 model.name='lr' data.num-train=600 data.num-test=100 "
        f"topology.name='ring' results-dir='{workplace / 'results'}'"
    )

    done = _flwr_run(home, settings, num_supernodes=6)

    (folder,) = (workplace / "results").iterdir()
    assert f"results in {folder}" in done
    assert_same_bytes(expected, folder, config.num_nodes)


def test_a_wrong_number_of_supernodes_ends_at_once_with_the_command_that_would_work(workplace: Path) -> None:
    home = new_folder(workplace, "home")

    done = _flwr_run(home, f"results-dir='{workplace / 'results'}'", num_supernodes=2)

    assert "expected num-nodes = 10 SuperNodes, got 2" in done
    assert "num-supernodes=10" in done


@pytest.mark.parametrize(
    ("how", "cause"),
    [("raise", "RuntimeError: planned failure"), ("hang", "its worker process died: .*node-timeout = 8 s")],
)
def test_a_node_that_fails_ends_the_run_with_its_name_and_the_cause(workplace: Path, how: str, cause: str) -> None:
    config = small({"strategy.name": "misbehaviour:Misbehaves", "strategy.params": {"how": how}, "node-timeout": 8})
    folder = new_folder(workplace, "flower")

    with pytest.raises(NodeFailedError, match=f"node 1 failed between the exchanges of rounds 2 and 3: .*{cause}"):
        run_flower(config, folder)

    assert summary_of(folder)["status"] == "failed"
    assert summary_of(folder)["rounds"] == 1
    assert _left_behind(folder) == []


def _flwr_run(home: Path, settings: str, num_supernodes: int) -> str:
    """Run ``flwr run .`` in the checkout and return what it prints; end the SuperLink that it leaves behind."""
    environment = os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": "42191",
        "FLWR_LOCAL_CONTROL_API_PORT": "42193",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_ADDRESS": "local",
        "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
    }
    federation = f"num-supernodes={num_supernodes} client-resources-num-cpus=1"
    command = [
        str(PROGRAMS / "flwr"), "run", str(CHECKOUT), "--stream",
        "--federation-config", federation, "--run-config", settings,
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, cwd=home, env=environment, capture_output=True, text=True, timeout=200, check=True
        )
    finally:
        _end(_mentioning("FLWR_HOME", str(home)))
    return " ".join((done.stdout + done.stderr).split())


def _left_behind(folder: Path) -> list[str]:
    """Return the command lines of processes of this run that still live a few seconds after its end."""
    _, alive = psutil.wait_procs(_mentioning("FLOWER_DFL_RUN_FOLDER", str(folder)), timeout=15)
    return [" ".join(process.cmdline()) for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def _mentioning(variable: str, value: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(variable) == value:
                found.append(process)
        except psutil.Error:
            continue
    return found


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=10)
