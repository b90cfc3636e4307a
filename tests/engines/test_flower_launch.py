"""What is refused before anything is started; the runs themselves are in tests/integration."""

import json
import os
import socket
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest

from flower_dfl.config import RunConfig
from flower_dfl.engines import flower
from flower_dfl.engines.flower import find_cluster, run_flower
from flower_dfl.errors import ConfigurationError, DflError, TransportError


@pytest.fixture
def listener():
    """A port of this machine at which somebody listens who never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


class Healthy(BaseHTTPRequestHandler):
    """Says that all is well."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()


@pytest.mark.parametrize("address", ["", "auto", "127.0.0.1", ":6379", "host:", "host:port", "ray://host:10001"])
def test_a_malformed_ray_address_is_refused(address):
    with pytest.raises(ConfigurationError, match=f"expected a Ray address HOST:PORT, or 'local', got {address!r}"):
        find_cluster(address)


@pytest.mark.parametrize("port", [None, 65536])
def test_a_ray_address_where_nobody_listens_is_refused(listener, port):
    address = f"127.0.0.1:{port or listener.getsockname()[1]}"
    listener.close()

    with pytest.raises(TransportError, match=f"no Ray cluster answers at {address}: "):
        find_cluster(address)


def test_a_ray_address_where_nobody_answers_is_refused_after_a_bounded_wait(listener, monkeypatch):
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setattr(flower, "_START_TIMEOUT", 3.0)

    with pytest.raises(TransportError, match=f"no Ray cluster answers at {address} within 3 s"):
        find_cluster(address)


