"""Who trusted whom, packed for the page: frames of the graph, places of the nodes, groups of a large graph."""

import base64
from collections.abc import Sequence
from typing import Any

import networkx as nx
import numpy as np

from flower_dfl.report.reading import Frame, Run, Scores
from flower_dfl.report.series import spread_out

__all__ = ["trust_of"]

_MAX_BYTES = 400_000
_MAX_ON_A_CIRCLE = 24


def trust_of(run: Run) -> dict[str, Any] | None:
    """Return what the page's script draws as graph and heat map; None if no decision was recorded."""
    if not run.frames:
        return None
    rounds = list(run.frames)
    largest = max(_pixels(frame).nbytes for frame in run.frames.values())
    chosen = spread_out(rounds, max(2, _MAX_BYTES // largest))
    every = len(rounds) == len(chosen)
    return {
        "rounds": chosen,
        "note": "" if every else f"{len(chosen)} of {len(rounds)} rounds are kept in this file.",
        "frames": [base64.b64encode(_pixels(run.frames[number]).tobytes()).decode() for number in chosen],
        "summaries": [_sentence(run.frames[number]) for number in chosen],
    } | (_drawn(run, chosen) if run.frames[chosen[0]].edges is not None else _grouped(run))


def _pixels(frame: Frame) -> np.ndarray[Any, np.dtype[np.uint8]]:
    pixels = frame.groups if frame.edges is None else frame.edges
    assert pixels is not None, "a frame has edges or groups"  # noqa: S101 - the invariant of Frame
    return pixels


def _sentence(frame: Frame) -> str:
    found = frame.decisions
    honest, byzantine = (
        found.trusted_honest + found.rejected_honest,
        found.trusted_byzantine + found.rejected_byzantine,
    )
    parts = [f"honest nodes trusted {found.trusted_honest:,} of {honest:,} messages from honest neighbours"]
    if byzantine:
        parts.append(f"{found.trusted_byzantine:,} of {byzantine:,} from Byzantine ones")
    lost = [f"{count:,} {what}" for count, what in ((found.dropped, "dropped"), (found.missing, "missing")) if count]
    return " and ".join(parts) + (f"; {', '.join(lost)}." if lost else ".")


def _drawn(run: Run, rounds: list[int]) -> dict[str, Any]:
    scores = run.scores
    return {
        "positions": _positions(run),
        "scores": scores and _columns([scores[number] for number in rounds]),
    }


def _columns(frames: Sequence[Sequence[Scores]]) -> dict[str, Any]:
    """Return what was measured as rows of numbers, one for each edge of a frame, under common names."""
    names = list(dict.fromkeys(name for frame in frames for entry in frame for name in entry))
    return {"names": names, "rows": [[[entry.get(name) for name in names] for entry in frame] for frame in frames]}


def _positions(run: Run) -> list[tuple[float, float]]:
    """Place the nodes in the unit square: on a circle if they are few, else neighbours near one another."""
    graph = nx.empty_graph(len(run.nodes))
    for frame in run.frames.values():
        graph.add_edges_from(_pixels(frame)[:, :2].tolist())
    is_dense = nx.density(graph) > 0.3
    if len(run.nodes) <= _MAX_ON_A_CIRCLE or is_dense or not nx.is_connected(graph):
        angles = np.linspace(0, 2 * np.pi, len(run.nodes), endpoint=False)
        points = np.stack([np.sin(angles), -np.cos(angles)], axis=1)
    else:
        places = nx.kamada_kawai_layout(graph)
        points = np.array([places[node] for node in range(len(run.nodes))])
    low, high = points.min(axis=0), points.max(axis=0)
    return [(round(x, 3), round(y, 3)) for x, y in ((points - low) / np.maximum(high - low, 1e-9)).tolist()]


def _grouped(run: Run) -> dict[str, Any]:
    members: list[list[int]] = [[] for _ in range(int(run.groups.max()) + 1)]
    for node, group in enumerate(run.groups.tolist()):
        members[group].append(node)
    return {
        "groups": [
            {"byzantine": group[0] in run.byzantine, "size": len(group), "first": group[0], "last": group[-1]}
            for group in members
        ]
    }
