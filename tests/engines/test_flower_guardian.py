"""The guardian on small process trees; a real run is killed in tests/integration/test_launching.py."""

import subprocess
import sys

import psutil
import pytest

from flower_dfl.engines.guardian import Family

NODE = "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', *sys.argv[1:]]); time.sleep(600)"
LEAF = "import time; print('leaf', flush=True); time.sleep(600)"
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


def test_a_tree_ends_when_its_starter_lets_go(start):
    guardian, *tree = start(*GUARDIAN, NODE, NODE, LEAF)

    guardian.stdin.close()

    assert len(tree) == 3
    assert alive([guardian, *tree]) == []
    assert guardian.wait() == 0


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
