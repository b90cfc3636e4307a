"""Pictures for the report: the attack's trigger, and DFL-Dual's dummy data beside real images.

They are optional: where something is not there, the :class:`~flower_dfl.errors.DflError` says what, for the reader.
"""

import base64
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from flower_dfl.attacks.triggers import example
from flower_dfl.config import RunConfig, load_toml, parse
from flower_dfl.data.loading import load, partition
from flower_dfl.data.vision import IDX_FILES
from flower_dfl.errors import DataError, DflError
from flower_dfl.experiment import build_rules
from flower_dfl.report.reading import Run
from flower_dfl.report.series import spread_out
from flower_dfl.types import LabelledData, NodeId

__all__ = ["Dummies", "DummyRow", "TriggerPicture", "draw_dummies", "draw_trigger"]

_EXAMPLES = 8
_NODES_A_SIDE = 4
_MAX_BYTES = 400_000
_CACHE = "~/.cache/flower-dfl/data"


@dataclass(frozen=True, slots=True)
class TriggerPicture:
    """Rows of images without and with the trigger, as data URIs.

    Attributes:
        target: Label that the backdoor leads to.
        count: Images in a row.
        clean: The row without.
        stamped: The row with it.
    """

    target: int
    count: int
    clean: str
    stamped: str


@dataclass(frozen=True, slots=True)
class DummyRow:
    """One node's images, each a row of all classes, as data URIs.

    Attributes:
        node: The node.
        byzantine: Its side.
        real: First image of each class in its own training data; black where it has none.
        dummies: First dummy image of each class, by round.
    """

    node: NodeId
    byzantine: bool
    real: str
    dummies: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Dummies:
    """What DFL-Dual's inversion made of the messages.

    Attributes:
        num_classes: Images in a row.
        rounds: Which rounds are shown.
        num_recorded: How many rounds were recorded.
        rows: Which nodes are shown.
    """

    num_classes: int
    rounds: list[int]
    num_recorded: int
    rows: list[DummyRow]


def draw_trigger(run: Run) -> TriggerPicture:
    """Stamp the configured attack's trigger on test images.

    Raises:
        DflError: The attack has no trigger, or the data are not there.
    """
    config = _config(run)
    attack = build_rules(config)[1]
    if attack is None or attack.trigger is None:
        raise DflError(f"the attack {config.attack.name!r} has no trigger")
    test = _images(config)[1]
    clean, stamped = example(attack.trigger, test, _EXAMPLES)
    if len(clean) == 0:
        raise DflError(f"there is no test image of another label than the target, {attack.trigger.target}")
    rows = [_row(images, *test.input_range) for images in (clean, stamped)]
    return TriggerPicture(attack.trigger.target, len(clean), *rows)


def draw_dummies(run: Run) -> Dummies:
    """Draw the recorded dummy data beside real images of the same nodes and classes.

    Raises:
        DflError: None were recorded, or the data are not there.
    """
    files = _digest_files(run.folder)
    if not files:
        raise DflError("no dummy data were recorded (set record-digests = true)")
    config = _config(run)
    train, _ = _images(config)
    shape = (train.num_classes, *train.inputs.shape[1:])
    nodes = _chosen_nodes(run)
    most = _MAX_BYTES // (len(nodes) * torch.Size(shape).numel())
    rounds = spread_out(sorted(files), max(2, most))
    shards = partition(config.data, train.labels, len(run.nodes), config.seed)
    dummies: dict[NodeId, dict[int, str]] = {node: {} for node in nodes}
    for number in rounds:
        recorded = _dummy_sets(files[number], nodes, shape)
        if not recorded:  # none of these nodes took part
            continue
        honest = [images for node, images in recorded.items() if node not in run.byzantine] or list(recorded.values())
        low, high = _contrast(honest)
        for node, images in recorded.items():
            dummies[node][number] = _row(images, low, high)
    rows = [
        DummyRow(node, node in run.byzantine, _row(_first_of_each(train, shards[node]), *train.input_range), found)
        for node, found in dummies.items()
    ]
    return Dummies(train.num_classes, rounds, len(files), rows)


