"""The run folder: configuration, environment, records of every round, node and edge, summary, final models.

Lines are written as rounds end, so that an interrupted run leaves everything up to its last complete round, and memory
does not grow with the number of rounds. All accuracies, rates and shares are fractions in [0, 1].
"""

import json
import os
import platform
import re
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import safetensors.torch
import tomli_w
from torch import Tensor

from flower_dfl.code_version import code_version
from flower_dfl.config import RunConfig, flatten, nest
from flower_dfl.errors import ConfigurationError
from flower_dfl.metrics import consensus_distance
from flower_dfl.network import Network
from flower_dfl.node import NodeFacts, Report
from flower_dfl.types import NodeId

__all__ = ["RoundSummary", "RunWriter", "create_run_folder", "end_unfinished", "read_lines", "summarise_round"]


@dataclass(frozen=True, slots=True)
class RoundSummary:
    """One round over the honest nodes; None where the round was not evaluated.

    Attributes:
        round: The round.
        accuracy_mean: Mean honest accuracy.
        accuracy_min: Worst honest accuracy.
        attack_success_rate_mean: Mean attack success rate; None also where the attack has no trigger.
        attack_success_rate_max: Largest attack success rate.
        consensus_distance: Root mean square distance of the honest models from their mean.
        rejected: Messages dropped by ingress.
        diverged: Honest nodes whose model is not finite.
    """

    round: int
    accuracy_mean: float | None
    accuracy_min: float | None
    attack_success_rate_mean: float | None
    attack_success_rate_max: float | None
    consensus_distance: float | None
    rejected: int
    diverged: tuple[NodeId, ...]


