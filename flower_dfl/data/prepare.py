"""Conversion of local copies into the files that :mod:`flower_dfl.data.vision` reads, without a network."""

import gzip
import hashlib
import math
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flower_dfl.data import cifar10_binary
from flower_dfl.data.vision import IDX_FILES
from flower_dfl.errors import DataError

__all__ = ["RECOGNISED", "prepare"]

RECOGNISED = (
    "MNIST/raw/*-ubyte.gz and FashionMNIST/raw/*-ubyte.gz (or unpacked, or without raw/)",
    "cifar-10-binary.tar.gz",
    "cifar-10-batches-bin/*.bin",
    "cifar10-webp/*.webp with *.labels (lossless mosaics of 32x32 tiles)",
)
"""What a source folder may hold; the source may also be one of these folders, or the archive, itself."""

_ARCHIVE = "cifar-10-binary.tar.gz"
_MOSAICS = "cifar10-webp"


def prepare(source: Path, root: Path) -> list[Path]:
    """Convert every data set found in ``source`` and write it under ``root``.

    A set is checked as a whole before its first file is written, and a file is replaced as a whole, so that an
    interruption leaves no half file behind. ``source`` and ``root`` may be the same folder.

    Args:
        source: Folder with one or more of :data:`RECOGNISED`, or one of these itself.
        root: Data root, made if needed.

    Returns:
        The files written, absolute.

    Raises:
        DataError: Nothing that can be converted was found, or what was found is damaged or incomplete.
    """
    source, root = source.expanduser().absolute(), root.expanduser().absolute()
    written = []
    for files in _conversions(source):
        for relative, content in files.items():
            _replace(root / relative, content)
            written.append(root / relative)
    if not written:
        raise DataError(f"found nothing to convert in {source}; recognised are: {'; '.join(RECOGNISED)}")
    return written


def _conversions(source: Path) -> Iterator[dict[str, bytes]]:
    for name in ("MNIST", "FashionMNIST"):
        folder = _idx_folder(source, name)
        if folder:
            yield {f"{name}/raw/{file}": content for file, content in _read_idx_set(folder).items()}
    for path, read in (
        (_locate(source, _ARCHIVE), _read_archive),
        (_locate(source, cifar10_binary.FOLDER), _read_binary_folder),
        (_locate(source, _MOSAICS), _read_mosaics),
    ):
        if path.exists():
            batches = read(path)
            for name, content in batches.items():
                cifar10_binary.parse(content, f"{path}: {name}")
            yield {f"{cifar10_binary.FOLDER}/{name}": content for name, content in batches.items()}
            return


def _locate(source: Path, name: str) -> Path:
    return source if source.name == name else source / name


def _idx_folder(source: Path, name: str) -> Path | None:
    folders = [source / name / "raw", source / name]
    if name in {source.name, source.parent.name if source.name == "raw" else ""}:
        folders += [source / "raw", source]
    return next((folder for folder in folders if any(folder.glob("*-ubyte*"))), None)


def _read_idx_set(folder: Path) -> dict[str, bytes]:
    contents = {}
    counts = {}
    for name in IDX_FILES:
        contents[name] = _read_idx(folder, name)
        counts[name] = _check_idx(contents[name], folder / name)
    for images, labels in (IDX_FILES[:2], IDX_FILES[2:]):
        if counts[images] != counts[labels]:
            raise DataError(f"{folder}: {images} holds {counts[images]} images, {labels} {counts[labels]} labels")
    return contents


def _read_idx(folder: Path, name: str) -> bytes:
    packed, plain = folder / f"{name}.gz", folder / name
    if packed.is_file():
        try:
            return gzip.decompress(packed.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{packed} cannot be unpacked: {error}") from error
    if plain.is_file():
        return plain.read_bytes()
    raise DataError(f"expected {name}.gz in {folder}, beside the other files of the set")


def _check_idx(content: bytes, path: Path) -> int:
    """Return the number of items of an idx file of unsigned bytes: magic number, sizes, then the bytes."""
    dimensions = 3 if "images" in path.name else 1
    magic = (0x800 + dimensions).to_bytes(4, "big")
    body = content[4 + 4 * dimensions :]
    if content[:4] != magic or not body:
        raise DataError(f"{path}: expected an idx file that begins with {magic.hex()}, got {content[:4].hex()!r}")
    sizes = np.frombuffer(content[4 : 4 + 4 * dimensions], dtype=">u4").tolist()
    if len(body) != math.prod(sizes):
        raise DataError(f"{path}: its header promises {' x '.join(map(str, sizes))} bytes, it holds {len(body)}")
    return int(sizes[0])


def _read_archive(path: Path) -> dict[str, bytes]:
    """Read the six members into memory: no path of the archive ever becomes a path on disk."""
    batches = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                folder, _, name = member.name.removeprefix("./").partition("/")
                if folder == cifar10_binary.FOLDER and name in cifar10_binary.FILES:
                    stream = archive.extractfile(member)
                    batches[name] = stream.read() if stream else b""
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked: {error}") from error
    missing = [name for name in cifar10_binary.FILES if name not in batches]
    if missing:
        raise DataError(f"{path}: expected {cifar10_binary.FOLDER}/{{{','.join(missing)}}} in it")
    return batches


def _read_binary_folder(folder: Path) -> dict[str, bytes]:
    return {name: _read_file(folder / name) for name in cifar10_binary.FILES}


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"expected {path.name} in {path.parent}: {error.strerror}") from error


def _read_mosaics(folder: Path) -> dict[str, bytes]:
    """Convert the mosaics to records; tiles follow each other row by row."""
    batches = {name: _read_mosaic(folder / Path(name).stem) for name in cifar10_binary.FILES}
    listing = folder / "SHA256-pixels"
    if listing.is_file():
        _check_digests(listing, batches)
    return batches


def _read_mosaic(stem: Path) -> bytes:
    mosaic = _read_image(stem.with_suffix(".webp"))  # (32 r, 32 s, 3)
    rows, columns = mosaic.shape[0] // 32, mosaic.shape[1] // 32
    labels = np.frombuffer(_read_file(stem.with_suffix(".labels")), dtype=np.uint8)
    if mosaic.shape != (32 * rows, 32 * columns, 3) or len(labels) != rows * columns:
        raise DataError(f"{stem}: expected 32x32 tiles and a label each, got {mosaic.shape} and {len(labels)} labels")
    tiles = mosaic.reshape(rows, 32, columns, 32, 3).transpose(0, 2, 4, 1, 3)  # (r, s, 3, 32, 32)
    return cifar10_binary.pack(tiles.reshape(-1, 3, 32, 32), labels)


def _read_image(path: Path) -> npt.NDArray[Any]:
    from PIL import Image  # noqa: PLC0415 - only this format needs it

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error


def _check_digests(listing: Path, batches: Mapping[str, bytes]) -> None:
    """Compare with lines ``digest name``; a file that is not listed is not checked."""
    lines = (line.split() for line in listing.read_text().splitlines())
    wanted = {line[1]: line[0] for line in lines if len(line) > 1}
    for name, content in batches.items():
        digest = hashlib.sha256(content).hexdigest()
        if wanted.get(name, digest) != digest:
            raise DataError(f"{name}: expected SHA-256 {wanted[name]} after conversion, got {digest}")


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
