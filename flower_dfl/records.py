"""The run folder: configuration, environment, records of every round, node and edge, summary, final models.

Lines are written as rounds end, so that an interrupted run leaves everything up to its last complete round, and memory
does not grow with the number of rounds. All accuracies, rates and shares are fractions in [0, 1].
"""

import hashlib
import json
import os
import platform
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import safetensors.torch
import tomli_w
from torch import Tensor

from flower_dfl.code_version import code_version
from flower_dfl.config import RunConfig, flatten, nest
from flower_dfl.errors import ConfigurationError, ResumeError, StorageError
from flower_dfl.locks import lock
from flower_dfl.metrics import consensus_distance
from flower_dfl.network import Network
from flower_dfl.node import NodeFacts, Report
from flower_dfl.types import NodeId
from flower_dfl.wire import COMMAND_VARIABLE
from flower_dfl.writing import storing, write_bytes, write_json, write_text

__all__ = [
    "RoundSummary",
    "RunWriter",
    "check_records",
    "create_run_folder",
    "read_lines",
    "reopen",
    "summarise_round",
]

_FAILURES = "failures.jsonl"
_RECORDS = ("rounds.jsonl", "edges.jsonl", _FAILURES)
_CHUNK = 1 << 20
_LOCK_TIMEOUT = 30.0


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


def check_records(folder: Path, mark: Mapping[str, Any]) -> None:
    """Raise ResumeError unless the records of a run hold what they held at a mark; none is changed."""
    for name in _RECORDS:
        path, position = folder / name, mark["files"][name]
        try:
            with path.open("rb") as file:
                found, size = _hash_of(file, int(position["size"]))
        except OSError as error:
            raise ResumeError(f"cannot read {path}: {error.strerror}") from error
        if size < int(position["size"]) or found.hexdigest() != position["sha256"]:
            raise ResumeError(f"{path} does not hold what was written up to the checkpoint: it is damaged")


def reopen(folder: Path, rounds: int) -> None:
    """Let the summary say that a run goes on after a round, so that nobody takes its old end for the new one.

    Raises:
        ResumeError: It has not ended.
    """
    path = folder / "summary.json"
    with closing(_RecordFile(folder / _RECORDS[0])):
        old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        write_json(path, old | {"status": "running", "error": None, "rounds": rounds})


@dataclass(slots=True)
class _Counts:
    """What the summary adds up over the rounds."""

    rounds: int = 0
    bytes: int = 0
    missing: int = 0
    failed: int = 0
    restarts: int = 0
    seconds: float = 0.0
    edges: dict[str, list[int]] = field(default_factory=lambda: {"byzantine": [0, 0], "honest": [0, 0]})  # kept, all
    last: dict[str, Any] | None = None