def create_run_folder(config: RunConfig, caller: Path) -> Path:
    """Make a new folder for a run and return its absolute path."""
    parent = Path(config.results_dir) if config.results_dir else Path("runs")
    parent = (caller / parent).resolve()
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.strategy.name}-{config.attack.name}-seed{config.seed}"
    stem = re.sub(r"[^\w.-]+", "_", stem)
    for attempt in range(1000):
        folder = parent / (stem if attempt == 0 else f"{stem}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigurationError(f"cannot create the run folder {folder}: {error.strerror}") from error
        return folder
    raise ConfigurationError(f"cannot find a free name for a run folder in {parent}")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a record file; a last line that was cut off by a crash is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def summarise_round(lines: Iterable[Mapping[str, Any]]) -> RoundSummary:
    """Summarise the lines of one round of ``rounds.jsonl``."""
    lines = list(lines)
    honest = [line for line in lines if not line["byzantine"]]
    accuracies = [line["accuracy"] for line in honest if line["accuracy"] is not None]
    rates = [line["attack_success_rate"] for line in honest if line["attack_success_rate"] is not None]
    distances = [line["distance_to_mean"] for line in honest if line["distance_to_mean"] is not None]
    return RoundSummary(
        round=lines[0]["round"],
        accuracy_mean=_mean(accuracies),
        accuracy_min=min(accuracies, default=None),
        attack_success_rate_mean=_mean(rates),
        attack_success_rate_max=max(rates, default=None),
        consensus_distance=consensus_distance(distances) if len(distances) == len(honest) else None,
        rejected=sum(line["rejected"] for line in honest),
        diverged=tuple(line["node"] for line in honest if line["diverged"]),
    )


def end_unfinished(folder: Path, status: str, error: str) -> None:
    """Record how a run ended whose writer could not, because its process was ended from outside."""
    path = folder / "summary.json"
    if not path.exists():
        return
    summary = json.loads(path.read_text(encoding="utf-8"))
    if summary["status"] == "running":
        _write_json(path, summary | {"status": status, "error": error})


class RunWriter:
    """Writes one run folder; as a context manager it also records how the run ended.

    ``summary.json`` is there from the start, with status ``running``, and is renewed after every round.
    """

    def __init__(self, folder: Path, config: RunConfig, network: Network, engine: str) -> None:
        self.folder = folder
        self._network = network
        self._began = time.perf_counter()
        self._last: RoundSummary | None = None
        self._completed = 0
        self._bytes = 0
        self._edges = {"byzantine": [0, 0], "honest": [0, 0]}  # kept, all
        self._summarise("running", None)
        (folder / "config.toml").write_text(tomli_w.dumps(nest(flatten(config))), encoding="utf-8")
        _write_json(folder / "environment.json", _environment(engine))
        self._rounds: IO[str] = (folder / "rounds.jsonl").open("a", encoding="utf-8")
        self._edge_lines: IO[str] = (folder / "edges.jsonl").open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del trace
        self._rounds.close()
        self._edge_lines.close()
        status = "completed"
        if kind is not None:
            status = "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"
        self._summarise(status, None if error is None else f"{type(error).__name__}: {error}")

    def nodes(self, facts: Iterable[NodeFacts]) -> None:
        """Write who takes part, with which data and which neighbours."""
        described = [
            asdict(fact)
            | {
                "byzantine": fact.node in self._network.byzantine,
                "neighbours": sorted(self._network.neighbours[fact.node]),
            }
            for fact in sorted(facts, key=lambda fact: fact.node)
        ]
        _write_json(self.folder / "nodes.json", {"nodes": described})

    def round(self, reports: Iterable[Report], distances: Mapping[NodeId, float]) -> RoundSummary:
        """Write one round.

        Args:
            reports: One from each node.
            distances: Distance of each honest model from their mean; empty where the round was not evaluated.
        """
        ordered = sorted(reports, key=lambda report: report.node)
        lines = [self._node_line(report, distances) for report in ordered]
        _append(self._rounds, lines)
        _append(self._edge_lines, [line for report in ordered for line in self._edge_lines_of(report)])
        summary = summarise_round(lines)
        self._completed = summary.round
        self._bytes += sum(line["bytes_received"] for line in lines)
        if summary.accuracy_mean is not None:
            self._last = summary
        self._summarise("running", None)
        return summary

    def checkpoint(self, models: Iterable[tuple[NodeId, Tensor, Tensor]]) -> None:
        """Write each node's final vector and float buffers, one file a node."""
        folder = self.folder / "checkpoint"
        folder.mkdir(exist_ok=True)
        for node, vector, buffers in models:
            path = folder / f"node-{node}.safetensors"
            temporary = path.with_suffix(".partial")
            tensors = {"vector": vector.cpu()} | ({"buffers": buffers.cpu()} if buffers.numel() else {})
            safetensors.torch.save_file(tensors, temporary)
            temporary.replace(path)

    def _node_line(self, report: Report, distances: Mapping[NodeId, float]) -> dict[str, Any]:
        byzantine = report.node in self._network.byzantine
        return {
            "round": report.round,
            "node": report.node,
            "byzantine": byzantine,
            "accuracy": report.accuracy,
            "attack_success_rate": report.attack_success_rate,
            "diverged": report.diverged,
            "distance_to_mean": _finite(distances.get(report.node)),
            "budget": report.budget,
            "flags": list(report.flags),
            "rejected": len(report.rejections),
            "bytes_received": report.bytes_received,
            "seconds": {step: round(seconds, 6) for step, seconds in report.seconds.items()},
        }

    def _edge_lines_of(self, report: Report) -> Iterable[dict[str, Any]]:
        rejected = {rejection.sender: rejection.reason for rejection in report.rejections}
        for sender in sorted(self._network.neighbours[report.node]):
            weight = report.weights.get(sender, 0.0)
            if report.node not in self._network.byzantine:
                counts = self._edges["byzantine" if sender in self._network.byzantine else "honest"]
                counts[0] += weight > 0
                counts[1] += 1
            yield {
                "round": report.round,
                "receiver": report.node,
                "sender": sender,
                "weight": _finite(weight),
                "scores": {name: _finite(values[sender]) for name, values in report.scores.items() if sender in values},
            } | ({"rejected": rejected[sender]} if sender in rejected else {})

    def _summarise(self, status: str, error: str | None) -> None:
        last = self._last
        shares = {kind: kept / total if total else None for kind, (kept, total) in self._edges.items()}
        _write_json(
            self.folder / "summary.json",
            {
                "status": status,
                "error": error,
                "rounds": self._completed,
                "honest_accuracy_mean": last and last.accuracy_mean,
                "honest_accuracy_min": last and last.accuracy_min,
                "attack_success_rate_mean": last and last.attack_success_rate_mean,
                "attack_success_rate_max": last and last.attack_success_rate_max,
                "consensus_distance": last and _finite(last.consensus_distance),
                "byzantine_kept": shares["byzantine"],
                "honest_kept": shares["honest"],
                "bytes_total": self._bytes,
                "diverged_nodes": list(last.diverged) if last else [],
                "seconds_total": round(time.perf_counter() - self._began, 3),
            },
        )


def _environment(engine: str) -> dict[str, Any]:
    packages = ("flwr", "networkx", "numpy", "ray", "scipy", "torch", "torchvision")
    return {
        "engine": engine,
        "code_version": code_version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "packages": {name: version(name) for name in packages},
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _finite(value: float | None) -> float | None:
    """Return None for what JSON cannot hold."""
    return value if value is not None and abs(value) < float("inf") else None


def _append(file: IO[str], lines: Iterable[Mapping[str, Any]]) -> None:
    file.write("".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))
    file.flush()


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)
