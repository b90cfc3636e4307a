"""Launchers that are killed: nothing that they started may live on.

That the launcher alone is killed is in test_faults.py.
"""

import psutil
import pytest

from flower_dfl.engines.guardian import END_TIMEOUT
from tests.integration.conftest import small, summary_of
from tests.integration.launching import background_run, processes_of, wait_for_rounds

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_a_launcher_that_is_killed_with_its_simulation_leaves_nothing_alive(workplace):
    config = small({"num-rounds": 500, "strategy.name": "average", "attack.name": "none"})
    with background_run(config, workplace) as (run, folder):
        wait_for_rounds(folder, 2)
        started = {process: process.cmdline() for process in processes_of(folder) if process.pid != run.pid}
        assert any("raylet" in command[0] for command in started.values())

        # Ray's processes are then nobody's descendants
        next(process for process, command in started.items() if _is_program(command, "flwr-simulation")).kill()
        run.kill()

        _, left = psutil.wait_procs(started, timeout=END_TIMEOUT + 15)
        assert [started[process] for process in left if process.status() != psutil.STATUS_ZOMBIE] == []
        assert processes_of(folder) == []
        assert (summary_of(folder)["status"], summary_of(folder)["error"]) == (
            "interrupted", "the process that started the run died"
        )  # fmt: skip


def _is_program(command: list[str], name: str) -> bool:
    return any(part.endswith(f"/{name}") for part in command)