class RunWriter:
    """Writes one run folder; as a context manager it also records how the run ended.

    ``summary.json`` is there from the start, with status ``running``, and is renewed after every round.

    Args:
        folder: An existing folder.
        config: What is run.
        network: Its graphs.
        engine: What runs it.
        mark: Where a resumed run goes on, as :meth:`mark` gave it; None begins anew, whatever the folder holds.
    """

    def __init__(
        self, folder: Path, config: RunConfig, network: Network, engine: str, mark: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = folder
        self._config = config
        self._network = network
        self._began = time.perf_counter()
        self._counts = _Counts()
        self._files: dict[str, _RecordFile] = {}
        with ExitStack() as opened:
            for name in _RECORDS:
                self._files[name] = _RecordFile(folder / name)
                opened.callback(self._files[name].close)
            if mark is not None:
                check_records(folder, mark)  # before the summary is touched
            opened.push(self.__exit__)  # the run is this writer's now, and so is how it ends
            if mark is None:
                write_text(folder / "config.toml", tomli_w.dumps(nest(flatten(config))))
                write_json(folder / "environment.json", _environment(engine, config))
            self._go_to(mark, _RECORDS)
            self._summarise("running", None)
            opened.pop_all()  # from here on the caller calls __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del trace
        status = "completed"
        if kind is not None:
            status = "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"
        try:
            with suppress(StorageError) if error is not None else nullcontext():  # the first error is the cause
                self._summarise(status, None if error is None else f"{type(error).__name__}: {error}")
        finally:  # what frees the folder for another writer comes last
            for file in self._files.values():
                file.close()

    def mark(self) -> dict[str, Any]:
        """Return where the records are, as JSON values: what :meth:`rewind` needs to come back to this point."""
        counts = asdict(self._counts) | {"seconds": self._seconds()}
        return {"counts": counts, "files": {name: file.position() for name, file in self._files.items()}}

    def rewind(self, mark: Mapping[str, Any] | None) -> None:
        """Go back to a mark within a run; None is the beginning. Failures stay recorded, and restarts counted.

        Raises:
            ResumeError: The records are not those on which the mark was set.
        """
        if mark is not None:
            check_records(self.folder, mark)
        restarts = self._counts.restarts
        self._go_to(mark, [name for name in _RECORDS if name != _FAILURES])
        self._counts.restarts = restarts
        self._summarise("running", None)  # it must not speak of more rounds than there are

    def _go_to(self, mark: Mapping[str, Any] | None, names: Iterable[str]) -> None:
        """Cut these records back to a mark, and the counts with them."""
        for name in names:
            self._files[name].cut(None if mark is None else mark["files"][name])
        self._counts = _Counts() if mark is None else _Counts(**mark["counts"])
        self._began = time.perf_counter()

    def failure(self, round: int, node: NodeId, cause: str, consequence: str) -> None:
        """Record a step that failed, and what was done about it.

        Args:
            round: The round that it closes; the first step of a node and an attacker's strike close none, and are of
                the round that they open. Where the whole run goes back to a checkpoint, the round of that.
            node: Whose step; -1 is the whole run.
            cause: Why.
            consequence: ``stop``, ``skip`` or ``restart``.
        """
        line = {"round": round, "node": node, "cause": cause, "consequence": consequence}
        self._files[_FAILURES].append([line])
        if consequence == "skip":
            self._counts.failed += 1
        elif consequence == "restart":
            self._counts.restarts += 1

    def nodes(self, facts: Iterable[NodeFacts]) -> None:
        """Write who takes part, with which data and which neighbours."""
        described = [
            asdict(fact)
            | {
                "byzantine": fact.node in self._network.byzantine,
                "neighbours": sorted(self._network.links(1).neighbours[fact.node]),
            }
            for fact in sorted(facts, key=lambda fact: fact.node)
        ]
        write_json(self.folder / "nodes.json", {"nodes": described})

    def round(self, reports: Iterable[Report], distances: Mapping[NodeId, float]) -> RoundSummary:
        """Write one round.

        Args:
            reports: One from each node.
            distances: Distance of each honest model from their mean; empty where the round was not evaluated.
        """
        ordered = sorted(reports, key=lambda report: report.node)
        lines = [self._node_line(report, distances) for report in ordered]
        self._digests(ordered)
        self._files["rounds.jsonl"].append(lines)
        self._files["edges.jsonl"].append(line for report in ordered for line in self._edge_lines_of(report))
        summary = summarise_round(lines)
        self._counts.rounds = summary.round
        self._counts.bytes += sum(line["bytes_received"] for line in lines)
        self._counts.missing += sum(sum(line["missing"].values()) for line in lines)
        if summary.accuracy_mean is not None:
            self._counts.last = asdict(summary)
        self._summarise("running", None)
        return summary

    def _digests(self, reports: Iterable[Report]) -> None:
        """Write the digest of every message of a round; equivocators are shown by what their lowest receiver got."""
        by_sender: dict[str, Tensor] = {}
        round = 0
        for report in reports:
            round = report.round
            for sender, digest in report.digests.items():
                by_sender.setdefault(f"node-{sender}", digest)
        if by_sender:
            (self.folder / "digests").mkdir(exist_ok=True)
            path = self.folder / "digests" / f"round-{round}.safetensors"
            with storing(path):
                path.write_bytes(safetensors.torch.save(by_sender))

    def checkpoint(self, models: Iterable[tuple[NodeId, Tensor, Tensor]]) -> None:
        """Write each node's final vector and float buffers, one file a node."""
        folder = self.folder / "checkpoint"
        folder.mkdir(exist_ok=True)
        for node, vector, buffers in models:
            path = folder / f"node-{node}.safetensors"
            tensors = {"vector": vector.cpu()} | ({"buffers": buffers.cpu()} if buffers.numel() else {})
            write_bytes(path, safetensors.torch.save(tensors))

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
            "missing": dict(sorted(Counter(report.missing.values()).items())),
            "fingerprint": report.fingerprint,
            "bytes_received": report.bytes_received,
            "seconds": {step: round(seconds, 6) for step, seconds in report.seconds.items()},
        }

    def _edge_lines_of(self, report: Report) -> Iterable[dict[str, Any]]:
        rejected = {rejection.sender: rejection.reason for rejection in report.rejections}
        took_part = bool(report.weights)
        for sender in sorted(self._network.links(report.round).neighbours[report.node]) if took_part else ():
            weight = report.weights.get(sender, 0.0)
            missing = report.missing.get(sender) if sender not in report.weights else None
            if report.node not in self._network.byzantine and missing is None:
                counts = self._counts.edges["byzantine" if sender in self._network.byzantine else "honest"]
                counts[0] += weight > 0
                counts[1] += 1
            yield (
                {
                    "round": report.round,
                    "receiver": report.node,
                    "sender": sender,
                    "weight": _finite(weight),
                    "scores": {name: _finite(of[sender]) for name, of in report.scores.items() if sender in of},
                }
                | ({"rejected": rejected[sender]} if sender in rejected and sender not in report.weights else {})
                | ({"missing": missing} if missing is not None else {})
            )

    def _seconds(self) -> float:
        return self._counts.seconds + time.perf_counter() - self._began

    def _summarise(self, status: str, error: str | None) -> None:
        counts = self._counts
        last = counts.last or {}
        shares = {kind: kept / total if total else None for kind, (kept, total) in counts.edges.items()}
        write_json(
            self.folder / "summary.json",
            {
                "status": status,
                "error": error,
                "rounds": counts.rounds,
                "honest_accuracy_mean": last.get("accuracy_mean"),
                "honest_accuracy_min": last.get("accuracy_min"),
                "attack_success_rate_mean": last.get("attack_success_rate_mean"),
                "attack_success_rate_max": last.get("attack_success_rate_max"),
                "consensus_distance": _finite(last.get("consensus_distance")),
                "byzantine_kept": shares["byzantine"],
                "honest_kept": shares["honest"],
                "bytes_total": counts.bytes,
                "missing_messages": counts.missing,
                "failed_steps": counts.failed,
                "restarts": counts.restarts,
                "diverged_nodes": list(last.get("diverged", ())),
                "seconds_total": round(self._seconds(), 3),
            },
        )


