"""What our Flower strategies share: between records and vectors, and a FedAvg whose clients may send anything."""

import logging
import math
import statistics
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TypeAlias, TypedDict, Unpack

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray
from torch import Tensor

from flower_dfl.errors import ConfigurationError
from flower_dfl.types import NodeId, Update
from flower_dfl.vectors import all_finite

__all__ = ["SERVER", "FedAvgOptions", "Layout", "ScreenedFedAvg", "TrainRoot", "median_metrics"]

_logger = logging.getLogger(__name__)

SERVER: NodeId = -1
"""The server in the place of a node; no client has this id."""

TrainRoot: TypeAlias = Callable[[ArrayRecord, int], ArrayRecord]
"""From the global model and the round, the model that the server trained from it on clean data of its own."""

_LARGEST_CLAIM = 2.0**53


class FedAvgOptions(TypedDict, total=False):
    """Settings of :class:`flwr.serverapp.strategy.FedAvg`, under its names and with its defaults."""

    fraction_train: float
    fraction_evaluate: float
    min_train_nodes: int
    min_evaluate_nodes: int
    min_available_nodes: int
    weighted_by_key: str
    arrayrecord_key: str
    configrecord_key: str
    train_metrics_aggr_fn: Callable[[list[RecordDict], str], MetricRecord] | None
    evaluate_metrics_aggr_fn: Callable[[list[RecordDict], str], MetricRecord] | None


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where the arrays of the server's record lie in the vector ``(d,)``: float32 arrays by sorted key, each flat.

    Integer and boolean arrays are not in the vector: they keep the server's values.

    Attributes:
        template: The server's record.

    Raises:
        ConfigurationError: The record holds other numbers, such as float64 or float16, or no float32 array.
    """

    template: ArrayRecord

    def __post_init__(self) -> None:
        for key, array in self.template.items():
            if array.dtype != "float32" and np.dtype(array.dtype).kind not in "iub":
                raise ConfigurationError(f"arrays must be float32, integer or boolean, {key!r} is {array.dtype}")
        if not self.keys:
            raise ConfigurationError(f"a model must have float32 arrays, got {dict.fromkeys(self.template)}")

    @property
    def keys(self) -> list[str]:
        """Names of the float32 arrays, in their order in the vector."""
        return sorted(key for key, array in self.template.items() if array.dtype == "float32")

    def own_vector(self, record: ArrayRecord) -> Tensor:
        """Return the vector ``(d,)`` of a record of the server's own making.

        Raises:
            ConfigurationError: It has not this layout, or holds values that are not finite.
        """
        try:
            return self.read(record)
        except Exception as error:
            raise ConfigurationError(f"the server's own arrays are malformed: {error}") from error

    def read(self, record: ArrayRecord) -> Tensor:
        """Return the vector ``(d,)`` of a record that a client sent; anything may be wrong with it.

        Raises:
            ValueError: It is malformed or not finite; the message says how. The bytes of an array may raise other
                exceptions.
        """
        vector = self.values(record)
        if not all_finite(vector):
            raise ValueError("not finite")
        return vector

    def values(self, record: ArrayRecord) -> Tensor:
        """Return the vector ``(d,)`` as :meth:`read` does, which may hold values that are not finite."""
        if set(record) != set(self.template):
            raise ValueError("not the keys of the server's model")
        return torch.from_numpy(
            np.concatenate([_values(key, record[key], self.template[key].shape) for key in self.keys])
        )

    def record(self, vector: Tensor) -> ArrayRecord:
        """Return the record of a vector, in the order of the server's keys."""
        arrays = dict(self.template)
        start = 0
        for key in self.keys:
            shape = self.template[key].shape
            part = vector[start : start + math.prod(shape)]
            arrays[key] = Array(part.numpy().reshape(shape).copy())
            start += math.prod(shape)
        return ArrayRecord(arrays)


def _values(key: str, array: Array, shape: Sequence[int]) -> NDArray[np.float32]:
    """Return an array's values, flat; its own header is read first, so that a lie in it costs no memory."""
    stream = BytesIO(array.data)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"array {key!r} is not in NumPy's format 1.0")
    found, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype != np.float32:
        raise ValueError(f"array {key!r} is not float32")
    if found != tuple(shape):
        raise ValueError(f"array {key!r} has not the shape {tuple(shape)}")
    if len(array.data) - stream.tell() != 4 * math.prod(shape):
        raise ValueError(f"array {key!r} has too few or too many bytes")
    return np.asarray(array.numpy(), dtype=np.float32).reshape(-1)


def median_metrics(contents: list[RecordDict], weighting_key: str) -> MetricRecord:
    """Return the median of every number that more than half of the replies report.

    What clients say of themselves is no more trustworthy than their models, so nothing is weighted by it, and what is
    no finite number is left out.

    Args:
        contents: Contents of the replies.
        weighting_key: Claimed weight, which is not reported.
    """
    values: dict[str, list[float]] = {}
    for content in contents:
        reported = {key: value for record in content.metric_records.values() for key, value in record.items()}
        for key, value in reported.items():
            if key != weighting_key and isinstance(value, int | float) and math.isfinite(value):
                values.setdefault(key, []).append(float(value))
    return MetricRecord(
        {key: statistics.median(values[key]) for key in sorted(values) if 2 * len(values[key]) > len(contents)}
    )


