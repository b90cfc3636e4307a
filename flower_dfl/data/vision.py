"""The full image sets: MNIST, Fashion-MNIST and CIFAR-10, read from a data root or downloaded into it."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torchvision.datasets

from flower_dfl.data import cifar10_binary
from flower_dfl.data.files import data_root
from flower_dfl.data.images import CIFAR10_SCALE, FASHION_MNIST_SCALE, MNIST_SCALE, standardise
from flower_dfl.errors import DataError
from flower_dfl.locks import lock
from flower_dfl.types import LabelledData

__all__ = ["IDX_FILES", "cifar10", "fashion_mnist", "mnist"]

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
"""The files of MNIST and Fashion-MNIST, in ``ROOT/MNIST/raw`` and ``ROOT/FashionMNIST/raw``."""

_DOWNLOAD_TIMEOUT = 30.0  # seconds without an answer; an unreachable mirror should not look like a hang

_LOCK_TIMEOUT = 600.0  # seconds that another process may take to download

_REMEDY = (
    "create it to allow a download into it, or convert local copies with `flower-dfl data prepare SOURCE --root ROOT`"
)


def mnist(root: str) -> tuple[LabelledData, LabelledData]:
    """MNIST: 60,000 and 10,000 handwritten digits, 1x28x28.

    Args:
        root: Data root; empty is described in :mod:`flower_dfl.data.files`.

    Returns:
        Training and test data.

    Raises:
        DataError: The files are missing or malformed and could not be downloaded.

    References:
        LeCun, Bottou, Bengio, Haffner, *Gradient-based learning applied to document recognition*, 1998.
    """
    return _idx_set(torchvision.datasets.MNIST, "MNIST", root, MNIST_SCALE)


def fashion_mnist(root: str) -> tuple[LabelledData, LabelledData]:
    """Fashion-MNIST: 60,000 and 10,000 pictures of clothes, 1x28x28.

    Args:
        root: Data root; empty is described in :mod:`flower_dfl.data.files`.

    Returns:
        Training and test data.

    Raises:
        DataError: The files are missing or malformed and could not be downloaded.

    References:
        Xiao, Rasul, Vollgraf, *Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms*,
        2017. https://arxiv.org/abs/1708.07747
    """
    return _idx_set(torchvision.datasets.FashionMNIST, "FashionMNIST", root, FASHION_MNIST_SCALE)


def cifar10(root: str) -> tuple[LabelledData, LabelledData]:
    """CIFAR-10: 50,000 and 10,000 photographs of ten kinds of things, 3x32x32.

    The binary layout ``ROOT/cifar-10-batches-bin`` is read if it is there, otherwise torchvision's
    ``ROOT/cifar-10-batches-py``, whose checksums torchvision verifies before it unpickles anything.

    Args:
        root: Data root; empty is described in :mod:`flower_dfl.data.files`.

    Returns:
        Training and test data.

    Raises:
        DataError: The files are missing or malformed and could not be downloaded.

    References:
        Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009.
    """
    folder = data_root(root, _REMEDY)
    binary = folder / cifar10_binary.FOLDER
    if binary.is_dir():
        return _cifar10_part(binary, cifar10_binary.TRAIN_FILES), _cifar10_part(binary, cifar10_binary.TEST_FILES)
    train, test = _torchvision_pair(torchvision.datasets.CIFAR10, folder, binary, cifar10_binary.FILES)
    return _cifar10_pickled(train), _cifar10_pickled(test)


def _idx_set(
    dataset: Callable[..., Any], name: str, root: str, scale: tuple[float, float]
) -> tuple[LabelledData, LabelledData]:
    folder = data_root(root, _REMEDY)
    train, test = (
        standardise(part.data.numpy(), part.targets.numpy(), *scale, num_classes=10)
        for part in _torchvision_pair(dataset, folder, folder / name / "raw", IDX_FILES)
    )
    return train, test


def _cifar10_part(folder: Path, names: tuple[str, ...]) -> LabelledData:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DataError(f"expected {', '.join(names)} in {folder}, missing: {', '.join(missing)}")
    batches = [cifar10_binary.parse((folder / name).read_bytes(), str(folder / name)) for name in names]
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    return standardise(pixels, labels, *CIFAR10_SCALE, num_classes=10)


def _cifar10_pickled(part: Any) -> LabelledData:  # noqa: ANN401 - torchvision ships no types
    pixels = part.data.transpose(0, 3, 1, 2)  # (n, h, w, c) -> (n, c, h, w)
    return standardise(pixels, np.asarray(part.targets), *CIFAR10_SCALE, num_classes=10)


def _torchvision_pair(dataset: Callable[..., Any], root: Path, folder: Path, files: tuple[str, ...]) -> tuple[Any, Any]:
    """Return torchvision's training and test part; what is not there yet is downloaded, by one process at a time."""

    def parts(*, download: bool) -> tuple[Any, Any]:
        return dataset(root, train=True, download=download), dataset(root, train=False, download=download)

    try:
        with _locked(root, shared=True), suppress(Exception):  # readers do not wait for one another
            return parts(download=False)
        with _locked(root, shared=False), _socket_timeout(_DOWNLOAD_TIMEOUT):
            return parts(download=True)
    except Exception as error:  # torchvision raises anything from AssertionError to URLError
        raise DataError(
            f"expected {', '.join(files)} in {folder}; reading and downloading them failed: {error}. "
            f"`flower-dfl data prepare SOURCE --root {root}` converts local copies"
        ) from error


@contextmanager
def _locked(root: Path, *, shared: bool) -> Iterator[None]:
    """Hold the lock of a data root while reading (shared) or downloading: torchvision would truncate what others write.

    A root that cannot be written to is not locked, nor is one whose file system knows no locks.
    """
    with ExitStack() as held:
        with suppress(OSError):
            file = held.enter_context((root / ".download.lock").open("a+"))
            if not lock(file, _LOCK_TIMEOUT, shared=shared):
                raise DataError(f"another process has been downloading for {_LOCK_TIMEOUT:.0f} s into {root}")
        yield


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Bound every connection of the block: torchvision's download takes no time-out of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
