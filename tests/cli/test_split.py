import re

import pytest
import torch

from flower_dfl.cli.split import label_counts
from flower_dfl.config import parse

SPLIT = {"num-nodes": 4, "num-byzantine": 1, "data.num-train": 200, "data.params": "p = 1.0"}
ARGUMENTS = [part for key, value in SPLIT.items() for part in ("--set", f"{key}={value}")]


def test_every_sample_is_counted_once():
    counts = label_counts(parse(SPLIT))

    assert counts.shape == (4, 10)
    assert counts.sum() == 200
    assert torch.all((counts > 0).sum(dim=0) == 1)  # with p = 1, a label is in one group only


def test_every_node_gets_a_line_with_its_side_and_its_labels(command):
    code, output, errors = command("data", "show", *ARGUMENTS)

    assert (code, errors) == (0, "")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if line.startswith("│")]
    expected = label_counts(parse(SPLIT)).tolist()
    assert [list(map(int, row[3:])) for row in rows] == expected
    assert [row[1] for row in rows] == ["", "", "", "Byzantine"]
    assert [int(row[2]) for row in rows] == [sum(row) for row in expected]


def test_the_summary_tells_an_even_split_from_a_skewed_one(command):
    def distance(*extra):
        _, output, _ = command("data", "show", *ARGUMENTS, *extra)
        return float(re.search(r"total variation\): (\S+) on average", output)[1])

    assert distance("--set", "data.partition=iid", "--set", "data.params=") < 0.25
    assert distance() > 0.6  # a node has 2 or 3 of 10 labels


def test_many_nodes_are_summed_up(command):
    _, output, _ = command("data", "show", "--set", "num-nodes=61", "--set", "num-byzantine=0")

    assert "│" not in output
    assert re.search(r"^61 nodes with \d+ to \d+ samples$", output, re.MULTILINE)


def test_the_picture_is_drawn_and_its_path_printed(command, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra flower-dfl[report]")

    code, output, _ = command("data", "show", *ARGUMENTS, "--picture", "split.svg")

    assert code == 0
    assert output.splitlines()[-1] == str(tmp_path / "split.svg")
    assert (tmp_path / "split.svg").read_bytes().startswith(b"<?xml")
