"""What a process need not import: it would take seconds of a processor in every worker and in every run of a sweep."""

import subprocess
import sys

import pytest
import tomli_w

from flower_dfl.config import nest

SMALL = {
    "num-nodes": 5,
    "num-byzantine": 2,
    "num-rounds": 2,
    "topology.name": "complete",
    "model.name": "lr",
    "data.num-train": 100,
    "data.num-test": 40,
}
IMPORTED = "from flower_dfl.cli.app import main\ntry:\n    main()\nfinally:\n    print('loaded:', *sys.modules)"


@pytest.mark.parametrize(
    ("rule", "attack", "params"),
    [
        ("dfl-dual", "rule-in-the-loop", {"rule": "dfl-dual", "steps": 1}),
        ("trust-anchored", "back-gradient", {"steps": 1, "outer_steps": 1}),
        ("dfl-detector", "adaptive", {}),
    ],
)
def test_no_run_imports_torchs_compiler(tmp_path, rule, attack, params):
    settings = SMALL | {"strategy.name": rule, "attack.name": attack, "attack.params": params}
    (tmp_path / "run.toml").write_text(tomli_w.dumps(nest(settings)), encoding="utf-8")

    command = [sys.executable, "-c", f"import sys\n{IMPORTED}", "run", "run.toml", "--engine", "local"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)

    assert done.returncode == 0, done.stderr
    loaded = done.stdout.partition("loaded:")[2].split()
    assert "torch" in loaded
    assert "torch._dynamo" not in loaded
