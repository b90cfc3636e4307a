import fcntl
import socket
import threading

import numpy as np
import pytest
import torch

from flower_dfl.data import vision
from flower_dfl.data.images import CIFAR10_SCALE, FASHION_MNIST_SCALE, MNIST_SCALE
from flower_dfl.data.vision import cifar10, fashion_mnist, mnist
from flower_dfl.errors import DataError
from flower_dfl.locks import lock

pytestmark = pytest.mark.usefixtures("no_cache")


@pytest.mark.parametrize(("load", "scale"), [(mnist, MNIST_SCALE), (fashion_mnist, FASHION_MNIST_SCALE)])
def test_idx_files_are_read_and_standardised(load, scale, tmp_path, idx_contents, write_files):
    write_files(tmp_path / ("MNIST" if load is mnist else "FashionMNIST") / "raw", idx_contents)

    train, test = load(str(tmp_path))

    mean, std = scale
    assert train.inputs.shape == (5, 1, 28, 28)
    assert test.inputs.shape == (2, 1, 28, 28)
    assert train.labels.tolist() == [0, 1, 2, 3, 4]
    assert train.inputs[:, 0, 3, 7].tolist() == pytest.approx([(k / 255 - mean) / std for k in range(5)])
    assert train.input_range == pytest.approx(((0 - mean) / std, (1 - mean) / std))
    assert train.num_classes == 10  # of the set, not of the few labels in these files


def test_cifar10s_binary_records_are_a_label_and_three_planes(tmp_path, cifar10_contents, write_files):
    write_files(tmp_path / "cifar-10-batches-bin", cifar10_contents)

    train, test = cifar10(str(tmp_path))

    mean, std = CIFAR10_SCALE
    assert train.inputs.shape == (30, 3, 32, 32)
    assert test.inputs.shape == (6, 3, 32, 32)
    assert train.labels.tolist() == [0, 1, 2, 3, 4, 5] * 5
    # record 2 of batch 3, green plane (1024..2047 after the label), row 4, column 9
    byte = cifar10_contents["data_batch_3.bin"][2 * 3073 + 1 + 1024 + 4 * 32 + 9]
    assert train.inputs[2 * 6 + 2, 1, 4, 9].item() == pytest.approx((byte / 255 - mean) / std, rel=1e-5)


def test_cifar10s_pickled_layout_gives_the_same_as_the_binary_one(tmp_path, cifar10_contents, write_files, monkeypatch):
    write_files(tmp_path / "a" / "cifar-10-batches-bin", cifar10_contents)
    (tmp_path / "b").mkdir()
    train, test = cifar10(str(tmp_path / "a"))

    class Pickled:
        """Images (n, h, w, c) and a list of labels, as torchvision's class has them."""

        def __init__(self, root, train, download):
            names = [f"data_batch_{i}.bin" for i in range(1, 6)] if train else ["test_batch.bin"]
            records = np.frombuffer(b"".join(cifar10_contents[name] for name in names), np.uint8).reshape(-1, 3073)
            self.data = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            self.targets = records[:, 0].tolist()

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Pickled)
    pickled_train, pickled_test = cifar10(str(tmp_path / "b"))

    assert torch.equal(pickled_train.inputs, train.inputs)
    assert torch.equal(pickled_test.inputs, test.inputs)
    assert torch.equal(pickled_train.labels, train.labels)


@pytest.mark.parametrize("load", [mnist, fashion_mnist, cifar10])
def test_a_named_root_that_does_not_exist_fails_at_once(load, tmp_path, monkeypatch):
    monkeypatch.setattr("flower_dfl.data.vision._torchvision_pair", lambda *_: pytest.fail("tried a download"))

    with pytest.raises(
        DataError, match=r"data root .*nowhere, named by data.root, is not a folder; create it to allow"
    ):
        load(str(tmp_path / "nowhere"))


def test_the_environment_names_the_root_unless_the_caller_does(tmp_path, idx_contents, write_files, monkeypatch):
    write_files(tmp_path / "env" / "MNIST" / "raw", idx_contents)
    monkeypatch.setenv("FLOWER_DFL_DATA", str(tmp_path / "env"))

    train, _ = mnist("")

    assert len(train) == 5
    with pytest.raises(DataError, match=r"named by data\.root"):
        mnist(str(tmp_path / "other"))
    monkeypatch.setenv("FLOWER_DFL_DATA", str(tmp_path / "misspelt"))
    with pytest.raises(DataError, match="misspelt, named by the environment variable FLOWER_DFL_DATA"):
        mnist("")


def test_without_any_name_the_users_cache_folder_is_the_root(no_cache, idx_contents, write_files):
    write_files(no_cache / ".cache" / "flower-dfl" / "data" / "MNIST" / "raw", idx_contents)

    train, _ = mnist("")

    assert len(train) == 5


