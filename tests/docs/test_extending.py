"""What the pages tell one to write and to type works as it stands: each walk happens in a folder of its own.

A fenced block whose first line is a comment with a file name is saved as that file; a shell block is run by bash, a
Python block by the interpreter; a block of text is what the one before it prints.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from tests.docs.markdown import ROOT, Block, blocks
from tests.integration.conftest import assert_same_bytes

pytestmark = pytest.mark.timeout(600)  # a walk starts a dozen processes, each of which imports torch

EXTENDING = blocks(ROOT / "docs" / "extending.md")
README = blocks(ROOT / "README.md")
ON_FLOWER = "--engine flower"
INSTALLED = "installed"
PREPARED = """
import torch
from my_rules import Nearest
own, received = torch.zeros(4), torch.eye(4)[:3]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project that the page builds, after everything on it has been run but what needs Ray."""
    folder = tmp_path_factory.mktemp("project")
    walk([block for block in EXTENDING if ON_FLOWER not in block.text], folder)
    return folder


def test_the_own_rule_runs_to_its_end(project):
    (run,) = project.glob("runs/*NearestFew*")

    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    edges = [json.loads(line) for line in (run / "edges.jsonl").read_text(encoding="utf-8").splitlines()]

    assert summary["status"] == "completed"
    assert summary["rounds"] == 6
    assert summary["honest_accuracy_mean"] > 0.5  # of six labels
    assert any("distance" in edge["scores"] for edge in edges)


def test_the_schedule_shuts_the_doors_in_odd_rounds(project):
    (run,) = project.glob("runs/*NearestFew*")

    edges = [json.loads(line) for line in (run / "edges.jsonl").read_text(encoding="utf-8").splitlines()]

    through = {edge["round"] for edge in edges if (edge["receiver"] - edge["sender"]) % 2}
    assert through == {2, 4, 6}


def test_the_own_rule_has_a_row_in_the_table(project):
    table = (project / "table.md").read_text(encoding="utf-8")

    assert re.search(r"^\| average \| [\d.]+ ± [\d.]+ \([\d.]+; 2\) \|$", table, re.MULTILINE)
    assert re.search(r"^\| my_pkg.rules:NearestFew \| [\d.]+ ± [\d.]+ \([\d.]+; 2\) \|$", table, re.MULTILINE)


def test_the_figures_name_the_own_rule(project):
    for name in ("accuracy-by-round", "asr-by-round"):
        figures = {path.suffix: path for path in project.glob(f"runs/sweep/figures/{name}.*")}
        assert set(figures) == {".pdf", ".png", ".svg"}
        assert "NearestFew" in figures[".svg"].read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["run.html", "runs/sweep/report.html"])
def test_the_reports_name_the_own_rule(project, name):
    assert "my_pkg.rules:NearestFew" in (project / name).read_text(encoding="utf-8")


def test_the_project_can_be_installed(project):
    assert (project / INSTALLED / "my_pkg" / "rules.py").exists()


@pytest.mark.ray
def test_the_flower_engine_ends_with_the_same_bytes(project):
    walk([block for block in EXTENDING if ON_FLOWER in block.text], project)

    local, flower = sorted(project.glob("runs/*NearestFew*"))
    assert_same_bytes(local, flower, num_nodes=10)


def test_the_rule_on_the_front_page_keeps_its_contract(tmp_path):
    rule, _, check = front_page()

    walk([rule, Block("python", PREPARED + check.text, check.line)], tmp_path)


def test_the_commands_on_the_front_page_run_in_the_local_engine(tmp_path):
    """As they stand, but for the engine and the number of rounds."""
    rule, commands, _ = front_page()

    walk([task(), rule, shortened(commands, "--engine local --set num-rounds=2")], tmp_path)

    assert statuses(tmp_path) == ["completed", "completed"]


@pytest.mark.ray
def test_the_commands_on_the_front_page_run_in_the_flower_engine(tmp_path):
    """As they stand, but for the number of rounds."""
    rule, commands, _ = front_page()

    walk([task(), rule, shortened(commands, "--set num-rounds=2")], tmp_path)

    assert statuses(tmp_path) == ["completed", "completed"]


def test_a_walk_finds_what_does_not_work(tmp_path):
    for broken in (
        [Block("bash", "flower-dfl rnu\n", 1)],
        [Block("bash", "false | true\n", 1)],
        [Block("python", "raise SystemExit(1)\n", 1)],
        [Block("bash", "echo one\n", 1), Block("text", "two\n", 1)],
    ):
        with pytest.raises(AssertionError):
            walk(broken, tmp_path)


def front_page() -> tuple[Block, Block, Block]:
    """Return the README's rule, the commands that follow it, and the check of its contract."""
    place = next(i for i, block in enumerate(README) if block.file == "my_rules.py")
    return README[place], README[place + 1], README[place + 2]


def task() -> Block:
    """Return the module that the front page's second command names: data and a model; the other page has one."""
    (found,) = (block for block in EXTENDING if block.file == "my_pkg/task.py")
    return found


def shortened(commands: Block, options: str) -> Block:
    """Return commands with further options at the end of each line."""
    return Block(
        commands.language, "".join(f"{line} {options}\n" for line in commands.text.splitlines()), commands.line
    )


def statuses(folder: Path) -> list[str]:
    """Return how the runs in a folder ended."""
    return [json.loads(path.read_text(encoding="utf-8"))["status"] for path in folder.glob("runs/*/summary.json")]


def walk(steps: Iterable[Block], folder: Path) -> None:
    """Do what the blocks say, in order; fail at the first that does not work."""
    printed = ""
    for block in steps:
        if block.file is not None:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "text":
            assert block.text in printed, f"line {block.line}: expected\n{block.text}\nin\n{printed}"
        else:
            printed = execute(block, folder)


def execute(block: Block, folder: Path) -> str:
    """Run a block with the programs of the environment that runs the tests, and return what it prints."""
    program = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}[block.language]
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "NO_COLOR": "1",
        "COLUMNS": "200",
        "PIP_TARGET": str(folder / INSTALLED),  # not into the environment that runs the tests
        "PIP_NO_DEPS": "1",
    }
    if has_build_tool():
        environment["PIP_NO_BUILD_ISOLATION"] = "0"  # means yes: a build environment would have to be downloaded
    process = subprocess.Popen(
        [*program, block.text], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        printed, errors = process.communicate()
    except BaseException:  # the test's own timeout, say
        os.killpg(process.pid, signal.SIGTERM)  # flower-dfl then ends what it has started
        process.communicate()
        raise
    assert process.returncode == 0, f"line {block.line}: {block.text}\n{printed}\n{errors}"
    return printed


def has_build_tool() -> bool:
    """Return whether the environment has the setuptools that the page's project asks for."""
    try:
        return int(version("setuptools").partition(".")[0]) >= 77
    except PackageNotFoundError:
        return False
