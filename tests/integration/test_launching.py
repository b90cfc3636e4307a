"""Launchers that are killed: nothing that they started may live on."""

import psutil
import pytest

from flower_dfl.engines.guardian import END_TIMEOUT
from tests.integration.conftest import small, summary_of
from tests.integration.launching import background_run, processes_of, wait_for_rounds

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

LONG = {"num-rounds": 500, "strategy.name": "average", "attack.name": "none"}


@pytest.mark.parametrize("victims", [["flower-dfl"], ["flwr-simulation", "flower-dfl"]], ids="+".join)
def test_a_killed_launcher_leaves_nothing_alive(workplace, victims):
    with background_run(small(LONG), workplace) as (run, folder):
        wait_for_rounds(folder, 2)
        started = [*psutil.Process(run.pid).children(recursive=True), *processes_of(folder)]
        names = {process.pid: " ".join(process.cmdline()) for process in started}
        assert any("raylet" in name for name in names.values())

        for victim in victims:
            next(process for process in [psutil.Process(run.pid), *started] if victim in process.cmdline()[1]).kill()

        psutil.wait_procs(set(started), timeout=END_TIMEOUT + 15)
        left = [names[process.pid] for process in set(started) if process.is_running()]
        assert left == []
        assert processes_of(folder) == []
        assert summary_of(folder)["status"] == "running"
