"""``flower-dfl report``."""

import builtins
import sys

import pytest

from flower_dfl.cli import app

from .conftest import four_nodes


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run ``flower-dfl report`` with these arguments; return exit code, output and errors."""
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("FLOWER_DFL_TRACEBACK", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["flower-dfl", "report", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            app.main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


def test_it_prints_the_absolute_path_of_the_file(command, make_run, tmp_path):
    make_run(*four_nodes())

    code, output, _ = command("run", "--out", "page.html")

    assert (code, output) == (0, f"{tmp_path / 'page.html'}\n")
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_a_wrong_folder_is_a_usage_error(command, tmp_path):
    code, _, errors = command(tmp_path)

    assert code == 2
    assert "expected a folder with a config.toml (a run) or a sweep.json (a sweep)" in errors


def test_without_the_extra_it_is_named(command, make_run, monkeypatch):
    folder = make_run(*four_nodes())
    real = builtins.__import__

    def without_jinja(name, *arguments, **keywords):
        if name.partition(".")[0] == "jinja2":
            raise ModuleNotFoundError("No module named 'jinja2'", name="jinja2")
        return real(name, *arguments, **keywords)

    for name in [name for name in sys.modules if name.startswith(("flower_dfl.report", "jinja2"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without_jinja)

    code, _, errors = command(folder)

    assert code == 2
    assert "pip install 'flower-dfl[report]'" in errors
