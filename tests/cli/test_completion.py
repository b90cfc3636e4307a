import os
import subprocess
import sys
from pathlib import Path

import pytest

from flower_dfl import registry
from flower_dfl.cli.completion import complete_setting
from flower_dfl.config import config_keys

COMMAND = str(Path(sys.executable).with_name("flower-dfl"))


def complete(line, shell, home):
    """Ask as the script of a shell asks when somebody presses the tabulator key."""
    asked = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "_FLOWER_DFL_COMPLETE": f"complete_{shell}"}
    found = subprocess.run(
        [COMMAND], env=environment | asked, cwd=home, capture_output=True, text=True, timeout=120, check=True
    )
    assert found.stderr == ""
    return found.stdout


@pytest.mark.parametrize(
    ("shell", "line", "offered"),
    [
        ("bash", "flower-dfl run --set strategy.n", "strategy.name="),
        ("zsh", "flower-dfl run --set strategy.name=mu", "strategy.name=multi-krum"),
        ("fish", "flower-dfl run --set strategy.name=mu", "strategy.name=multi-krum"),
    ],
)
def test_every_shell_is_offered_settings(shell, line, offered, tmp_path):
    assert offered in complete(line, shell, tmp_path)


@pytest.fixture
def without_detection(monkeypatch, tmp_path):
    """Name shells as arguments instead of looking for the one that runs the tests; write to an empty home folder."""
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_every_shell_asks_for_this_command(shell, command, without_detection):
    code, output, _ = command("--show-completion", shell)

    assert code == 0
    assert f"_FLOWER_DFL_COMPLETE=complete_{shell}" in output
    assert "flower-dfl" in output


def test_what_is_installed_in_the_home_folder_completes_commands_in_bash(command, without_detection, tmp_path):
    command("--install-completion", "bash")

    script = tmp_path / ".bash_completions" / "flower-dfl.sh"
    assert str(script) in (tmp_path / ".bashrc").read_text(encoding="utf-8")
    pressed = 'COMP_WORDS=(flower-dfl tri); COMP_CWORD=1; _flower_dfl_completion flower-dfl; echo "${COMPREPLY[@]}"'
    offered = subprocess.run(
        ["bash", "-c", f"source {script}; {pressed}"],
        env={"PATH": f"{Path(COMMAND).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert offered.stdout.strip() == "triggers"


@pytest.mark.parametrize("kind", ["strategy", "attack", "topology", "model", "data", "schedule"])
def test_every_component_is_offered_by_name(kind):
    extra = ["none"] if kind == "attack" else []

    assert complete_setting(f"{kind}.name=") == [f"{kind}.name={name}" for name in registry.names(kind) + extra]


def test_partitions_and_placements_are_offered_too():
    assert complete_setting("data.partition=d") == ["data.partition=dirichlet"]
    assert complete_setting("placement.name=h") == ["placement.name=highest-labels", "placement.name=hub"]


def test_every_key_is_offered_and_nothing_for_what_is_free():
    assert complete_setting("") == [f"{key}=" for key in config_keys()]
    assert complete_setting("seed=") == []
