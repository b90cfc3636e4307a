"""How the training data are dealt to the nodes."""

from collections.abc import Collection

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from flower_dfl.figures.style import BYZANTINE, HONEST, house_style

__all__ = ["draw_split"]

_MOST_NUMBERED = 30
_MOST_LABELLED = 60


@house_style()
def draw_split(counts: NDArray[np.int64], byzantine: Collection[int], title: str) -> Figure:
    """Draw the labels of every node: how many samples it has, and which share of them has which label.

    Args:
        counts: Samples by node and label ``(n, c)``.
        byzantine: The Byzantine nodes, hatched.
        title: What the deal is called.
    """
    n, num_classes = counts.shape
    width = min(16.0, max(4.5, 1.8 + 0.36 * n))
    height = max(1.5, 0.24 * min(num_classes, 40))
    figure = Figure(figsize=(width, 2.6 + height))
    samples, shares = figure.subplots(2, 1, sharex=True, height_ratios=(1.3, height))
    totals = counts.sum(axis=1)
    lying = np.isin(np.arange(n), list(byzantine))
    for nodes, label, colour, hatch in (
        (np.flatnonzero(~lying), "honest", HONEST, ""),
        (np.flatnonzero(lying), "Byzantine", BYZANTINE, "////"),
    ):
        if not len(nodes):
            continue
        samples.bar(
            nodes,
            totals[nodes],
            width=0.8 if n <= _MOST_LABELLED else 1.0,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.4 if n <= _MOST_LABELLED else 0.0,
            label=f"{len(nodes)} {label}",
        )
    samples.set_ylabel("samples")
    samples.set_title(title)
    samples.grid(visible=False, axis="x")
    share = counts / totals[:, None]  # (n, c)
    image = shares.imshow(share.T, aspect="auto", origin="lower", cmap="Blues", vmin=0.0, interpolation="nearest")
    shares.grid(visible=False)
    shares.set(xlabel="node", ylabel="label")
    for axis, number in ((shares.xaxis, n), (shares.yaxis, num_classes)):
        if number <= _MOST_LABELLED:
            axis.set_ticks(range(number))
        else:
            axis.set_major_locator(MaxNLocator(integer=True))
    if max(n, num_classes) <= _MOST_NUMBERED:
        for (node, label), value in np.ndenumerate(share):
            if counts[node, label]:
                shares.text(
                    node,
                    label,
                    f"{100 * value:.0f}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if value > 0.55 * share.max() else "black",
                )
    figure.colorbar(image, ax=shares, label="share of its samples", format=PercentFormatter(1.0))
    figure.legend(loc="outside lower center", ncols=2)
    return figure