def _config(run: Run) -> RunConfig:
    return parse(load_toml(run.folder / "config.toml"))


def _images(config: RunConfig) -> tuple[LabelledData, LabelledData]:
    """Load the data without ever downloading them.

    Raises:
        DataError: They are not on this machine, or are no images.
    """
    folders = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
    root = Path(config.data.root or os.environ.get("FLOWER_DFL_DATA") or _CACHE).expanduser()
    if config.data.name in folders:
        needed = [root / folders[config.data.name] / "raw" / name for name in IDX_FILES]
    elif config.data.name == "cifar10":
        needed = [] if (root / "cifar-10-batches-py").is_dir() else [root / "cifar-10-batches-bin"]
    else:
        needed = []
    absent = [path for path in needed if not path.exists()]
    if absent:
        raise DataError(f"the data set {config.data.name!r} is not on this machine: there is no {absent[0]}")
    train, test = load(config.data)
    if train.inputs.ndim != 4 or train.inputs.shape[1] not in {1, 3}:
        raise DataError(f"the data set {config.data.name!r} holds no images (c, h, w), but {train.inputs.shape[1:]}")
    return train, test


def _digest_files(folder: Path) -> dict[int, Path]:
    found = ((re.fullmatch(r"round-(\d+)", path.stem), path) for path in folder.glob("digests/round-*.safetensors"))
    return {int(match[1]): path for match, path in found if match}


def _chosen_nodes(run: Run) -> list[NodeId]:
    """Return the first nodes of each side."""
    honest = [node for node in range(len(run.nodes)) if node not in run.byzantine]
    return honest[:_NODES_A_SIDE] + sorted(run.byzantine)[:_NODES_A_SIDE]


def _dummy_sets(path: Path, nodes: Sequence[NodeId], shape: tuple[int, ...]) -> dict[NodeId, Tensor]:
    """Return the first dummy image of each class ``(classes, c, h, w)``, of the nodes that sent a message."""
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            found = {node: file.get_tensor(f"node-{node}") for node in nodes if f"node-{node}" in names}
    except (OSError, SafetensorError) as error:
        raise DflError(f"{path} cannot be read: {error}") from error
    for node, samples in found.items():
        if samples.shape[:1] != shape[:1] or samples.numel() % torch.Size(shape).numel():
            raise DflError(
                f"{path}: expected images {shape[1:]} of {shape[0]} classes from node {node}, "
                f"got {tuple(samples.shape)}"
            )
    return {node: samples.reshape(shape[0], -1, *shape[1:])[:, 0] for node, samples in found.items()}  # (L, S, ...)


def _contrast(images: Sequence[Tensor]) -> tuple[float, float]:
    """Return what is drawn black and white: all but the outermost 2 % of the values."""
    values = torch.cat([each.flatten() for each in images]).double()
    low, high = torch.quantile(values, torch.tensor([0.01, 0.99], dtype=torch.float64)).tolist()
    return low, max(high, low + 1e-12)


def _first_of_each(data: LabelledData, indices: Tensor) -> Tensor:
    """Return the first image of each class ``(classes, c, h, w)``."""
    images = torch.full((data.num_classes, *data.inputs.shape[1:]), data.input_range[0])
    labels = data.labels[indices]
    for label in set(labels.tolist()):
        images[label] = data.inputs[indices[labels == label][0]]
    return images


def _row(images: Tensor, low: float, high: float) -> str:
    """Return images ``(n, c, h, w)`` side by side as a data URI."""
    pixels = ((images - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8)
    wide = pixels.permute(2, 0, 3, 1).flatten(1, 2)  # (h, n * w, c)
    array: Any = wide[..., 0].numpy() if wide.shape[2] == 1 else wide.numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
