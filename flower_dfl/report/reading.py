"""Reading a run folder, line by line: memory grows with rounds times nodes, not with the size of the files."""

import json
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flower_dfl.errors import ConfigurationError, DflError
from flower_dfl.records import RoundSummary, summarise_round
from flower_dfl.report.decisions import TRUSTED, Decisions, code, count
from flower_dfl.types import NodeId

__all__ = [
    "MAX_DRAWN_NODES",
    "Frame",
    "NodeRound",
    "Run",
    "lines_of",
    "read_json",
    "read_rounds",
    "read_run",
    "read_settings",
]

Scores = Mapping[str, float | None]

MAX_DRAWN_NODES = 150
"""Above this a graph is a hairball: nodes are put into groups instead."""

_MAX_DRAWN_EDGES = 4_000
_MAX_SCORES = 60_000
_GROUPS = 48


@dataclass(frozen=True, slots=True, eq=False)
class NodeRound:
    """One round of every node; NaN where there is no value.

    Attributes:
        summary: The round over the honest nodes.
        accuracy: Accuracy ``(n,)``.
        attack_success_rate: Attack success rate ``(n,)``.
        bytes_received: Of all nodes together.
        missing: Messages that honest nodes waited for in vain, by reason.
        down: Nodes that were absent or failed, with the flag that says so.
    """

    summary: RoundSummary
    accuracy: NDArray[np.float32]
    attack_success_rate: NDArray[np.float32]
    bytes_received: int
    missing: Mapping[str, int]
    down: Mapping[NodeId, str]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """Who trusted whom in one round.

    Attributes:
        decisions: Of the honest nodes.
        edges: Rows of receiver, sender, code ``(m, 3)``; None where the graph is too large to draw.
        groups: Otherwise, for groups of receivers (rows) and senders, 1 + the share of messages trusted in steps of
            1/254, or 0 where there were none ``(g, g)``.
    """

    decisions: Decisions
    edges: NDArray[np.uint8] | None
    groups: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What a run folder holds.

    Attributes:
        folder: The folder.
        settings: Every setting with its dotted key.
        summary: ``summary.json``; empty if it is not there.
        environment: ``environment.json``; the same.
        nodes: Facts about the nodes, ascending; only number and side are sure to be known.
        byzantine: The Byzantine nodes.
        rounds: Rounds by number.
        frames: Who trusted whom, by round.
        groups: Number of the group of each node ``(n,)``, honest groups first.
        scores: Weight and what the rule measured, by round, for each of the frame's edges; None where it is too much
            to show.
        flags: How often an honest node's rule remarked something.
    """

    folder: Path
    settings: Mapping[str, Any]
    summary: Mapping[str, Any]
    environment: Mapping[str, Any]
    nodes: tuple[Mapping[str, Any], ...]
    byzantine: frozenset[NodeId]
    rounds: Mapping[int, NodeRound]
    frames: Mapping[int, Frame]
    groups: NDArray[np.int64]
    scores: Mapping[int, Sequence[Scores]] | None
    flags: Mapping[str, int]

    @property
    def is_attacked(self) -> bool:
        """Return whether the Byzantine nodes deviate from the protocol."""
        return bool(self.byzantine) and self.settings.get("attack.name") != "none"


def read_run(folder: Path) -> Run:
    """Read a run folder, whatever of it is there.

    Raises:
        ConfigurationError: It is no run folder.
        DflError: One of its files is malformed.
    """
    if not (folder / "config.toml").is_file():
        raise ConfigurationError(f"expected the folder of a run, with a config.toml, got {folder}")
    try:
        return _read_run(folder)
    except (KeyError, TypeError) as error:
        raise DflError(f"{folder} holds a record that lacks something or has a wrong type: {error!r}") from error


def _read_run(folder: Path) -> Run:
    nodes = _nodes(folder)
    byzantine = frozenset(node["node"] for node in nodes if node["byzantine"])
    flags: Counter[str] = Counter()
    rounds = {entry.summary.round: entry for entry in read_rounds(folder, len(nodes), flags)}
    groups = _groups(len(nodes), byzantine)
    edges = sum(len(node.get("neighbours", ())) for node in nodes)
    is_drawn = len(nodes) <= MAX_DRAWN_NODES and edges <= _MAX_DRAWN_EDGES
    frames, scores = _read_frames(folder, groups, byzantine, is_drawn=is_drawn)
    return Run(
        folder=folder,
        settings=read_settings(folder),
        summary=read_json(folder / "summary.json"),
        environment=read_json(folder / "environment.json"),
        nodes=nodes,
        byzantine=byzantine,
        rounds=dict(sorted(rounds.items())),
        frames=dict(sorted(frames.items())),
        groups=groups,
        scores=scores,
        flags=flags,
    )


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """Read the lines of a record file one after the other; a last line that was cut off is left out.

    Raises:
        DflError: A line is not JSON.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise DflError(f"{path} line {number} is not JSON: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file; an absent one is empty."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
    except ValueError as error:
        raise DflError(f"{path} is not a JSON object: {error}") from error


def read_settings(folder: Path) -> dict[str, Any]:
    """Read the settings of a run by dotted keys, also those that this version does not know."""
    path = folder / "config.toml"
    try:
        return _dotted(tomllib.loads(path.read_text(encoding="utf-8")), "")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DflError(f"{path} is not valid TOML: {error}") from error


def read_rounds(folder: Path, num_nodes: int, flags: Counter[str] | None = None) -> Iterator[NodeRound]:
    """Read ``rounds.jsonl``, one round at a time.

    Args:
        folder: Run folder.
        num_nodes: Number of nodes ``n``.
        flags: Counts what the rules of honest nodes remarked.
    """
    path = folder / "rounds.jsonl"
    for number, group in groupby(lines_of(path), key=itemgetter("round")):
        lines = list(group)
        accuracy, rate = np.full((2, num_nodes), np.nan, dtype=np.float32)
        missing: Counter[str] = Counter()
        down: dict[NodeId, str] = {}
        for line in lines:
            node = _known(line["node"], num_nodes, path, number)
            accuracy[node] = np.nan if line["accuracy"] is None else line["accuracy"]
            rate[node] = np.nan if line["attack_success_rate"] is None else line["attack_success_rate"]
            for flag in _DOWN.intersection(line["flags"]):
                down[node] = flag
            if not line["byzantine"]:
                missing.update(line.get("missing") or {})
                if flags is not None:
                    flags.update(line["flags"])
        received = sum(line["bytes_received"] for line in lines)
        yield NodeRound(summarise_round(lines), accuracy, rate, received, missing, down)


_DOWN = frozenset({"absent", "failed"})


def _read_frames(
    folder: Path, groups: NDArray[np.int64], byzantine: frozenset[NodeId], *, is_drawn: bool
) -> tuple[dict[int, Frame], dict[int, list[Scores]] | None]:
    path = folder / "edges.jsonl"
    frames: dict[int, Frame] = {}
    scores: dict[int, list[Scores]] | None = {} if is_drawn else None
    room = _MAX_SCORES
    for number, lines in groupby(lines_of(path), key=itemgetter("round")):
        rows = []
        measured: list[Scores] = []
        for line in lines:
            receiver = _known(line["receiver"], len(groups), path, number)
            sender = _known(line["sender"], len(groups), path, number)
            rows.append((receiver, sender, code(line)))
            if scores is not None:
                measured.append({"weight": line["weight"], **line["scores"]})
                room -= len(measured[-1])
        frames[number] = _frame(np.array(rows, dtype=np.int64), groups, byzantine, is_drawn=is_drawn)
        if scores is not None:
            scores[number] = measured
        if room < 0:
            scores = None
    return frames, scores


def _frame(
    rows: NDArray[np.int64], groups: NDArray[np.int64], byzantine: frozenset[NodeId], *, is_drawn: bool
) -> Frame:
    receivers, senders, codes = rows.T
    decisions = count(receivers, senders, codes.astype(np.uint8), byzantine)
    if is_drawn:
        return Frame(decisions, rows.astype(np.uint8), None)
    size = int(groups.max()) + 1
    cells = groups[receivers] * size + groups[senders]
    messages = np.bincount(cells, minlength=size * size)
    trusted = np.bincount(cells, weights=codes >= TRUSTED, minlength=size * size)
    shares = np.round(254 * trusted / np.maximum(messages, 1)) + 1
    return Frame(decisions, None, np.where(messages > 0, shares, 0).astype(np.uint8).reshape(size, size))


def _groups(num_nodes: int, byzantine: frozenset[NodeId]) -> NDArray[np.int64]:
    """Put the nodes into at most ``_GROUPS`` groups of one side each, honest ones first, of nearly one size."""
    groups = np.zeros(num_nodes, dtype=np.int64)
    first = 0
    for side in ([node for node in range(num_nodes) if (node in byzantine) == lying] for lying in (False, True)):
        if side:
            wanted = min(len(side), max(1, round((_GROUPS - 1) * len(side) / num_nodes)))
            groups[side] = first + np.arange(len(side)) * wanted // len(side)
            first += wanted
    return groups


def _nodes(folder: Path) -> tuple[Mapping[str, Any], ...]:
    """Return the nodes by ``nodes.json``, or by the records of the first round where a run did not get that far."""
    facts = read_json(folder / "nodes.json").get("nodes")
    if facts is None:
        first = next(groupby(lines_of(folder / "rounds.jsonl"), key=itemgetter("round")), None)
        facts = [] if first is None else list(first[1])
    facts = sorted(facts, key=itemgetter("node"))
    if [fact["node"] for fact in facts] != list(range(len(facts))):
        raise DflError(f"{folder}: expected the nodes 0..{len(facts) - 1}, got {[fact['node'] for fact in facts]}")
    return tuple(facts)


def _known(node: NodeId, num_nodes: int, path: Path, round: int) -> NodeId:
    if not 0 <= node < num_nodes:
        raise DflError(f"{path}: expected a node in 0..{num_nodes - 1}, got {node} in round {round}")
    return node


def _dotted(table: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
