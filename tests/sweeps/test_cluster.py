"""Sweeps on a Ray cluster of several machines, here on loopback."""

import errno
import io
import os
import tarfile

import psutil
import pytest

from flower_dfl.errors import StorageError, TransportError
from flower_dfl.sweeps import cluster as sweeping
from flower_dfl.sweeps.cluster import pack, unpack
from flower_dfl.sweeps.tables import read_cells, unfinished_cells
from tests.integration.launching import ray_cluster
from tests.sweeps.conftest import flower_dfl, wait_for, write_sweep

RULE = '''
"""Average; the first process of all says which it is and stays where it is."""

import os
import time
from pathlib import Path

from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.average import Average


class StaysOnce(PeerStrategy[None]):
    def aggregate(self, inbox, state, ctx):
        try:
            with Path(os.environ["CLUSTER_TEST"], "pid").open("x") as file:
                file.write(f"{os.getpid()}\\n")
            time.sleep(600)
        except FileExistsError:
            pass
        return Average().aggregate(inbox, state, ctx)
'''


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder in which ``cluster_rules:StaysOnce`` can be imported, here and by cells on any machine."""
    (tmp_path / "cluster_rules.py").write_text(RULE, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("CLUSTER_TEST", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def cluster(workplace):
    """A head without CPUs, and two machines with one each."""
    with ray_cluster({"num_cpus": 0}, {"num_cpus": 1}, {"num_cpus": 1}) as cluster:
        yield cluster


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_cells_run_on_all_machines_and_again_where_one_dies(workplace, cluster):
    path = write_sweep(workplace, """
        [matrix]
        "strategy.name" = ["cluster_rules:StaysOnce"]
        seed = [0, 1, 2]
        [[cell]]
        name = "broken"
        data = { name = "mnist", root = "nowhere" }
    """)  # fmt: skip
    process = flower_dfl(
        "sweep", path, "--engine", "local", "--results-dir", "out", "--ray-address", cluster.address, cwd=workplace
    )
    stuck = psutil.Process(int(wait_for(workplace / "pid", process)))
    raylets = [child for child in cluster.process.children(recursive=True) if child.name() == "raylet"]
    machines = sorted(raylets, key=lambda raylet: raylet.create_time())  # the head is the first to start
    (machine,) = [number for number, raylet in enumerate(machines) if raylet in stuck.parents()]

    cluster.kill(machine)
    output, errors = process.communicate(timeout=400)

    assert process.returncode == 1, output + errors
    assert [cell.name for cell in read_cells(workplace / "out")] == [
        f"cluster_rules:StaysOnce-seed{seed}" for seed in range(3)
    ]
    assert [cell.name for cell in unfinished_cells(workplace / "out")] == ["broken"]
    assert "failed broken (" in output
    assert "nowhere" in output
    stuck.wait(100)
    for cell in read_cells(workplace / "out"):
        assert (cell.folder / "checkpoint" / "node-0.safetensors").exists()


@pytest.mark.ray
def test_no_cluster_is_an_error(workplace):
    path = write_sweep(workplace, "[matrix]\nseed = [0]\n")

    process = flower_dfl("sweep", path, "--results-dir", "out", "--ray-address", "127.0.0.1:1", cwd=workplace)
    _, errors = process.communicate()

    assert process.returncode == 1
    assert errors.startswith("failed: no Ray cluster answers at 127.0.0.1:1")


def archive(*members):
    """Return an archive of (name, type, content or link target)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            if kind == tarfile.REGTYPE:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                member.linkname = content
                tar.addfile(member)
    return buffer.getvalue()


def test_what_is_packed_is_unpacked(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "run" / "checkpoint").mkdir(parents=True)
    target.mkdir()
    (source / "run" / "checkpoint" / "node-0").write_bytes(b"model")
    (source / "log.txt").write_text("said")
    (source / "settings.toml").write_text("not sent back")

    unpack(pack(source), target)

    assert (target / "run" / "checkpoint" / "node-0").read_bytes() == b"model"
    assert sorted(path.name for path in target.iterdir()) == ["log.txt", "run"]


def test_an_earlier_attempt_of_the_same_name_stays(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old").write_text("old")

    unpack(archive(("run", tarfile.DIRTYPE, ""), ("run/new", tarfile.REGTYPE, b"new")), tmp_path)

    assert (tmp_path / "run" / "old").exists()
    assert len(list(tmp_path.glob("run-*/new"))) == 1


@pytest.mark.parametrize(
    "member",
    [
        ("../outside", tarfile.REGTYPE, b"x"),
        ("/outside", tarfile.REGTYPE, b"x"),
        ("run/../../outside", tarfile.REGTYPE, b"x"),
        ("link", tarfile.SYMTYPE, "/etc/passwd"),
        ("run/link", tarfile.SYMTYPE, "summary.json"),
        ("link", tarfile.LNKTYPE, "../outside"),
        ("pipe", tarfile.FIFOTYPE, ""),
    ],
)
def test_an_archive_that_would_leave_its_folder_is_refused(tmp_path, member):
    folder = tmp_path / "a" / "cell"
    folder.mkdir(parents=True)

    with pytest.raises(TransportError, match="archive"):
        unpack(archive(("run/summary.json", tarfile.REGTYPE, b"{}"), member), folder)

    assert list(folder.iterdir()) == []
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "cell"]


@pytest.mark.parametrize(
    "data",
    [b"", b"nonsense", archive(("a", tarfile.REGTYPE, b"x" * 10_000))[:60]],
    ids=["empty", "nonsense", "cut off"],  # an archive holds its time, which would be part of the test's name
)
def test_a_malformed_archive_is_refused(tmp_path, data):
    with pytest.raises(TransportError, match="malformed"):
        unpack(data, tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_and_is_the_cells_failure_not_the_sweeps(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    whole = archive(("run", tarfile.DIRTYPE, ""))
    monkeypatch.setattr(tarfile.TarFile, "extractall", full)
    monkeypatch.setattr(sweeping.ray, "get", lambda task, timeout: (None, whole))

    with pytest.raises(StorageError, match=f"^cannot write {tmp_path}: No space left on device$"):
        unpack(whole, tmp_path)
    assert sweeping._receive(None, tmp_path) == f"StorageError: cannot write {tmp_path}: No space left on device"
    assert list(tmp_path.iterdir()) == []
