"""Triggers and dummy data as pictures."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from flower_dfl.config import DataConfig
from flower_dfl.data.loading import load, partition
from flower_dfl.errors import DataError, DflError
from flower_dfl.report import pictures
from flower_dfl.report.pictures import draw_dummies, draw_trigger
from flower_dfl.report.reading import read_run

from .conftest import four_nodes


def _pixels(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


@pytest.fixture
def digests(make_run):
    """A run with dummy data (L, S, m) of rounds 1 and 3: node i's first ones are i everywhere, in round 3 ten times."""
    folder = make_run(*four_nodes())
    (folder / "digests").mkdir()
    for number in (1, 3):
        tensors = {f"node-{i}": torch.full((10, 2, 784), 77.0) for i in range(4)}
        for i, samples in enumerate(tensors.values()):
            samples[:, 0] = i * (10 if number == 3 else 1)
        save_file(tensors, folder / "digests" / f"round-{number}.safetensors")
    return folder


def test_the_trigger_is_that_of_the_configured_attack(make_run):
    run = read_run(make_run(*four_nodes(), attack__params="size = 5, target = 3"))

    drawn = draw_trigger(run)

    clean, stamped = _pixels(drawn.clean), _pixels(drawn.stamped)
    assert drawn.target == 3
    assert clean.shape == (28, 28 * drawn.count)
    last = stamped[:, -28:]
    assert (last[-5:, -5:] == 255).all()
    np.testing.assert_array_equal(last[:-5], clean[:-5, -28:])


def test_an_attack_without_a_trigger_has_no_picture(make_run):
    with pytest.raises(DflError, match="the attack 'alie' has no trigger"):
        draw_trigger(read_run(make_run(*four_nodes(), attack__name="alie")))


def test_without_an_image_to_stamp_the_page_says_why(make_run, monkeypatch):
    run = read_run(make_run(*four_nodes(), attack__params="target = 3"))
    train, test = load(DataConfig())
    monkeypatch.setattr(pictures, "load", lambda config: (train, test.subset(torch.nonzero(test.labels == 3)[:, 0])))

    with pytest.raises(DflError, match="there is no test image of another label than the target, 3"):
        draw_trigger(run)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_data_that_are_not_there_are_never_downloaded(make_run, tmp_path, name, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was used"))
    run = read_run(make_run(*four_nodes(), data__name=name, data__root=str(tmp_path)))

    with pytest.raises(DataError, match=f"the data set '{name}' is not on this machine: there is no "):
        draw_trigger(run)


def test_dummy_images_stand_beside_real_ones_of_the_same_node_and_class(digests):
    drawn = draw_dummies(read_run(digests))

    train, _ = load(DataConfig())
    shard = partition(DataConfig(), train.labels, 4, 0)[1]
    label = int(train.labels[shard].bincount().argmax())
    first = train.inputs[shard[train.labels[shard] == label][0], 0]
    low, high = train.input_range
    expected = ((first - low) / (high - low) * 255).round().to(torch.uint8).numpy()
    assert [row.node for row in drawn.rows] == [0, 1, 2, 3]
    assert [row.byzantine for row in drawn.rows] == [False, False, True, True]
    np.testing.assert_array_equal(_pixels(drawn.rows[1].real)[:, 28 * label : 28 * (label + 1)], expected)


def test_one_grey_scale_serves_all_nodes_of_a_round(digests):
    drawn = draw_dummies(read_run(digests))

    assert drawn.rounds == [1, 3]
    for number in (1, 3):  # the honest nodes 0 and 1 span the scale; liars lie beyond it
        assert [int(_pixels(row.dummies[number])[0, 0]) for row in drawn.rows] == [0, 255, 255, 255]


def test_a_node_that_sent_nothing_in_a_round_has_no_dummy_image(digests):
    save_file({"node-1": torch.zeros(10, 2, 784)}, digests / "digests" / "round-2.safetensors")

    rows = draw_dummies(read_run(digests)).rows

    assert [sorted(row.dummies) for row in rows] == [[1, 3], [1, 2, 3], [1, 3], [1, 3]]


def test_a_round_in_which_no_chosen_node_took_part_is_empty(digests):
    save_file({"node-7": torch.zeros(10, 2, 784)}, digests / "digests" / "round-2.safetensors")

    assert [sorted(row.dummies) for row in draw_dummies(read_run(digests)).rows] == [[1, 3]] * 4


def test_dummy_data_of_another_shape_are_not_shown(digests):
    save_file({"node-0": torch.zeros(10, 64)}, digests / "digests" / "round-1.safetensors")

    with pytest.raises(DflError, match=r"expected images \(1, 28, 28\) of 10 classes from node 0, got \(10, 64\)"):
        draw_dummies(read_run(digests))


def test_a_broken_file_of_dummy_data_is_named(digests):
    (digests / "digests" / "round-1.safetensors").write_bytes(b"nothing")

    with pytest.raises(DflError, match=r"round-1\.safetensors cannot be read"):
        draw_dummies(read_run(digests))


def test_without_recorded_dummy_data_the_setting_is_named(make_run):
    with pytest.raises(DflError, match="record-digests = true"):
        draw_dummies(read_run(make_run(*four_nodes())))
