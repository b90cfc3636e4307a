"""Settings: one kebab-case table, parsed once into frozen dataclasses.

The same keys are read from ``[tool.flwr.app.config]``, from TOML files, from ``flwr run --run-config`` and from
``flower-dfl run --set key=value``. Unknown keys, wrong types and impossible combinations are errors before anything
starts. Keys are the dataclass fields below, joined by dots: ``train.batch-size``.
"""

import dataclasses
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from flower_dfl.errors import ConfigurationError
from flower_dfl.randomness import Sampling
from flower_dfl.validation import check_known, check_type

__all__ = [
    "CheckpointConfig",
    "ComponentConfig",
    "DataConfig",
    "EvalConfig",
    "NetworkConfig",
    "RunConfig",
    "TrainConfig",
    "anchored",
    "config_keys",
    "flatten",
    "load_toml",
    "nest",
    "parse",
    "parse_assignment",
    "parse_params",
]

ConfigT = TypeVar("ConfigT")

_DEVICE = re.compile(r"(?!meta)[a-z]+(:\d+)?")
"""Names of torch's devices, but for that which computes nothing; whether one is there is seen where it is used."""


@dataclass(frozen=True, slots=True)
class ComponentConfig:
    """A component by registered name or reference, and its parameters."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Which data, and how they are dealt out.

    Attributes:
        name: Data set, or a reference to a function that loads one.
        root: Folder of the data set; empty is the user's cache folder.
        partition: How training data are dealt to the nodes.
        params: Parameters of the partition.
        num_train: Use only the first so many training samples; 0 is all.
        num_test: Use only the first so many test samples; 0 is all.
    """

    name: str = "fashion-mnist-mini"
    root: str = ""
    partition: str = "label-skew"
    params: Mapping[str, Any] = field(default_factory=lambda: {"p": 0.8})
    num_train: int = 0
    num_test: int = 0


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Local training: stochastic gradient descent on the mean cross-entropy.

    Attributes:
        lr: Learning rate.
        epochs: Local epochs a round.
        batch_size: Mini-batch size.
        momentum: Momentum, forgotten between rounds.
        sampling: ``shuffle`` goes through the data once an epoch; ``class-balanced`` draws every class equally often,
            with replacement and for the same number of steps; attackers by the classes before they poison their data.
        device: ``auto`` (CUDA where the worker has it), or a torch device.
    """

    lr: float = 0.05
    epochs: int = 1
    batch_size: int = 32
    momentum: float = 0.0
    sampling: Sampling = "shuffle"
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class EvalConfig:
    """Evaluation on the held-out test data. After the last round every honest node is evaluated on all of them.

    Attributes:
        every: Evaluate every so many rounds, and after the last.
        nodes: Evaluate only so many honest nodes, drawn anew each time; 0 is all.
        samples: Use only so many test samples, drawn once for all nodes; 0 is all.
    """

    every: int = 1
    nodes: int = 0
    samples: int = 0


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """What goes wrong between the nodes. Everything is drawn by key from the seed, and recorded.

    Attributes:
        drop_rate: Probability that a message is lost, for each edge and direction.
        late_rate: Probability that a node straggles in a round: its messages arrive one round late.
        staleness: How many rounds old a message may be to be used, 0 or 1; older ones are rejected. A late one whose
            sender is no neighbour any more when it comes is dropped, and counts as late only.
        churn: Probability that a node leaves in a round. It misses that round and comes back with its old model.
        absence: Rounds that a node which left stays away.
        split_start: First round in which messages between the parts of a split network are lost; 0 is never.
        split_stop: Last such round; then the split heals.
        split_parts: Number of parts, of equal size, drawn once.
        window: Every so many consecutive rounds must connect all nodes where the graph varies; 0 is the whole run.
    """

    drop_rate: float = 0.0
    late_rate: float = 0.0
    staleness: int = 0
    churn: float = 0.0
    absence: int = 3
    split_start: int = 0
    split_stop: int = 0
    split_parts: int = 2
    window: int = 0

    def __post_init__(self) -> None:
        for key, rate in (("drop-rate", self.drop_rate), ("late-rate", self.late_rate), ("churn", self.churn)):
            if not 0 <= rate <= 1:
                raise ConfigurationError(f"network.{key} must be in [0, 1], got {rate}")
        if self.staleness not in (0, 1):
            raise ConfigurationError(f"network.staleness must be 0 or 1, got {self.staleness}")
        if self.absence < 1:
            raise ConfigurationError(f"network.absence must be at least 1, got {self.absence}")
        if self.split_parts < 2:
            raise ConfigurationError(f"network.split-parts must be at least 2, got {self.split_parts}")
        if not 0 <= self.split_start <= self.split_stop:
            raise ConfigurationError(
                f"network.split-start must be in 0..split-stop, got {self.split_start} and {self.split_stop}"
            )
        if self.split_stop > 0 and self.split_start == 0:
            raise ConfigurationError(f"rounds start at 1: network.split-start = 0, split-stop = {self.split_stop}")
        if self.window < 0:
            raise ConfigurationError(f"network.window must be at least 0, got {self.window}")


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """Checkpoints from which an interrupted run can be resumed.

    Attributes:
        every: Write one every so many rounds; 0 writes none, so that a resumed run starts over.
    """

    every: int = 10


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Everything that decides the result of a run, and where it goes.

    Attributes:
        seed: Seed of every draw.
        num_nodes: Number of nodes ``n``.
        num_rounds: Number of rounds ``T``.
        num_byzantine: Number of Byzantine nodes.
        topology: Communication graph.
        schedule: How the graph changes from round to round.
        strategy: Peer aggregation rule of every honest node.
        attack: What the Byzantine nodes do; ``none`` lets them follow the protocol.
        placement: Which nodes are Byzantine: ``highest-labels``, where the topology ``dominated`` expects them, or a
            way of :func:`flower_dfl.topologies.placement.place`.
        model: Model.
        data: Data.
        train: Local training.
        eval: Evaluation.
        network: What goes wrong between the nodes.
        checkpoint: Checkpoints.
        results_dir: Folder in which the run gets a folder of its own; empty is ``./runs`` of the caller.
        transport: How models travel in the ``flower`` engine: Ray's object store, or Flower's messages.
        budget_policy: What happens where a neighbourhood is too small for its Byzantine neighbours: stop with the
            rule's error, or give the rule the largest budget it can carry (recorded).
        on_node_failure: What happens where a node's step fails: ``stop`` ends the run, ``skip`` lets its neighbours see
            no message that round, ``restart`` repeats the step from its inputs, with the same result.
        node_timeout: Seconds that one node may take for its part of a round, in the ``flower`` engine.
        record_digests: Write the rule's digests of all messages to the run folder.
    """

    seed: int = 0
    num_nodes: int = 10
    num_rounds: int = 15
    num_byzantine: int = 6
    topology: ComponentConfig = ComponentConfig("dominated")
    schedule: ComponentConfig = ComponentConfig("static")
    strategy: ComponentConfig = ComponentConfig("dfl-dual")
    attack: ComponentConfig = ComponentConfig("scaling")
    placement: ComponentConfig = ComponentConfig("highest-labels")
    model: ComponentConfig = ComponentConfig("fc")
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    network: NetworkConfig = NetworkConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    results_dir: str = ""
    transport: Literal["mailbox", "relay"] = "mailbox"
    budget_policy: Literal["error", "largest"] = "largest"
    on_node_failure: Literal["stop", "skip", "restart"] = "stop"
    node_timeout: float = 600.0
    record_digests: bool = False

    def __post_init__(self) -> None:
        for key, value, least in (
            ("num-nodes", self.num_nodes, 1),
            ("num-rounds", self.num_rounds, 1),
            ("num-byzantine", self.num_byzantine, 0),
            ("data.num-train", self.data.num_train, 0),
            ("data.num-test", self.data.num_test, 0),
            ("train.epochs", self.train.epochs, 1),
            ("train.batch-size", self.train.batch_size, 1),
            ("eval.every", self.eval.every, 1),
            ("eval.nodes", self.eval.nodes, 0),
            ("eval.samples", self.eval.samples, 0),
            ("checkpoint.every", self.checkpoint.every, 0),
        ):
            if value < least:
                raise ConfigurationError(f"{key} must be at least {least}, got {value}")
        if self.num_byzantine >= self.num_nodes:
            raise ConfigurationError(
                f"at least one node must be honest: num-byzantine = {self.num_byzantine}, num-nodes = {self.num_nodes}"
            )
        if not 0 < self.train.lr < float("inf"):
            raise ConfigurationError(f"train.lr must be positive and finite, got {self.train.lr}")
        if not 0 <= self.train.momentum < 1:
            raise ConfigurationError(f"train.momentum must be in [0, 1), got {self.train.momentum}")
        if not _DEVICE.fullmatch(self.train.device):
            raise ConfigurationError(
                f"train.device must be 'auto', 'cpu', 'cuda', 'cuda:0' or the like, got {self.train.device!r}"
            )
        if not 0 < self.node_timeout < float("inf"):
            raise ConfigurationError(f"node-timeout must be positive and finite, got {self.node_timeout}")

    def is_due(self, round: int) -> bool:
        """Return whether the models are evaluated after this round."""
        return round % self.eval.every == 0 or round == self.num_rounds


