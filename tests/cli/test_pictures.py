"""Pictures of triggers."""

import numpy as np
import pytest
import torch
from PIL import Image

from flower_dfl.cli.pictures import draw_triggers
from flower_dfl.errors import ConfigurationError, DflError
from flower_dfl.types import LabelledData


def _black_images() -> LabelledData:
    return LabelledData(torch.zeros(20, 1, 28, 28), torch.arange(20) % 10, 10, (0.0, 1.0))


def test_every_attack_with_a_trigger_gets_a_row_and_its_trigger_is_white_there(tmp_path):
    path = tmp_path / "new" / "triggers.png"

    drawn = draw_triggers(_black_images(), path, {"scaling": {"size": 4}, "label-flip": {}, "backdoor": {"size": 2}})

    assert drawn == ["scaling: label 0", "backdoor: label 0"]
    pixels = np.asarray(Image.open(path).convert("L"))
    rows = [pixels[22 + 106 * row - 3 : 22 + 106 * row - 3 + 84, 6:90] for row in range(3)]  # first tile of each row
    white = [int((row == 255).sum()) for row in rows]
    assert white == [0, (4 * 3) ** 2, (2 * 3) ** 2]  # pixels are drawn three times as large


def test_a_brighter_trigger_looks_brighter(tmp_path):
    values = []
    for value in (0.2, 0.8):
        draw_triggers(_black_images(), tmp_path / "t.png", {"scaling": {"value": value}})
        values.append(int(np.asarray(Image.open(tmp_path / "t.png").convert("L"))[19 + 106 + 83, 6 + 83]))

    assert values == [51, 204]


def test_all_rows_show_the_same_images(tmp_path):
    grey = torch.linspace(0.1, 0.9, 20)[:, None, None, None].expand(-1, 1, 28, 28)  # labels 0, 1, ... 9, 0, ...
    data = LabelledData(grey, torch.arange(20) % 10, 10, (0.0, 1.0))

    draw_triggers(data, tmp_path / "t.png", {"scaling": {"target": 1}, "backdoor": {"target": 2}})

    pixels = np.asarray(Image.open(tmp_path / "t.png").convert("L"))
    clean, *stamped = [[int(pixels[19 + 106 * row, 6 + 90 * place]) for place in range(8)] for row in range(3)]
    assert stamped == [clean, clean]
    assert clean == [int(value * 255 + 0.5) for value in grey[[0, 3, 4, 5, 6, 7, 8, 9], 0, 0, 0].tolist()]


def test_without_an_image_of_another_label_it_is_an_error(tmp_path):
    data = LabelledData(torch.zeros(4, 1, 28, 28), torch.ones(4, dtype=torch.long), 10, (0.0, 1.0))

    with pytest.raises(DflError, match=r"^expected images of other labels than the targets, got labels \[1\]$"):
        draw_triggers(data, tmp_path / "t.png", {"scaling": {"target": 1}})


def test_a_file_that_is_no_picture_or_cannot_be_written_is_a_clear_error(tmp_path):
    with pytest.raises(ConfigurationError, match=r"^a picture ends in \.png, .*, got 'x\.txt'$"):
        draw_triggers(_black_images(), tmp_path / "x.txt", {"scaling": {}})

    (tmp_path / "x.png").mkdir()
    with pytest.raises(DflError, match=r"^cannot write .*x\.png: Is a directory$"):
        draw_triggers(_black_images(), tmp_path / "x.png", {"scaling": {}})
