"""Files are written as a whole or not at all."""

import errno
import json
import os
from pathlib import Path

import pytest

from flower_dfl.errors import StorageError
from flower_dfl.writing import storing, write_json

OLD, NEW = {"round": 1}, {"round": 2}


def test_a_file_whose_writing_fails_is_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_json(path, OLD)
    whole = Path.write_bytes

    def write_a_part(target, content):
        whole(target, content[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_a_part)
        with pytest.raises(StorageError, match=r"^cannot write .*summary\.json: No space left on device$"):
            write_json(path, NEW)
    assert json.loads(path.read_text(encoding="utf-8")) == OLD

    write_json(path, NEW)
    assert json.loads(path.read_text(encoding="utf-8")) == NEW
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_without_a_reason_of_the_system_is_told_as_it_is(tmp_path):
    path = tmp_path / "sheet.png"

    with pytest.raises(StorageError, match=r"^cannot write .*sheet\.png: encoder error$"), storing(path):
        raise OSError("encoder error")
