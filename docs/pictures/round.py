"""Draw the way of one model through a round: ``python docs/pictures/round.py`` writes ``round.svg``."""

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

LANES = ("ServerApp\n(the clock)", "node i\n(a worker's step)", "transport", "node j\n(a worker's step)", "run folder")
INK, PALE, MODEL, CONTROL = "#1b1b1b", "#eef1f5", "#0072b2", "#8a8f98"

# from lane, to lane, height, text, what moves
ARROWS = (
    (0, 1, 1.0, "message t", CONTROL),
    (2, 1, 2.0, "recall: model and rule state of round t-1", MODEL),
    (2, 1, 3.0, "collect: half-steps of round t-1", MODEL),
    (1, 2, 7.0, "commit: model, state, half-step of round t", MODEL),
    (1, 0, 8.0, "report: accuracy, weights, scores", CONTROL),
    (0, 4, 9.0, "rounds.jsonl, edges.jsonl, summary.json", CONTROL),
    (0, 3, 10.4, "message t + 1", CONTROL),
    (2, 3, 11.4, "collect: half-steps of round t, node i's among them", MODEL),
)
STEPS = (
    (1, 4.0, "screen and aggregate round t-1"),
    (1, 5.0, "evaluate"),
    (1, 6.0, "train round t, attack if Byzantine"),
    (3, 12.4, "screen and aggregate round t"),
)
CAPTION = (
    "local: transport is a dictionary      flower + mailbox: Ray's object store, no copies      "
    "flower + relay: Flower's messages"
)


def main() -> None:
    """Write the drawing beside this file."""
    mpl.rcParams |= {"svg.hashsalt": "round", "svg.fonttype": "none", "font.family": "sans-serif"}
    figure, axes = plt.subplots(figsize=(11, 7.4))
    for lane, title in enumerate(LANES):
        axes.plot([lane, lane], [0.5, 13], color=PALE, linewidth=26, solid_capstyle="round", zorder=0)
        axes.text(lane, 0.0, title, ha="center", va="bottom", fontsize=11, color=INK, weight="bold")
    for start, end, height, text, colour in ARROWS:
        style = {"arrowstyle": "-|>", "color": colour, "linewidth": 2.6 if colour == MODEL else 1.2}
        axes.annotate("", (end, height), (start, height), arrowprops=style | {"shrinkA": 0, "shrinkB": 0})
        axes.text((start + end) / 2, height - 0.12, text, ha="center", va="bottom", fontsize=8.5, color=INK)
    for lane, height, text in STEPS:
        box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": INK, "linewidth": 0.8}
        axes.text(lane, height, text, ha="center", va="center", fontsize=9, color=INK, bbox=box)
    axes.text(2, 13.7, CAPTION, ha="center", fontsize=9, color=INK)
    axes.plot([], [], color=MODEL, linewidth=2.6, label="a model moves")
    axes.plot([], [], color=CONTROL, linewidth=1.2, label="numbers and words move")
    axes.legend(loc="center right", frameon=False, fontsize=9, bbox_to_anchor=(1.02, 0.55))
    axes.set(xlim=(-0.6, 4.6), ylim=(14, -0.9))
    axes.axis("off")
    path = Path(__file__).with_suffix(".svg")
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    print(path)  # noqa: T201


if __name__ == "__main__":
    main()
