"""What a user installs: the wheel holds everything, and a Flower app outside the checkout runs on it alone."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from zipfile import ZipFile

import pytest

from flower_dfl.engines.flower import private_superlink, program

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

CHECKOUT = Path(__file__).parents[2]
SOURCES = ("flower_dfl", "strategies", "attacks", "topologies", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel, check what it holds, and install it into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = _build_wheel(folder)
    _check_contents(wheel)
    target = folder / "installed"
    _pip("install", "--no-deps", "--target", str(target), str(wheel))
    return target


@pytest.mark.parametrize(
    ("name", "finished"),
    [("krum_app", "krum_app finished: accuracy "), ("backdoor_app", "backdoor_app finished: backdoor ")],
)
def test_an_app_outside_the_checkout_runs_on_the_installed_wheel(
    name: str, finished: str, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = _copy_app(name, tmp_path, installed)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(installed))

    printed = _flwr_run(app, tmp_path, num_supernodes=6)

    assert finished in printed
    assert float(printed.partition(finished)[2][:5]) > 0.5  # Krum learns; FedAvg learns the backdoor


def _build_wheel(folder: Path) -> Path:
    """Build the wheel from a copy of the sources, so that nothing is left in the checkout or taken from there."""
    sources = folder / "sources"
    sources.mkdir()
    for name in SOURCES:
        if (CHECKOUT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(CHECKOUT / name, sources / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(CHECKOUT / name, sources / name)
    _pip("wheel", "--no-deps", *_offline(), "--wheel-dir", str(folder / "wheels"), str(sources))
    (wheel,) = (folder / "wheels").iterdir()
    return wheel


def _offline() -> list[str]:
    """Use the installed build tool where there is one: a build environment of its own would have to be downloaded."""
    try:
        major = int(version("setuptools").partition(".")[0])
    except PackageNotFoundError:
        return []
    return ["--no-build-isolation"] if major >= 77 else []


def _check_contents(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"flower_dfl"}
    assert "flower_dfl/py.typed" in names
    assert "flower_dfl/data/fashion_mnist_mini.npz" in names
    for package in ("strategies", "attacks", "topologies"):
        expected = {f"flower_dfl/{package}/{path.name}" for path in (CHECKOUT / package).glob("*.py")}
        assert len(expected) > 1
        assert expected <= names


def _copy_app(name: str, folder: Path, installed: Path) -> Path:
    """Copy an app out of the checkout, and let server and clients check which flower_dfl they run."""
    app = folder / name
    shutil.copytree(CHECKOUT / "experiments" / "apps" / name, app, ignore=shutil.ignore_patterns("__pycache__"))
    with (app / "task.py").open("a", encoding="utf-8") as task:
        task.write(
            f"\nimport flower_dfl\nassert flower_dfl.__file__.startswith({str(installed)!r}), flower_dfl.__file__\n"
        )
    return app


def _flwr_run(app: Path, folder: Path, num_supernodes: int) -> str:
    """Run an app on a SuperLink of its own and return what is printed; fewer rounds than the app's default."""
    workplace = folder / "workplace"
    workplace.mkdir()
    with private_superlink(workplace, folder) as (environment, _):
        done = subprocess.run(
            [
                program("flwr"), "run", str(app), "private", "--stream", "--run-config", "num-rounds=2",
                "--federation-config", f"num-supernodes={num_supernodes} client-resources-num-cpus=1",
            ],
            env=dict(environment), cwd=workplace, capture_output=True, text=True, timeout=200, check=True,
        )  # fmt: skip
    return done.stdout + done.stderr


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
