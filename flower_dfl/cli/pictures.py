"""Pictures of backdoor triggers on images."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from flower_dfl import registry
from flower_dfl.errors import ConfigurationError, DataError
from flower_dfl.types import LabelledData
from flower_dfl.writing import storing

__all__ = ["draw_triggers"]

_EXAMPLES = 8
_ZOOM = 3
_GAP = 6
_LABEL = 16
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".pdf")


def draw_triggers(data: LabelledData, path: Path, attacks: dict[str, dict[str, object]]) -> list[str]:
    """Draw one row of stamped images for each attack that has a trigger, below a row of clean ones.

    Args:
        data: Images ``(n, c, h, w)`` with one or three channels.
        path: PNG file to write, or one of another format that Pillow knows.
        attacks: Attacks by name, with their parameters.

    Returns:
        The attacks drawn.

    Raises:
        ConfigurationError: The path's suffix names no such format.
        DflError: The file cannot be written.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigurationError(f"a picture ends in {', '.join(_SUFFIXES)}, got {path.name!r}")
    built = {name: registry.build("attack", name, params).trigger for name, params in attacks.items()}
    found = {name: trigger for name, trigger in built.items() if trigger is not None}
    targets = torch.tensor([trigger.target for trigger in found.values()], dtype=data.labels.dtype)
    clean = data.inputs[~torch.isin(data.labels, targets)][:_EXAMPLES]  # the same in every row
    if len(clean) == 0:
        raise DataError(
            f"expected images of other labels than the targets, got labels {sorted(set(data.labels.tolist()))}"
        )
    stamped = {f"{name}: label {t.target}": t.stamp(clean, data.input_range) for name, t in found.items()}
    rows = {"clean": clean} | stamped
    height, width = (_ZOOM * side for side in data.inputs.shape[2:])
    line = height + _LABEL + _GAP
    sheet = Image.new("RGB", (_EXAMPLES * (width + _GAP) + _GAP, len(rows) * line + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for y, (label, images) in enumerate(rows.items()):
        draw.text((_GAP, y * line + _GAP // 2), label, fill="black")
        for x, image in enumerate(images):
            tile = _tile(image, data.input_range).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(tile, (_GAP + x * (width + _GAP), y * line + _LABEL + _GAP // 2))
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
    return list(rows)[1:]


def _tile(image: Tensor, input_range: tuple[float, float]) -> Image.Image:
    """Return an image ``(c, h, w)`` as pixels."""
    low, high = input_range
    pixels = ((image - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8)
    array = pixels.expand(3, -1, -1) if len(pixels) == 1 else pixels[:3]
    return Image.fromarray(np.ascontiguousarray(array.permute(1, 2, 0).numpy()))