def config_keys() -> list[str]:
    """Return every key, in order."""
    return list(flatten(RunConfig()))


def flatten(config: RunConfig) -> dict[str, str | int | float]:
    """Return the table of a configuration; parameters become inline TOML, as Flower's flat tables need it."""
    return _flatten(config, "")


def parse(table: Mapping[str, Any]) -> RunConfig:
    """Parse a table, nested, dotted or mixed.

    >>> parse({"train": {"lr": 0.1}, "strategy.params": "c2 = 2"}).strategy.params
    {'c2': 2}
    """
    given = nest(table)
    config = _parse(RunConfig(), given, "")
    default, chosen = DataConfig(), config.data
    # Flower's flat tables always carry the default parameters; none of our other partitions has such, yours may.
    is_meant = ":" in chosen.partition and "params" in given["data"]
    if chosen.partition != default.partition and chosen.params == default.params and not is_meant:
        config = dataclasses.replace(config, data=dataclasses.replace(chosen, params={}))
    return config


def anchored(config: RunConfig) -> RunConfig:
    """Return the configuration with the caller's relative paths made absolute: workers start in other folders."""
    data, topology = config.data, config.topology
    root = _absolute(data.root) if data.root else data.root
    data = dataclasses.replace(data, root=root, params=_with_absolute_path(data.params))
    topology = dataclasses.replace(topology, params=_with_absolute_path(topology.params))
    return dataclasses.replace(config, data=data, topology=topology)


