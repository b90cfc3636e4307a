"""Curves over the rounds: few lines and bands, whatever the number of nodes."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flower_dfl.report.reading import NodeRound, Run
from flower_dfl.report.words import SPACE
from flower_dfl.types import NodeId

__all__ = ["MAX_ROUNDS", "Chart", "Line", "NodeCurves", "charts_of", "nodes_on_demand", "spread_out"]

MAX_ROUNDS = 600
"""More rounds than this are thinned out: no screen shows them all."""

_MAX_NODE_CURVES = 150
_MAX_NODE_VALUES = 60_000
_WORST = 20
_NO_VALUE = 65_535

Unit = Literal["share", "number", "count", "bytes"]


@dataclass(frozen=True, slots=True)
class Line:
    """One curve.

    Attributes:
        name: What is written beside it.
        kind: How it looks: the class of the style sheet.
        values: One for each round of the chart, None where there is none.
    """

    name: str
    kind: str
    values: list[float | None]


@dataclass(frozen=True, slots=True)
class NodeCurves:
    """Curves of single nodes, to be shown on demand.

    Attributes:
        nodes: Which nodes, ascending.
        packed: Base64 of little-endian 16-bit numbers (nodes, rounds): the share times 65,534; 65,535 is no value.
    """

    nodes: list[NodeId]
    packed: str


@dataclass(frozen=True, slots=True)
class Chart:
    """One picture of curves.

    Attributes:
        id: Its place on the page.
        title: What it shows.
        note: How to read it.
        unit: What the vertical axis measures; a share runs from 0 to 1.
        lines: Curves.
        bands: Areas between two curves, given by their values.
        nodes: Curves of single nodes.
    """

    id: str
    title: str
    note: str
    unit: Unit
    lines: list[Line]
    bands: list[tuple[list[float | None], list[float | None]]]
    nodes: NodeCurves | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what the page's script reads."""
        return asdict(self)


def spread_out(rounds: Sequence[int], most: int) -> list[int]:
    """Choose at most so many rounds, evenly, the first and the last among them.

    >>> spread_out([1, 2, 3, 4, 5, 6, 7], 3)
    [1, 4, 7]
    """
    if len(rounds) <= most:
        return list(rounds)
    return [rounds[index] for index in np.linspace(0, len(rounds) - 1, max(most, 2)).round().astype(int)]


def nodes_on_demand(run: Run) -> list[NodeId]:
    """Return the honest nodes that get a curve of their own: all of them, or those that ended worst."""
    honest = [node for node in range(len(run.nodes)) if node not in run.byzantine]
    if len(honest) <= _MAX_NODE_CURVES and len(honest) * min(len(run.rounds), MAX_ROUNDS) <= _MAX_NODE_VALUES:
        return honest
    evaluated = [entry.accuracy for entry in run.rounds.values() if entry.summary.accuracy_mean is not None]
    if not evaluated:
        return []
    last = np.nan_to_num(evaluated[-1][honest], nan=np.inf)
    return sorted(honest[index] for index in np.argsort(last, kind="stable")[:_WORST])


def charts_of(run: Run, rounds: Sequence[int]) -> list[Chart]:
    """Make the charts for these rounds; a chart without a single value is left out."""
    entries = [run.rounds[number] for number in rounds]
    charts = [_accuracy(run, entries), *_attack(run, entries), _detection(run, rounds), *_others(run, entries, rounds)]
    return [chart for chart in charts if any(value is not None for line in chart.lines for value in line.values)]


def _accuracy(run: Run, entries: Sequence[NodeRound]) -> Chart:
    summaries = [entry.summary for entry in entries]
    bands, said = _bands(run, [entry.accuracy for entry in entries])
    return Chart(
        id="accuracy",
        title="Accuracy of honest nodes",
        note=f"On held-out test data. {said}",
        unit="share",
        lines=[
            Line("mean", "honest", [summary.accuracy_mean for summary in summaries]),
            Line("worst", "honest dashed", [summary.accuracy_min for summary in summaries]),
        ],
        bands=bands,
        nodes=_curves(run, [entry.accuracy for entry in entries]),
    )


