import gzip
import hashlib
import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from flower_dfl.data.prepare import prepare
from flower_dfl.data.vision import IDX_FILES, cifar10, fashion_mnist
from flower_dfl.errors import DataError

pytestmark = pytest.mark.usefixtures("no_cache")


@pytest.fixture
def idx_source(tmp_path, idx_contents, write_files):
    source = tmp_path / "source"
    write_files(source / "FashionMNIST" / "raw", {f"{k}.gz": gzip.compress(v) for k, v in idx_contents.items()})
    return source


@pytest.fixture
def archive(tmp_path, cifar10_contents):
    def write(contents=cifar10_contents, extra=()):
        path = tmp_path / "source" / "cifar-10-binary.tar.gz"
        path.parent.mkdir(exist_ok=True)
        with tarfile.open(path, "w:gz") as tar:
            for name, content in [*((f"cifar-10-batches-bin/{k}", v) for k, v in contents.items()), *extra]:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return path

    return write


@pytest.fixture
def mosaics(tmp_path, cifar10_contents):
    """Each batch as 2 rows of 3 tiles, losslessly, and the digests of its records."""
    folder = tmp_path / "source" / "cifar10-webp"
    folder.mkdir(parents=True)
    listing = []
    for name, content in cifar10_contents.items():
        records = np.frombuffer(content, np.uint8).reshape(6, 3073)
        mosaic = np.zeros((64, 96, 3), np.uint8)
        for k, record in enumerate(records):
            row, column = divmod(k, 3)
            tile = record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
            mosaic[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = tile
        stem = name.removesuffix(".bin")
        Image.fromarray(mosaic).save(folder / f"{stem}.webp", lossless=True)
        (folder / f"{stem}.labels").write_bytes(records[:, 0].tobytes())
        listing.append(f"{hashlib.sha256(content).hexdigest()}  {name}  (remark)")
    (folder / "SHA256-pixels").write_text("\n".join(listing))
    return folder


def written_cifar10(root):
    return {path.name: path.read_bytes() for path in (root / "cifar-10-batches-bin").iterdir()}


@pytest.mark.parametrize("inside", ["", "FashionMNIST", "FashionMNIST/raw"])
def test_idx_files_are_unpacked_and_can_be_read(inside, idx_source, idx_contents, tmp_path):
    root = tmp_path / "new" / "root"

    written = prepare(idx_source / inside, root)

    assert written == [root / "FashionMNIST" / "raw" / name for name in IDX_FILES]
    assert all(path.read_bytes() == idx_contents[path.name] for path in written)
    assert len(fashion_mnist(str(root))[0]) == 5


def test_unpacked_idx_files_are_taken_too_and_source_and_root_may_be_one(tmp_path, idx_contents, write_files):
    write_files(tmp_path / "FashionMNIST", idx_contents)

    prepare(tmp_path, tmp_path)

    assert len(fashion_mnist(str(tmp_path))[0]) == 5


def test_a_second_run_replaces_what_the_first_wrote_and_leaves_nothing_else(idx_source, tmp_path, idx_contents):
    root = tmp_path / "root"
    prepare(idx_source, root)
    (root / "FashionMNIST" / "raw" / IDX_FILES[0]).write_bytes(b"damaged")

    prepare(idx_source, root)

    assert {path.name: path.read_bytes() for path in (root / "FashionMNIST" / "raw").iterdir()} == idx_contents


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c[:-1], r"its header promises 5 x 28 x 28 bytes, it holds 3919"),
        (lambda c: b"\x00\x00\x08\x01" + c[4:], r"begins with 00000803, got '00000801'"),
        (lambda c: c[:10], "begins with 00000803"),
        (lambda c: b"", "got ''"),
        (lambda c: b"\x00\x00\x08\x03" + b"\x00\x00\x00\x04" + c[8 : 16 + 4 * 784], "holds 4 images, .* 5 labels"),
    ],
)
def test_a_damaged_idx_file_is_refused_and_nothing_is_written(damage, message, idx_source, idx_contents, tmp_path):
    packed = idx_source / "FashionMNIST" / "raw" / f"{IDX_FILES[0]}.gz"
    packed.write_bytes(gzip.compress(damage(idx_contents[IDX_FILES[0]])))

    with pytest.raises(DataError, match=message):
        prepare(idx_source, tmp_path / "root")

    assert not (tmp_path / "root").exists()


def test_a_truncated_gz_file_is_refused(idx_source, tmp_path):
    packed = idx_source / "FashionMNIST" / "raw" / f"{IDX_FILES[0]}.gz"
    packed.write_bytes(packed.read_bytes()[:-9])

    with pytest.raises(DataError, match="cannot be unpacked"):
        prepare(idx_source, tmp_path / "root")