@pytest.mark.parametrize(("cpus", "gpus"), [(0.5, 0), (0, 0), (1, -1), (float("nan"), 0)])
def test_resources_that_flower_cannot_reserve_are_refused(tmp_path, cpus, gpus):
    with pytest.raises(ConfigurationError, match=f"expected a whole number of CPUs .* got {cpus:g} and {gpus:g}"):
        run_flower(RunConfig(), tmp_path, cpus_per_node=cpus, gpus_per_node=gpus)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "set", "joined"), [(None, None, "local"), (None, "a:1", "a:1"), ("b:2", "a:1", "b:2")], ids=str
)
def test_a_superlink_hears_of_the_given_cluster_then_of_the_environments_then_of_none(
    tmp_path, monkeypatch, given, set, joined
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if set:
        monkeypatch.setenv("RAY_ADDRESS", set)

    assert flower._environment(tmp_path, tmp_path, given)["RAY_ADDRESS"] == joined


def test_a_machine_too_busy_to_say_how_a_run_is_does_not_end_the_run(tmp_path, monkeypatch):
    flwr = tmp_path / "flwr"
    flwr.write_text("#!/bin/sh\nexec sleep 60\n", encoding="utf-8")
    flwr.chmod(0o700)
    monkeypatch.setattr(flower, "program", lambda name: str(tmp_path / name))
    monkeypatch.setattr(flower, "_START_TIMEOUT", 0.2)

    assert flower._status(tmp_path, {"PATH": "/usr/bin:/bin"}, "1") == "unknown"


def write_summary(folder, status, error):
    folder.joinpath("summary.json").write_text(json.dumps({"status": status, "error": error, "rounds": 7}))
    for name in ("rounds.jsonl", "edges.jsonl", "failures.jsonl"):
        folder.joinpath(name).touch()


@pytest.mark.parametrize("status", ["failed", "interrupted", "completed"])
def test_a_run_that_goes_on_is_not_judged_by_how_it_ended_before(tmp_path, monkeypatch, status):
    @contextmanager
    def broken(*_):
        raise TransportError("the new error")
        yield

    monkeypatch.setattr(flower, "private_superlink", broken)
    write_summary(tmp_path, status, "the old error")

    with pytest.raises(TransportError, match="the new error"):
        run_flower(RunConfig(), tmp_path)

    found = json.loads(tmp_path.joinpath("summary.json").read_text())
    assert (found["status"], found["error"], found["rounds"]) == ("failed", "TransportError: the new error", 0)


@pytest.mark.parametrize("status", ["running", "interrupted"])
def test_a_run_that_flower_has_ended_is_not_waited_for(tmp_path, monkeypatch, status):
    monkeypatch.setattr(flower, "_SILENCE", 0.0)
    write_summary(tmp_path, status, None)

    with pytest.raises(DflError, match=r"Flower ended the run \(finished:stopped\) before its end"):
        flower._watch(tmp_path, psutil.Process(), lambda: "finished:stopped", lambda summary: None)


@pytest.mark.parametrize(("allowed", "passed_on"), [(None, "7"), ("3", "3"), ("64", "7")])
def test_a_run_starts_no_more_workers_than_it_has_nodes_or_may(tmp_path, monkeypatch, allowed, passed_on):
    told = []
    if allowed:
        monkeypatch.setenv("FLOWER_DFL_MOST_WORKERS", allowed)

    @contextmanager
    def noted(*given):
        told.append(given)
        raise TransportError("enough")
        yield

    monkeypatch.setattr(flower, "private_superlink", noted)

    with pytest.raises(TransportError, match="enough"):
        run_flower(RunConfig(num_nodes=7), tmp_path)

    ((_, _, _, most),) = told
    assert flower._environment(tmp_path, tmp_path, None, most)["FLOWER_DFL_MOST_WORKERS"] == passed_on
    assert flower._environment(tmp_path, tmp_path).get("FLOWER_DFL_MOST_WORKERS") == allowed


def test_an_impossible_number_of_workers_is_an_error_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWER_DFL_MOST_WORKERS", "none")

    with pytest.raises(ConfigurationError, match=r"expected FLOWER_DFL_MOST_WORKERS = 1 or a larger .*, got 'none'"):
        run_flower(RunConfig(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_flowers_processes_start_elsewhere_but_find_what_relative_paths_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"src{os.pathsep}{os.pathsep}/else/where")
    monkeypatch.setenv("FLOWER_DFL_DATA", "data")

    told = flower._environment(tmp_path / "home", tmp_path / "run", None)

    assert told["PYTHONPATH"].split(os.pathsep) == [str(tmp_path), str(tmp_path / "src"), "/else/where"]
    assert told["FLOWER_DFL_DATA"] == str(tmp_path / "data")
    assert json.loads(told["FLOWER_DFL_COMMAND"]) == sys.argv


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ({}, "127.0.0.1,localhost"),
        ({"no_proxy": "a.org", "NO_PROXY": "b.org"}, "a.org,b.org,127.0.0.1,localhost"),
        ({"NO_PROXY": "*"}, "*"),
    ],
)
def test_no_proxy_is_asked_for_this_machine(tmp_path, monkeypatch, before, told):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)

    environment = flower._environment(tmp_path / "home", tmp_path / "run", None)

    assert (environment["no_proxy"], environment["NO_PROXY"]) == (told, told)


def test_a_superlink_is_found_where_a_proxy_is_set(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setattr(flower, "_START_TIMEOUT", 5.0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = flower._is_healthy(server.server_port, psutil.Process())
        server.shutdown()

    assert found


def test_a_full_disk_for_the_launchers_own_files_is_how_the_run_ended(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(flower, "_write_app", full)
    write_summary(tmp_path, "running", None)

    with pytest.raises(OSError, match="No space left"):
        run_flower(RunConfig(), tmp_path)

    found = json.loads(tmp_path.joinpath("summary.json").read_text())
    assert (found["status"], found["error"]) == ("failed", "OSError: [Errno 28] No space left on device")


def test_a_flower_that_does_not_answer_in_time_is_no_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(flower, "_START_TIMEOUT", 0.01)
    environment = flower._environment(tmp_path / "home", tmp_path / "run", None)

    with pytest.raises(TransportError, match=r"'flwr run' did not answer within 0 s"):
        flower._submit(tmp_path, environment, RunConfig(), 1, 0)
    assert flower._status(tmp_path, environment, "1") == "unknown"