def _attack(run: Run, entries: Sequence[NodeRound]) -> list[Chart]:
    summaries = [entry.summary for entry in entries]
    bands, said = _bands(run, [entry.attack_success_rate for entry in entries])
    return [
        Chart(
            id="attack-success",
            title="Attack success rate (ASR)",
            note=f"Share of stamped test images that honest nodes give the attacker's label. {said}",
            unit="share",
            lines=[
                Line("mean", "byzantine", [summary.attack_success_rate_mean for summary in summaries]),
                Line("largest", "byzantine dashed", [summary.attack_success_rate_max for summary in summaries]),
            ],
            bands=bands,
            nodes=_curves(run, [entry.attack_success_rate for entry in entries]),
        )
    ]


def _detection(run: Run, rounds: Sequence[int]) -> Chart:
    decisions = [run.frames[number].decisions if number in run.frames else None for number in rounds]
    false_alarm = Line("honest rejected", "honest dotted", [each.false_alarm if each else None for each in decisions])
    if not run.is_attacked:
        return Chart(
            id="detection",
            title="Honest neighbours rejected",
            note="Share of the messages between honest nodes that got weight 0. Nobody attacks here, so precision and "
            "recall of detection mean nothing.",
            unit="share",
            lines=[false_alarm],
            bands=[],
        )
    return Chart(
        id="detection",
        title="Detection of Byzantine neighbours",
        note="Over messages to honest nodes; weight 0 counts as detected. Precision: share of the rejected that are "
        "Byzantine. Recall: share of the Byzantine that are rejected.",
        unit="share",
        lines=[
            Line("recall", "byzantine", [each.recall if each else None for each in decisions]),
            Line("precision", "plain", [each.precision if each else None for each in decisions]),
            false_alarm,
        ],
        bands=[],
    )


def _others(run: Run, entries: Sequence[NodeRound], rounds: Sequence[int]) -> list[Chart]:
    frames = [run.frames.get(number) for number in rounds]
    reasons = sorted({reason for entry in entries for reason in entry.missing})
    lost = [
        Line("by ingress", "plain", [frame.decisions.dropped if frame else None for frame in frames]),
        *(Line(reason, "plain dashed", [_count(e.missing, reason) for e in entries]) for reason in reasons),
    ]
    charts = [
        Chart(
            id="consensus",
            title="Consensus distance",
            note="Root mean square distance of the honest models from their mean.",
            unit="number",
            lines=[Line("honest nodes", "honest", [entry.summary.consensus_distance for entry in entries])],
            bands=[],
        ),
        Chart(
            id="bytes",
            title="Bytes received",
            note="By all nodes together, in each round.",
            unit="bytes",
            lines=[Line("all nodes", "plain", [entry.bytes_received for entry in entries])],
            bands=[],
        ),
    ]
    if any(value for line in lost for value in line.values):
        charts.append(
            Chart(
                id="lost",
                title="Messages that did not count",
                note="Sent to honest nodes: malformed ones that ingress dropped, and those that never came, by reason.",
                unit="count",
                lines=lost,
                bands=[],
            )
        )
    return charts


def _count(missing: Mapping[str, int], reason: str) -> float:
    return missing.get(reason, 0)


def _bands(
    run: Run, values: Sequence[NDArray[np.float32]]
) -> tuple[list[tuple[list[float | None], list[float | None]]], str]:
    """Return areas that hold all, 90 % and half of the honest nodes, as far as there are enough of them."""
    honest = [node for node in range(len(run.nodes)) if node not in run.byzantine]
    if not honest or not values:
        return [], ""
    table = np.stack([value[honest] for value in values])
    pairs, said = [(0.0, 1.0)], "The area holds all honest nodes."
    if len(honest) >= 20:
        pairs, said = [(0.05, 0.95), (0.25, 0.75)], f"The areas hold 90{SPACE}% and 50{SPACE}% of the honest nodes."
    return [(_quantile(table, low), _quantile(table, high)) for low, high in pairs], said


def _quantile(table: NDArray[np.float32], share: float) -> list[float | None]:
    rows = (row[~np.isnan(row)] for row in table)
    return [_rounded(float(np.quantile(row, share))) if len(row) else None for row in rows]


def _curves(run: Run, values: Sequence[NDArray[np.float32]]) -> NodeCurves | None:
    nodes = nodes_on_demand(run)
    if not nodes or not values:
        return None
    table = np.stack([value[nodes] for value in values]).T
    packed = np.where(np.isnan(table), _NO_VALUE, np.round(np.nan_to_num(table) * (_NO_VALUE - 1))).astype("<u2")
    return NodeCurves(nodes, base64.b64encode(packed.tobytes()).decode())


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