class _RecordFile:
    """A file of JSON lines that can be cut back to where it once was.

    A running hash tells whether what is kept is still what was written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with storing(path):
            self._file = path.open("a+b")
        self._lock()
        self._hash = hashlib.sha256()
        self._size = 0

    def _lock(self) -> None:
        """Make sure that no other process writes; an engine that was killed may take a moment to end."""
        held = True
        with suppress(OSError):  # of a file system that knows no locks: then nobody can tell
            held = lock(self._file, _LOCK_TIMEOUT)
        if not held:
            self._file.close()
            raise ResumeError(f"another process still writes {self._path}")

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write lines; those of one call are written together."""
        data = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()
        with storing(self._path):
            self._file.write(data)
            self._file.flush()
        self._hash.update(data)
        self._size += len(data)

    def position(self) -> dict[str, Any]:
        """Return how long the file is, and the hash of what it holds."""
        return {"size": self._size, "sha256": self._hash.hexdigest()}

    def cut(self, position: Mapping[str, Any] | None) -> None:
        """Go back to a position that was checked; None is the beginning."""
        self._file.seek(0)
        self._hash, self._size = _hash_of(self._file, 0 if position is None else int(position["size"]))
        if os.fstat(self._file.fileno()).st_size != self._size:
            self._file.truncate(self._size)

    def close(self) -> None:
        """Close the file; what could not be written has been reported already."""
        with suppress(OSError):
            self._file.close()


def _hash_of(file: IO[bytes], size: int) -> tuple["hashlib._Hash", int]:
    """Return the hash of the next bytes of a file, and how many there are."""
    found, left = hashlib.sha256(), size
    while left > 0 and (part := file.read(min(left, _CHUNK))):
        found.update(part)
        left -= len(part)
    return found, size - left


def _environment(engine: str, config: RunConfig) -> dict[str, Any]:
    packages = ("flwr", "networkx", "numpy", "ray", "scipy", "torch", "torchvision")
    return {
        "engine": engine,
        "code_version": code_version(),
        "config": flatten(config),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "packages": {name: version(name) for name in packages},
        "command": _command(engine),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _command(engine: str) -> list[str]:
    """Return what started the run; of Flower's own processes the name alone, as their arguments hold a token."""
    if engine == "local":
        return sys.argv
    given = os.environ.get(COMMAND_VARIABLE)
    return list(json.loads(given)) if given else [Path(sys.argv[0]).name]


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _finite(value: float | None) -> float | None:
    """Return None for what JSON cannot hold."""
    return value if value is not None and abs(value) < float("inf") else None