class ScreenedFedAvg(FedAvg, ABC):
    """Sampling and evaluation of FedAvg, with replies that are screened before :meth:`combine` sees them.

    A client is left out, and counted in the metric ``flower-dfl-rejected``, if its reply is an error or missing, if it
    sent more than one, or if the reply does not hold exactly one record with the keys, shapes and float32 values of
    the server's model, all finite. None of this raises. Without a single good reply the global model stays.

    Client metrics, of training and of evaluation, are reported by :func:`median_metrics` unless
    ``train_metrics_aggr_fn`` or ``evaluate_metrics_aggr_fn`` is given.

    Called without :meth:`configure_train` before it, :meth:`aggregate_train` takes the layout that most replies have.

    Args:
        weighted_by_examples: Whether a reply must claim a positive number under ``weighted_by_key``.
        fedavg_options: Passed on to :class:`flwr.serverapp.strategy.FedAvg`.
    """

    def __init__(self, *, weighted_by_examples: bool = False, **fedavg_options: Unpack[FedAvgOptions]) -> None:
        super().__init__(**fedavg_options)
        self.train_metrics_aggr_fn = fedavg_options.get("train_metrics_aggr_fn") or median_metrics
        self.evaluate_metrics_aggr_fn = fedavg_options.get("evaluate_metrics_aggr_fn") or median_metrics
        self.weighted_by_examples = weighted_by_examples
        self.global_arrays: ArrayRecord | None = None
        """The global model of this round."""
        self._asked = 0

    @abstractmethod
    def combine(
        self, server_round: int, updates: tuple[Update, ...], layout: Layout, malformed: int, lost: int
    ) -> tuple[Tensor | None, Mapping[str, float]]:
        """Return the next global model ``(d,)``, or None for no change, and numbers to report.

        Args:
            server_round: The round, from 1.
            updates: At least one, sorted by sender, with finite vectors ``(d,)``.
            layout: From vectors to records.
            malformed: Clients whose replies arrived and were dropped.
            lost: Clients that failed or did not reply.
        """

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure the round as FedAvg does, and remember the global model."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        self.global_arrays = arrays
        self._asked = len(messages)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Screen the replies and combine the good ones."""
        arrived = list(replies)
        contents = [(message.metadata.src_node_id, message.content) for message in arrived if not message.has_error()]
        layout = Layout(self.global_arrays) if self.global_arrays is not None else _most_common_layout(contents)
        good: dict[NodeId, tuple[Update, RecordDict]] = {}
        counts = Counter(sender for sender, _ in contents)
        for sender, content in contents:
            update = self._screened(server_round, sender, content, layout) if counts[sender] == 1 else None
            if update is not None:
                good[sender] = (update, content)
        everybody = {message.metadata.src_node_id for message in arrived}
        malformed, lost = len(counts) - len(good), max(self._asked, len(everybody)) - len(counts)
        if not good or layout is None:
            return None, MetricRecord({"flower-dfl-rejected": malformed + lost})
        accepted = [good[sender] for sender in sorted(good)]
        vector, report = self.combine(server_round, tuple(update for update, _ in accepted), layout, malformed, lost)
        metrics = self.train_metrics_aggr_fn([content for _, content in accepted], self.weighted_by_key)
        metrics["flower-dfl-rejected"] = malformed + lost
        for key, value in report.items():
            metrics[key] = value
        return None if vector is None else layout.record(vector), metrics

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Report what the clients measured; FedAvg raises here if one of them reports other things than the rest."""
        del server_round
        contents = {message.metadata.src_node_id: message.content for message in replies if not message.has_error()}
        return self.evaluate_metrics_aggr_fn(list(contents.values()), self.weighted_by_key) if contents else None

    def _screened(self, server_round: int, sender: NodeId, content: RecordDict, layout: Layout | None) -> Update | None:
        try:
            vector, claim = self._read(content, layout)
        except Exception as error:  # whatever the bytes of a client can raise
            _logger.warning("round %d: dropped the reply of node %d: %.200s", server_round, sender, error)
            return None
        return Update(sender, server_round, vector, num_examples=claim)

    def _read(self, content: RecordDict, layout: Layout | None) -> tuple[Tensor, int]:
        """Return a reply's vector and the number of examples that it claims; raise if it is malformed."""
        records = list(content.array_records.values())
        if len(records) != 1 or layout is None:
            raise ValueError(f"expected one ArrayRecord, got {len(records)}")
        claim = 1
        if self.weighted_by_examples:
            metrics = {key: value for record in content.metric_records.values() for key, value in record.items()}
            number = metrics.get(self.weighted_by_key)
            if not isinstance(number, int) or not 0 < number <= _LARGEST_CLAIM:
                raise ValueError(f"{self.weighted_by_key!r} is not a positive whole number")
            claim = number
        return layout.read(records[0]), claim


def _most_common_layout(contents: Sequence[tuple[NodeId, RecordDict]]) -> Layout | None:
    """Return the layout that the most replies have; None if none is usable."""
    layouts: dict[str, list[ArrayRecord]] = {}
    for _, content in sorted(contents, key=lambda entry: entry[0]):
        for record in content.array_records.values():
            form = repr(sorted((key, array.dtype, tuple(array.shape)) for key, array in record.items()))
            layouts.setdefault(form, []).append(record)
    for form in sorted(layouts, key=lambda form: (-len(layouts[form]), form)):
        try:
            return Layout(layouts[form][0])
        except (ConfigurationError, TypeError):
            continue
    return None
