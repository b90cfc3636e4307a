"""The Flower ClientApp: one node's steps, on whatever worker the engine chose."""

import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from flower_dfl import codec
from flower_dfl.code_version import code_version
from flower_dfl.config import RunConfig, parse
from flower_dfl.errors import ConfigurationError, LostError
from flower_dfl.experiment import Experiment, experiment_for
from flower_dfl.node import node_facts, play, strike
from flower_dfl.training import one_thread
from flower_dfl.transport import dispatch, workers
from flower_dfl.transport.base import Transport
from flower_dfl.transport.mailbox import MailboxTransport
from flower_dfl.transport.relay import RelayTransport
from flower_dfl.types import Need
from flower_dfl.wire import DIGESTS, FACTS, FAILURE, REPORT, START_TIMEOUT, STEP

__all__ = ["app"]

app = ClientApp()
workers.install()
dispatch.install()

_logger = logging.getLogger(__name__)


@app.query()
def handshake(message: Message, context: Context) -> Message:
    """Say which node this is and what data it has, unless another code version is running here."""
    step = message.content.config_records[STEP]
    if step["code-version"] != code_version():
        return _failure(
            message,
            context,
            f"code versions differ: the server runs {step['code-version']!r}, the worker runs "
            f"{code_version()!r}; another copy of flower-dfl is first on the workers' path",
        )
    return _answer(message, context, lambda experiment: _facts(experiment, context))


@app.train()
def step(message: Message, context: Context) -> Message:
    """Play one message, or strike as an attacker."""
    return _answer(message, context, lambda experiment: _play(experiment, message, context))


def _answer(message: Message, context: Context, work: Callable[[Experiment], RecordDict]) -> Message:
    """Do the work and reply; an error is an answer too, so that the server can name node and cause."""
    try:
        config = _config(tuple(context.run_config.items()))
        with _deadline(START_TIMEOUT, _node(context)):
            experiment = experiment_for(config)
        with _deadline(config.node_timeout, _node(context)), one_thread():
            return Message(content=work(experiment), reply_to=message)
    except Exception as error:
        _logger.exception("node %s failed", _name(context))
        lost = isinstance(error, LostError)
        return _failure(message, context, f"{type(error).__name__}: {error}", lost=lost)


@functools.lru_cache(maxsize=1)
def _config(table: tuple[tuple[str, str | int | float | bool], ...]) -> RunConfig:
    """Parse the configuration that comes with every message."""
    return parse(dict(table))


def _facts(experiment: Experiment, context: Context) -> RecordDict:
    node, last = _node(context), experiment.config.num_nodes - 1
    if not 0 <= node <= last:
        raise ConfigurationError(f"expected a partition-id in 0..{last}, got {node}")
    facts = node_facts(experiment, node)
    return RecordDict({FACTS: ConfigRecord({"json": facts.to_json()})})


def _play(experiment: Experiment, message: Message, context: Context) -> RecordDict:
    config, node = experiment.config, _node(context)
    order = message.content.config_records[STEP]
    number = int(order["message"])  # type: ignore[arg-type]  # written as an int by the server
    reply = RecordDict()
    transport: Transport
    if config.transport == "mailbox":
        transport = MailboxTransport(str(order["mailbox"]), config.node_timeout)
    else:
        wanted = {str(item) for item in order["wanted"]}  # type: ignore[union-attr]  # written as a list by the server
        transport = RelayTransport(message.content, context.state, reply, _largest_letter(experiment), wanted)
    if order["kind"] == "strike":
        strike(experiment, node, number, transport)
    else:
        report = play(experiment, node, number, transport)
        if report is not None:
            reply[REPORT] = ConfigRecord({"json": report.to_json()})
            if report.digests:
                reply[DIGESTS] = ConfigRecord({"data": codec.pack(dict(report.digests))})
    return reply


def _largest_letter(experiment: Experiment) -> int:
    """Return the bytes of the tensors of a well-formed letter."""
    initial = experiment.initial
    vectors = 2 if Need.SENDER_BASE in experiment.strategy.needs else 1
    return 4 * (vectors * initial.vector.numel() + initial.buffers.numel())


def _node(context: Context) -> int:
    given = context.node_config.get("partition-id")
    try:
        return int(str(given))  # whatever the SuperNode was started with; a fraction is no number of a node
    except ValueError as error:
        raise ConfigurationError(f"expected --node-config 'partition-id=N' of the SuperNode, got {given!r}") from error


def _name(context: Context) -> int | str:
    """Return what a message about a node calls it, which may have no number."""
    try:
        return _node(context)
    except ConfigurationError:
        return "without partition-id"


def _failure(message: Message, context: Context, error: str, *, lost: bool = False) -> Message:
    record = ConfigRecord({"node": _name(context), "error": error, "lost": lost})
    return Message(content=RecordDict({FAILURE: record}), reply_to=message)


@contextmanager
def _deadline(seconds: float, node: int) -> Iterator[None]:
    """End this worker process if the block takes too long: a hung computation cannot be interrupted otherwise.

    The engine then reports the worker's death to the server, which names the node.
    """

    def end() -> None:
        _logger.critical("node %s took longer than %s s; ending its worker", node, seconds)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
