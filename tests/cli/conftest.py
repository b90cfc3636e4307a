"""The command, called as a user calls it."""

import signal
import sys

import pytest

from flower_dfl.cli import app


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run ``flower-dfl`` with these arguments in an empty folder; return exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("FLOWER_DFL_TRACEBACK", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    handler = signal.getsignal(signal.SIGTERM)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["flower-dfl", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            app.main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    yield call
    signal.signal(signal.SIGTERM, handler)
