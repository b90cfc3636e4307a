"""Checkpoints from which a run goes on and ends with the same bytes.

A checkpoint of round ``t`` holds what every node has once it has closed that round: its start-of-round model, its
integer buffers and what its rule remembers; and the letters of round ``t`` that are still under way. Everything else
follows from the configuration. Nodes then train round ``t + 1`` as they would have.

It is a folder ``checkpoint/state-<t>`` of safetensors files and a manifest with their hashes. It appears as a whole or
not at all; the one before it is removed afterwards.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flower_dfl import codec
from flower_dfl.code_version import code_version
from flower_dfl.config import RunConfig, flatten, load_toml, parse
from flower_dfl.errors import ConfigurationError, ResumeError, TransportError
from flower_dfl.transport.base import Memory, distinct, update_from_tree, update_to_tree
from flower_dfl.types import NodeId, Update
from flower_dfl.writing import storing, write_json

__all__ = [
    "Checkpoint",
    "check_code",
    "checkpoint_round",
    "load_checkpoint",
    "recorded_config",
    "recorded_environment",
    "save_checkpoint",
]

_MANIFEST = "manifest.json"
_LETTERS = "letters-"
_RESULTS = "results-dir"


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A state from which a run goes on.

    Attributes:
        round: The last closed round.
        memories: What each node has.
        letters: Letters under way: sender, round, and what each receiver gets.
        mark: Where the records were.
    """

    round: int
    memories: Mapping[NodeId, Memory]
    letters: tuple[tuple[NodeId, int, Mapping[NodeId, Update]], ...]
    mark: Mapping[str, Any]


def save_checkpoint(
    folder: Path,
    config: RunConfig,
    round: int,
    memories: Iterable[tuple[NodeId, Memory]],
    *,
    letters: Iterable[tuple[NodeId, int, Mapping[NodeId, Update]]],
    mark: Mapping[str, Any],
) -> None:
    """Write the checkpoint of a round, one node at a time, and remove older ones."""
    parent = folder / "checkpoint"
    final, partial = parent / f"state-{round}", parent / f"state-{round}.partial"
    with storing(final):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        hashes = {}
        for node, memory in memories:
            name = f"node-{node}.safetensors"
            hashes[name] = _write(partial / name, memory.to_tree())
        for sender, sent_in, sent in letters:
            name = f"{_LETTERS}{sender}.safetensors"
            hashes[name] = _write(partial / name, (sender, sent_in, *_distinct(sent)))
        manifest = {
            "round": round,
            "code_version": code_version(),
            "config": flatten(config),
            "files": hashes,
            "mark": mark,
        }
        write_json(partial / _MANIFEST, manifest)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in parent.glob("state-*"):
            if old != final:
                shutil.rmtree(old)


def load_checkpoint(folder: Path, config: RunConfig) -> Checkpoint | None:
    """Read the newest checkpoint of a run folder; None if there is none.

    Raises:
        ResumeError: It was made by another configuration or code version, or a file of it is damaged or missing.
    """
    found = _newest(folder, config)
    if found is None:
        return None
    newest, manifest = found
    memories = {
        node: Memory.from_tree(_read(newest / f"node-{node}.safetensors", manifest["files"]))
        for node in range(config.num_nodes)
    }
    names = sorted(name for name in manifest["files"] if name.startswith(_LETTERS))
    letters = tuple(_sent(*_read(newest / name, manifest["files"])) for name in names)
    return Checkpoint(manifest["round"], memories, letters, manifest["mark"])


def checkpoint_round(folder: Path, config: RunConfig) -> int:
    """Return the round of the newest checkpoint of a run folder, 0 if there is none, without reading the models.

    Raises:
        ResumeError: It was made by another configuration or code version.
    """
    found = _newest(folder, config)
    return 0 if found is None else int(found[1]["round"])


def _newest(folder: Path, config: RunConfig) -> tuple[Path, dict[str, Any]] | None:
    found = [path for path in (folder / "checkpoint").glob("state-*") if path.suffix != ".partial"]
    if not found:
        return None
    newest = max(found, key=lambda path: int(path.name.removeprefix("state-")))
    manifest = _manifest(newest / _MANIFEST)
    check_code(newest, manifest)
    _check_config(newest, manifest, config)
    return newest, manifest


def recorded_config(folder: Path) -> RunConfig:
    """Return the configuration of a run folder.

    Raises:
        ResumeError: The folder holds no run, or its configuration is not the one it began with.
    """
    path = folder / "config.toml"
    if not (folder / "environment.json").is_file() or not path.is_file():
        raise ResumeError(f"{folder} is no run folder: it must hold config.toml and environment.json")
    try:
        config = parse(load_toml(path))
    except ConfigurationError as error:
        raise ResumeError(f"{path} is damaged: {error}") from error
    _check_config(folder / "environment.json", recorded_environment(folder), config)
    return config


def recorded_environment(folder: Path) -> dict[str, Any]:
    """Return in what a recorded run ran: engine, code version, packages."""
    return _manifest(folder / "environment.json")


def check_code(origin: Path, recorded: Mapping[str, Any]) -> None:
    """Raise ResumeError unless what was recorded comes from this version of the code."""
    if recorded.get("code_version") != code_version():
        raise ResumeError(
            f"{origin} was written by code version {recorded.get('code_version')!r}, this is {code_version()!r}: "
            "the result would not be that of one program"
        )


def _check_config(origin: Path, recorded: Mapping[str, Any], config: RunConfig) -> None:
    then, now = dict(recorded.get("config", {})), flatten(config)
    changed = sorted(key for key in then.keys() | now.keys() if key != _RESULTS and then.get(key) != now.get(key))
    if changed:
        details = ", ".join(f"{key} was {then.get(key)!r}, is {now.get(key)!r}" for key in changed)
        raise ResumeError(f"the configuration is not the one of {origin}: {details}")


def _distinct(sent: Mapping[NodeId, Update]) -> tuple[dict[NodeId, int], list[codec.Tree]]:
    """Return which receiver gets which letter, and the distinct letters."""
    routes, letters = distinct(sent)
    return routes, [update_to_tree(letter, with_base=True, with_digest=False) for letter in letters]


def _sent(
    sender: NodeId, round: int, routes: Mapping[NodeId, int], trees: list[codec.Tree]
) -> tuple[NodeId, int, dict[NodeId, Update]]:
    """Undo :func:`_distinct`."""
    letters = [update_from_tree(tree) for tree in trees]
    return sender, round, {receiver: letters[index] for receiver, index in routes.items()}


def _write(path: Path, tree: codec.Tree) -> str:
    data = codec.pack(tree)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _read(path: Path, hashes: Mapping[str, str]) -> codec.Tree:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ResumeError(f"cannot read {path}: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != hashes.get(path.name):
        raise ResumeError(f"{path} is damaged: it is not the file that the checkpoint was made with")
    try:
        return codec.unpack(data)
    except TransportError as error:
        raise ResumeError(f"{path} is damaged: {error}") from error


def _manifest(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ResumeError(f"{path} is damaged: {error}") from error