def test_an_incomplete_idx_set_is_refused(idx_source, tmp_path):
    (idx_source / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").unlink()

    with pytest.raises(DataError, match=r"expected t10k-labels-idx1-ubyte\.gz in .*FashionMNIST/raw"):
        prepare(idx_source, tmp_path / "root")


@pytest.mark.parametrize("as_file", [True, False])
def test_cifar10s_archive_is_unpacked(as_file, archive, tmp_path, cifar10_contents):
    path = archive()

    written = prepare(path if as_file else path.parent, tmp_path / "root")

    assert [path.name for path in written] == list(cifar10_contents)
    assert written_cifar10(tmp_path / "root") == cifar10_contents
    assert len(cifar10(str(tmp_path / "root"))[0]) == 30


def test_an_archive_cannot_write_anything_but_the_six_batches(archive, tmp_path, cifar10_contents):
    path = archive(extra=[("../escaped.bin", b"x"), ("cifar-10-batches-bin/../../escaped.bin", b"x")])

    prepare(path, tmp_path / "root")

    assert written_cifar10(tmp_path / "root") == cifar10_contents
    assert not list(tmp_path.rglob("escaped.bin"))


def test_a_damaged_or_incomplete_archive_is_refused(archive, tmp_path, cifar10_contents):
    del cifar10_contents["data_batch_2.bin"]
    path = archive(cifar10_contents)

    with pytest.raises(DataError, match=r"expected cifar-10-batches-bin/\{data_batch_2\.bin\} in it"):
        prepare(path, tmp_path / "root")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match="cannot be unpacked"):
        prepare(path, tmp_path / "root")


def test_a_binary_folder_is_copied(tmp_path, cifar10_contents, write_files):
    write_files(tmp_path / "source" / "cifar-10-batches-bin", cifar10_contents)

    prepare(tmp_path / "source", tmp_path / "root")

    assert written_cifar10(tmp_path / "root") == cifar10_contents


def test_an_incomplete_or_damaged_binary_folder_is_refused(tmp_path, cifar10_contents, write_files):
    folder = tmp_path / "cifar-10-batches-bin"
    write_files(folder, cifar10_contents)
    (folder / "test_batch.bin").write_bytes(b"too short")

    with pytest.raises(DataError, match=r"test_batch\.bin: expected records of 3073 bytes, got 9 bytes"):
        prepare(folder, tmp_path / "root")
    (folder / "test_batch.bin").unlink()
    with pytest.raises(DataError, match=r"expected test_batch\.bin in .*: No such file"):
        prepare(folder, tmp_path / "root")


def test_mosaics_become_the_records_they_were_made_of(mosaics, tmp_path, cifar10_contents):
    prepare(mosaics.parent, tmp_path / "root")

    assert written_cifar10(tmp_path / "root") == cifar10_contents


def test_mosaics_that_differ_from_their_digests_are_refused(mosaics, tmp_path):
    (mosaics / "data_batch_5.labels").write_bytes(bytes([1, 1, 2, 3, 4, 5]))

    with pytest.raises(DataError, match=r"data_batch_5\.bin: expected SHA-256 "):
        prepare(mosaics, tmp_path / "root")
    (mosaics / "SHA256-pixels").unlink()
    assert len(prepare(mosaics, tmp_path / "root")) == 6


def test_mosaics_without_a_label_for_each_tile_or_no_image_at_all_are_refused(mosaics, tmp_path):
    (mosaics / "data_batch_5.labels").write_bytes(bytes(5))

    with pytest.raises(DataError, match=r"a label each, got \(64, 96, 3\) and 5 labels"):
        prepare(mosaics, tmp_path / "root")
    (mosaics / "data_batch_1.webp").write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read as an image"):
        prepare(mosaics, tmp_path / "root")


@pytest.mark.parametrize("exists", [True, False])
def test_a_source_without_anything_known_lists_what_is_recognised(exists, tmp_path):
    source = tmp_path / "source"
    if exists:
        source.mkdir()
        (source / "photos.zip").write_bytes(b"")

    with pytest.raises(DataError, match=r"nothing to convert in .*source; recognised are: .*cifar-10-binary\.tar\.gz"):
        prepare(source, tmp_path / "root")


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path, idx_source, monkeypatch):
    root = tmp_path / "root"
    target = prepare(idx_source, root)[0]
    before = target.read_bytes()

    def full_disk(self, _):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        prepare(idx_source, root)

    assert target.read_bytes() == before
    assert sorted(path.name for path in target.parent.iterdir()) == sorted(IDX_FILES)
