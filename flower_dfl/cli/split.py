"""How the training data are dealt to the nodes, as text and as a picture."""

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from flower_dfl.cli.display import say
from flower_dfl.config import RunConfig
from flower_dfl.data.loading import load, partition
from flower_dfl.extras import needs_extra
from flower_dfl.network import build_network

__all__ = ["label_counts", "show_split"]

_MOST_ROWS = 60
_MOST_COLUMNS = 20


def show_split(config: RunConfig, picture: Path | None, console: Console) -> None:
    """Print how many samples of which label every node of a configuration has, and draw it if asked to."""
    counts = label_counts(config)
    byzantine = build_network(config).byzantine
    title = f"{config.data.name}, {config.data.partition}"
    totals = counts.sum(dim=1)
    if len(counts) <= _MOST_ROWS and counts.shape[1] <= _MOST_COLUMNS:
        table = Table(title=title)
        for column in ("node", "", "samples", *map(str, range(counts.shape[1]))):
            table.add_column(column, justify="right")
        for node, row in enumerate(counts.tolist()):
            table.add_row(str(node), "Byzantine" if node in byzantine else "", str(int(totals[node])), *map(str, row))
        console.print(table)
    shares = counts / totals[:, None]
    whole = counts.sum(dim=0) / counts.sum()
    distance = (shares - whole).abs().sum(dim=1) / 2
    for line in (
        f"{len(counts)} nodes with {int(totals.min())} to {int(totals.max())} samples",
        f"share of a node's commonest label: {float(shares.max(dim=1).values.mean()):.3f} on average",
        f"distance of a node's labels from those of all (total variation): {float(distance.mean()):.3f} on average",
    ):
        say(console, line)
    if picture is not None:
        with needs_extra("report"):
            from flower_dfl.figures.split import draw_split  # noqa: PLC0415 - imports matplotlib
            from flower_dfl.figures.style import save  # noqa: PLC0415
        path = save(draw_split(counts.numpy(), byzantine, title), picture)
        say(console, str(path))


def label_counts(config: RunConfig) -> Tensor:
    """Return the number of training samples by node and label ``(n, c)``."""
    train = load(config.data)[0]
    parts = partition(config.data, train.labels, config.num_nodes, config.seed)
    return torch.stack([torch.bincount(train.labels[part], minlength=train.num_classes) for part in parts])
