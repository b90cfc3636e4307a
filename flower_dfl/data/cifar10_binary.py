"""CIFAR-10's official binary layout: records of one label byte and 3,072 pixels, red, green, blue plane by plane."""

from typing import Any

import numpy as np
import numpy.typing as npt

from flower_dfl.errors import DataError

__all__ = ["FILES", "FOLDER", "TEST_FILES", "TRAIN_FILES", "pack", "parse"]

FOLDER = "cifar-10-batches-bin"
TRAIN_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST_FILES = ("test_batch.bin",)
FILES = TRAIN_FILES + TEST_FILES

_RECORD = 1 + 3 * 32 * 32


def parse(content: bytes, name: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return pixels uint8 ``(n, 3, 32, 32)`` and labels uint8 ``(n,)``.

    Args:
        content: A whole file.
        name: How the file is called in an error.

    Raises:
        DataError: It is not a whole number of records with labels 0..9.
    """
    if not content or len(content) % _RECORD:
        raise DataError(f"{name}: expected records of {_RECORD} bytes, got {len(content)} bytes")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, _RECORD)  # (n, 3073)
    labels = records[:, 0]
    if labels.max() > 9:
        raise DataError(f"{name}: expected labels 0..9, got {labels.max()}")
    return records[:, 1:].reshape(-1, 3, 32, 32), labels


def pack(pixels: npt.NDArray[Any], labels: npt.NDArray[Any]) -> bytes:
    """Return the records of pixels uint8 ``(n, 3, 32, 32)`` and labels uint8 ``(n,)``; the inverse of :func:`parse`."""
    return np.concatenate([labels[:, None], pixels.reshape(len(pixels), -1)], axis=1).tobytes()
