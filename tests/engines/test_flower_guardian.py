"""The guardian on small process trees; a real run is killed in tests/integration/test_launching.py."""

import json
import subprocess
import sys

import psutil
import pytest

from flower_dfl.engines.guardian import LEAVE, Family
from flower_dfl.wire import RUN_FOLDER_VARIABLE

NODE = "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', *sys.argv[1:]]); time.sleep(600)"
LEAF = "import time; print('leaf', flush=True); time.sleep(600)"
FAILING = (
    """
import json, os, signal, sys, time
def fail(*_):
    with open(os.environ["FLOWER_DFL_RUN_FOLDER"] + "/summary.json", "w") as file:
        json.dump({"status": "failed", "error": "a worker died"}, file)
    sys.exit(1)
signal.signal(signal.SIGTERM, fail)
"""
    + LEAF
)
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + LEAF
GUARDIAN = [sys.executable, "-m", "flower_dfl.engines.guardian", sys.executable, "-c"]
TREE = [sys.executable, "-c"]


@pytest.fixture
def start():
    """Start programs whose last descendant says that it is there; end everything after the test."""
    started = []

    def start(*command):
        process = psutil.Popen([*command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "leaf\n"
        tree = [process, *process.children(recursive=True)]
        started.append(tree)
        return tree

    yield start
    for tree in started:
        for process in tree:
            if process.is_running():
                process.kill()
        tree[0].stdin.close()
        tree[0].stdout.close()
        tree[0].wait()


def alive(processes):
    """Return those that still live ten seconds later."""
    _, left = psutil.wait_procs(processes, timeout=10)
    return [process for process in left if process.status() != psutil.STATUS_ZOMBIE]


def kill(process):
    """Kill a process whose parent will not notice."""
    process.kill()
    while process.status() != psutil.STATUS_ZOMBIE:
        pass


def test_the_guardian_imports_nothing_that_takes_seconds():
    code = "import sys, flower_dfl.engines.guardian; print({'torch', 'flwr', 'ray'} & set(sys.modules))"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert found.stdout == "set()\n"


def test_a_tree_ends_when_its_starter_lets_go(start):
    guardian, *tree = start(*GUARDIAN, NODE, NODE, LEAF)

    guardian.stdin.close()

    assert len(tree) == 3
    assert alive([guardian, *tree]) == []
    assert guardian.wait() == 0


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """A run that goes on, for which processes are started from now on."""
    monkeypatch.setenv(RUN_FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / "summary.json").write_text('{"status": "running", "error": null}')
    return tmp_path


def summary_of(folder):
    summary = json.loads((folder / "summary.json").read_text())
    return summary["status"], summary["error"]


@pytest.mark.parametrize("command", [LEAF, FAILING], ids=["silent", "fails as it is ended"])
def test_a_run_whose_starter_dies_was_interrupted(start, run_folder, command):
    guardian, _ = start(*GUARDIAN, command)

    guardian.stdin.close()

    assert alive([guardian]) == []
    assert summary_of(run_folder) == ("interrupted", "the process that started the run died")


@pytest.mark.parametrize("text", ["", "{}", "null and void"])
def test_a_tree_ends_whatever_the_summary_says(start, run_folder, text):
    (run_folder / "summary.json").write_text(text)
    guardian, *tree = start(*GUARDIAN, LEAF)

    guardian.stdin.close()

    assert alive([guardian, *tree]) == []
    assert guardian.wait() == 0


def test_a_starter_that_says_that_it_leaves_records_the_end_itself(start, run_folder):
    guardian, command = start(*GUARDIAN, LEAF)

    guardian.stdin.write(LEAVE.decode())
    guardian.stdin.flush()

    assert alive([guardian, command]) == []
    assert summary_of(run_folder) == ("running", None)


def test_a_run_that_had_failed_before_its_starter_died_stays_failed(start, run_folder):
    guardian, _ = start(*GUARDIAN, LEAF)
    (run_folder / "summary.json").write_text('{"status": "failed", "error": "diverged"}')

    guardian.stdin.close()

    assert alive([guardian]) == []
    assert summary_of(run_folder) == ("failed", "diverged")


def test_a_tree_ends_when_the_guardian_is_asked_to_end(start):
    guardian, *tree = start(*GUARDIAN, NODE, NODE, LEAF)

    guardian.terminate()

    assert alive([guardian, *tree]) == []


def test_the_guardian_ends_with_its_command(start):
    guardian, command = start(*GUARDIAN, LEAF)

    command.kill()

    assert alive([guardian]) == []


def test_one_whose_parent_was_killed_is_still_ours(start):
    head, middle, leaf = start(*TREE, NODE, NODE, LEAF)
    family = Family(head)
    family.look()
    kill(middle)

    assert leaf not in head.children(recursive=True)
    assert family.end() == set()
    assert alive([head, leaf]) == []


def test_what_one_starts_whose_parent_was_killed_is_ours_too(start):
    head, middle, lower, leaf = start(*TREE, NODE, NODE, NODE, LEAF)
    family = Family(head)
    family._members |= {middle, lower}
    kill(middle)

    assert family.look() >= {head, lower, leaf}


def test_one_that_ignores_polite_requests_is_killed(start, monkeypatch):
    monkeypatch.setattr("flower_dfl.engines.guardian._POLITE", 0.2)
    head, stubborn = start(*TREE, NODE, STUBBORN)

    assert Family(head).end() == set()
    assert alive([head, stubborn]) == []


def test_a_neighbour_is_not_touched(start):
    neighbour, *_ = start(*TREE, LEAF)
    guardian, *tree = start(*GUARDIAN, LEAF)

    guardian.stdin.close()

    assert alive([guardian, *tree]) == []
    assert neighbour.poll() is None


def test_a_process_that_got_the_pid_of_one_of_ours_is_not_touched(start):
    neighbour, *_ = start(*TREE, LEAF)
    ours = psutil.Process(neighbour.pid)
    ours._ident = (ours.pid, ours.create_time() - 60)  # the pid belonged to ours a minute ago

    assert Family(ours).end() == set()
    assert neighbour.poll() is None