@pytest.mark.parametrize(("load", "folder"), [(mnist, "MNIST/raw"), (cifar10, "cifar-10-batches-bin")])
def test_a_failed_download_names_the_files_the_folder_and_the_way_out(load, folder, tmp_path):
    with pytest.raises(DataError) as caught:
        load(str(tmp_path))

    message = str(caught.value)
    assert str(tmp_path / folder) in message
    assert ("train-images-idx3-ubyte" if load is mnist else "data_batch_1.bin") in message
    assert "no network here" in message or "Error downloading" in message
    assert f"`flower-dfl data prepare SOURCE --root {tmp_path}`" in message


def test_a_download_is_bounded_and_leaves_the_socket_timeout_as_it_was(tmp_path, monkeypatch):
    timeouts = [7.0]
    monkeypatch.setattr(socket, "getdefaulttimeout", lambda: timeouts[-1])
    monkeypatch.setattr(socket, "setdefaulttimeout", timeouts.append)

    with pytest.raises(DataError):
        mnist(str(tmp_path))

    assert timeouts == [7.0, 30.0, 7.0]


def test_nobody_reads_or_downloads_while_another_process_downloads(tmp_path, monkeypatch, idx_contents, write_files):
    folder = tmp_path / "MNIST" / "raw"
    done = []

    def finish(file):
        write_files(folder, idx_contents)
        done.append(True)
        fcntl.flock(file, fcntl.LOCK_UN)

    with (tmp_path / ".download.lock").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        threading.Timer(0.5, finish, [file]).start()
        train, _ = mnist(str(tmp_path))

    assert (len(train), done) == (5, [True])

    with (tmp_path / ".download.lock").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert len(mnist(str(tmp_path))[0]) == 5  # readers do not wait for one another

        fcntl.flock(file, fcntl.LOCK_EX)
        monkeypatch.setattr("flower_dfl.data.vision._LOCK_TIMEOUT", 0.0)
        with pytest.raises(DataError, match=r"another process has been downloading for 0 s into "):
            mnist(str(tmp_path))


def test_nobody_reads_what_this_process_downloads(tmp_path):
    excluded = []

    def dataset(root, *, train, download):
        if not download:
            raise RuntimeError("nothing is there")
        with (root / ".download.lock").open("a+") as file:
            excluded.append(not lock(file, 0.0, shared=True))
        return train

    assert vision._torchvision_pair(dataset, tmp_path, tmp_path, ("images",)) == (True, False)
    assert excluded == [True, True]


def test_a_root_that_cannot_be_locked_is_read(tmp_path, idx_contents, write_files):
    write_files(tmp_path / "MNIST" / "raw", idx_contents)
    (tmp_path / ".download.lock").mkdir()  # cannot be opened

    assert len(mnist(str(tmp_path))[0]) == 5


def test_a_damaged_idx_file_is_a_data_error(tmp_path, idx_contents, write_files):
    idx_contents["train-images-idx3-ubyte"] = idx_contents["train-images-idx3-ubyte"][:-1]
    write_files(tmp_path / "MNIST" / "raw", idx_contents)

    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        mnist(str(tmp_path))


def test_a_missing_or_damaged_cifar10_batch_is_named(tmp_path, cifar10_contents, write_files):
    folder = tmp_path / "cifar-10-batches-bin"
    write_files(folder, cifar10_contents)
    (folder / "data_batch_4.bin").write_bytes(cifar10_contents["data_batch_4.bin"][:-1])

    with pytest.raises(DataError, match=r"data_batch_4\.bin: expected records of 3073 bytes, got 18437 bytes"):
        cifar10(str(tmp_path))
    (folder / "data_batch_4.bin").write_bytes(b"\x0a" + cifar10_contents["data_batch_4.bin"][1:])
    with pytest.raises(DataError, match=r"data_batch_4\.bin: expected labels 0\.\.9, got 10"):
        cifar10(str(tmp_path))
    (folder / "data_batch_4.bin").unlink()
    with pytest.raises(DataError, match=r"missing: data_batch_4\.bin"):
        cifar10(str(tmp_path))


@pytest.mark.data
@pytest.mark.parametrize(
    ("load", "num_train", "shape"),
    [(mnist, 60_000, (1, 28, 28)), (fashion_mnist, 60_000, (1, 28, 28)), (cifar10, 50_000, (3, 32, 32))],
)
def test_the_full_set_is_complete_and_standardised(load, num_train, shape, full_data_root):
    train, test = load(full_data_root)

    assert train.inputs.shape == (num_train, *shape)
    assert test.inputs.shape == (10_000, *shape)
    assert train.labels.unique().tolist() == list(range(10))
    assert train.inputs.double().mean().item() == pytest.approx(0, abs=1e-3)
    assert train.inputs.double().std().item() == pytest.approx(1, abs=1e-3)
    assert (train.inputs.min().item(), train.inputs.max().item()) == train.input_range
