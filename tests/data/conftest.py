"""Small files in the layouts of the real data sets, and where the real ones are."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from flower_dfl.data.vision import IDX_FILES

FULL_DATA_ROOT = os.environ.get("FLOWER_DFL_DATA", "")  # read before any test changes it


@pytest.fixture
def full_data_root() -> str:
    if not FULL_DATA_ROOT:
        pytest.skip("needs the full data sets: set FLOWER_DFL_DATA to a folder made by `flower-dfl data prepare`")
    return FULL_DATA_ROOT


@pytest.fixture
def no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Keep the user's data folders and the network out of the test; return the home folder."""
    monkeypatch.delenv("FLOWER_DFL_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def offline(*args, **kwargs):
        raise RuntimeError("no network here")

    for module in ("mnist", "cifar"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", offline)
    return tmp_path / "home"


@pytest.fixture
def idx_contents() -> dict[str, bytes]:
    """Five training and two test images of 28x28: image k is filled with the value k, and has the label k."""
    contents = {}
    for name, count in zip(IDX_FILES, (5, 5, 2, 2), strict=True):
        items = np.arange(count, dtype=np.uint8)
        if "images" in name:
            pixels = np.broadcast_to(items[:, None, None], (count, 28, 28))
            contents[name] = struct.pack(">4I", 2051, count, 28, 28) + pixels.tobytes()
        else:
            contents[name] = struct.pack(">2I", 2049, count) + items.tobytes()
    return contents


@pytest.fixture
def cifar10_contents() -> dict[str, bytes]:
    """Six batches of six records: all bytes differ from batch to batch and place to place, labels 0..5."""
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    contents = {}
    for seed, name in enumerate(names):
        records = np.random.default_rng(seed).integers(0, 256, (6, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(6)
        contents[name] = records.tobytes()
    return contents


@pytest.fixture
def write_files():
    def write(folder: Path, contents: dict[str, bytes]) -> None:
        folder.mkdir(parents=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)

    return write
