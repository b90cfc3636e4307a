"""Flower's deployment engine: a SuperLink and SuperNodes as processes of their own, started as on several machines."""

import os
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
import tomli_w

from flower_dfl.config import flatten
from flower_dfl.engines.flower import program
from flower_dfl.engines.guardian import Family
from tests.integration.conftest import assert_same_bytes, local_result, new_folder, small, summary_of

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

CHECKOUT = Path(__file__).parents[2]
CHANGES = {
    "num-byzantine": 1,
    "data.num-train": 300,
    "topology.name": "complete",
    "strategy.name": "dfl-dual",
    "attack.name": "scaling",
    "transport": "relay",
}


@pytest.mark.parametrize(("secured", "num_nodes", "num_rounds"), [(False, 3, 2), (True, 2, 1)], ids=["insecure", "TLS"])
def test_separate_processes_end_with_the_bytes_of_the_local_engine(workplace, secured, num_nodes, num_rounds):
    size = {"num-nodes": num_nodes, "num-rounds": num_rounds}
    config = small(CHANGES | size | {"results-dir": str(workplace / "results")})
    expected = local_result(config, workplace)
    certificates = _certificates(workplace) if secured else None

    with _deployment(workplace, num_nodes, certificates) as environment:
        printed = _flwr_run(workplace, environment, flatten(config))

    folders = list((workplace / "results").glob("*"))
    assert len(folders) == 1, printed
    assert summary_of(folders[0])["status"] == "completed"
    assert_same_bytes(expected, folders[0], num_nodes)


def test_only_those_who_know_the_authority_talk_to_a_superlink_that_uses_tls(workplace):
    certificates, others = _certificates(workplace), _certificates(new_folder(workplace, "elsewhere"))
    address = f"127.0.0.1:{_free_port()}"
    member, stranger = (_environment(folder, address, folder / "ca.crt") for folder in (certificates, others))

    with _program(workplace, member, "flower-superlink", *_server_options(certificates, address)):
        _wait_until_healthy(address, certificates / "ca.crt")
        codes = [
            subprocess.run([program("flwr"), "ls", "deployment"], env=env, capture_output=True, check=False).returncode
            for env in (member, stranger)
        ]

    assert codes == [0, 1]


def _certificates(workplace: Path) -> Path:
    folder = workplace / "certificates"
    subprocess.run(
        ["bash", str(CHECKOUT / "experiments/deployment/certificates.sh"), str(folder)], capture_output=True, check=True
    )
    return folder


@contextmanager
def _deployment(workplace: Path, num_nodes: int, certificates: Path | None) -> Iterator[dict[str, str]]:
    """Start a SuperLink and the SuperNodes, hand out the environment for ``flwr``, and end them all."""
    address = f"127.0.0.1:{_free_port()}"
    authority = None if certificates is None else certificates / "ca.crt"
    environment = _environment(workplace, address, authority)
    security = ["--insecure"] if authority is None else ["--root-certificates", str(authority)]
    with ExitStack() as started:

        def start(name: str, *options: str) -> None:
            started.enter_context(_program(workplace, environment, name, *options))

        start("flower-superlink", *_server_options(certificates, address))
        _wait_until_healthy(address, authority)
        for node in range(num_nodes):
            identity = f"partition-id={node} num-partitions={num_nodes}"
            start(
                "flower-supernode", *security, "--superlink", address, "--port", str(_free_port()),
                "--node-config", identity,
            )  # fmt: skip
        yield environment


def _server_options(certificates: Path | None, address: str) -> list[str]:
    port = ["--port", address.rpartition(":")[2]]
    if certificates is None:
        return ["--insecure", *port]
    files = {"ssl-ca-certfile": "ca.crt", "ssl-certfile": "server.crt", "ssl-keyfile": "server.key"}
    return [*port, *(part for name, file in files.items() for part in (f"--{name}", str(certificates / file)))]


def _environment(workplace: Path, address: str, authority: Path | None) -> dict[str, str]:
    """Return the documented environment; its home knows the SuperLink by the name ``deployment``."""
    home = new_folder(workplace, "home")
    trust = "insecure = true" if authority is None else f'root-certificates = "{authority}"'
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "deployment"\n\n[superlink.deployment]\naddress = "{address}"\n{trust}\n',
        encoding="utf-8",
    )
    return os.environ | {
        "PATH": f"{Path(program('flwr')).parent}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }


@contextmanager
def _program(workplace: Path, environment: dict[str, str], name: str, *options: str) -> Iterator[None]:
    with (
        (workplace / "flower.log").open("ab") as log,
        psutil.Popen([program(name), *options], env=environment, cwd=workplace, stdout=log, stderr=log) as process,
    ):
        try:
            yield
        finally:
            Family(process).end()


def _wait_until_healthy(address: str, authority: Path | None) -> None:
    context = None if authority is None else ssl.create_default_context(cafile=authority)
    url = f"http{'' if authority is None else 's'}://{address}/health"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=1, context=context):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError("the SuperLink did not start within a minute")


def _flwr_run(workplace: Path, environment: dict[str, str], settings: dict[str, str | int | float]) -> str:
    (workplace / "settings.toml").write_text(tomli_w.dumps(settings), encoding="utf-8")
    done = subprocess.run(
        [program("flwr"), "run", str(CHECKOUT), "deployment", "--stream", "--run-config", "settings.toml"],
        env=environment, cwd=workplace, capture_output=True, text=True, timeout=500, check=True,
    )  # fmt: skip
    return done.stdout + done.stderr


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