def _with_absolute_path(params: Mapping[str, Any]) -> Mapping[str, Any]:
    path = params.get("path")
    return {**params, "path": _absolute(path)} if isinstance(path, str) else params


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def load_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error


def parse_assignment(text: str) -> tuple[str, Any]:
    """Parse ``key=value``; a value that is not TOML is taken as a string.

    >>> parse_assignment("train.lr=0.1"), parse_assignment("model.name=cnn")
    (('train.lr', 0.1), ('model.name', 'cnn'))
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigurationError(f"expected key=value, got {text!r}")
    try:
        return key.strip(), tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def _flatten(config: Any, prefix: str) -> dict[str, str | int | float]:  # noqa: ANN401 - any of the classes above
    flat: dict[str, str | int | float] = {}
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        key = prefix + entry.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            flat |= _flatten(value, f"{key}.")
        else:
            flat[key] = ", ".join(f"{k} = {_inline(v)}" for k, v in value.items()) if entry.name == "params" else value
    return flat


def _inline(value: Any) -> str:  # noqa: ANN401 - any TOML value
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k} = {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_inline(v) for v in value) + "]"
    if isinstance(value, float):
        return repr(value)  # inf and nan are spelt as in TOML
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML wants only this one more escaped


def nest(table: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted keys into nested tables.

    >>> nest({"train.lr": 0.1, "train.epochs": 2})
    {'train': {'lr': 0.1, 'epochs': 2}}
    """
    nested: dict[str, Any] = {}
    for key, value in table.items():
        *path, last = key.split(".")
        level = nested
        for part in path:
            level = level.setdefault(part, {})
            if not isinstance(level, dict):
                raise ConfigurationError(f"{key!r}: {part!r} is set both as a value and as a table")
        if not isinstance(value, Mapping):
            level[last] = value
        else:
            old = level.get(last)
            level[last] = _merged(old if isinstance(old, dict) else {}, nest(value))
    return nested


def _merged(table: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return nested tables with changes."""
    merged = table | changes
    for key in table.keys() & changes.keys():
        if isinstance(table[key], dict) and isinstance(changes[key], dict):
            merged[key] = _merged(table[key], changes[key])
    return merged


def _parse(default: ConfigT, table: Mapping[str, Any], prefix: str) -> ConfigT:
    hints = get_type_hints(type(default))
    fields = {name.replace("_", "-"): name for name in hints}
    changes: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            check_known("configuration key", prefix + key, config_keys())
        name = fields[key]
        current = getattr(default, name)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, Mapping):
                raise ConfigurationError(
                    f"{prefix + key} is a table, got {value!r}; set for example {prefix + key}.name"
                )
            changes[name] = _parse(current, value, f"{prefix}{key}.")
        elif name == "params":
            changes[name] = parse_params(prefix + key, value)
        else:
            changes[name] = check_type(prefix + key, value, hints[name])
    return dataclasses.replace(default, **changes)  # type: ignore[type-var]  # every caller passes a dataclass


def parse_params(key: str, value: Any) -> dict[str, Any]:  # noqa: ANN401 - text or table
    """Parse parameters, given as a table or as inline TOML.

    >>> parse_params("strategy.params", "c1 = 3.0, c2 = 2.0")
    {'c1': 3.0, 'c2': 2.0}
    """
    if isinstance(value, str):
        try:
            value = tomllib.loads(f"params = {{{value}}}")["params"]
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError(f"{key} must look like \"a = 1, b = 'text'\", got {value!r}: {error}") from error
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{key} must be a table or an inline table as text, got {value!r}")
    _check_plain(key, value)
    return dict(value)


def _check_plain(key: str, value: Any) -> None:  # noqa: ANN401 - any TOML value
    """Refuse what the inline form cannot carry: dates and times."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            _check_plain(f"{key}.{name}", part)
    elif isinstance(value, list | tuple):
        for part in value:
            _check_plain(key, part)
    elif not isinstance(value, bool | int | float | str):
        raise ConfigurationError(f"{key} must be made of numbers, strings, booleans, lists and tables, got {value!r}")
