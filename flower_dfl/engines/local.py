"""The ``local`` engine: one process, one thread, no Ray and no Flower messages."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flower_dfl.config import RunConfig
from flower_dfl.errors import NodeFailedError
from flower_dfl.experiment import Experiment, experiment_for
from flower_dfl.metrics import distances_to_mean
from flower_dfl.node import Report, node_facts, play, step_name, strike
from flower_dfl.records import RoundSummary, RunWriter
from flower_dfl.training import one_thread
from flower_dfl.transport.memory import MemoryTransport
from flower_dfl.types import Knowledge

__all__ = ["run_local"]


def run_local(config: RunConfig, folder: Path, on_round: Callable[[RoundSummary], None] = lambda _: None) -> None:
    """Run a configuration and write its folder.

    Args:
        config: What to run.
        folder: An existing, empty folder.
        on_round: Called after every round.
    """
    experiment = experiment_for(config)
    network = experiment.network
    transport = MemoryTransport()
    with one_thread(), RunWriter(folder, config, network, "local") as writer:
        writer.nodes(node_facts(experiment, node) for node in network.nodes)
        for message in range(1, config.num_rounds + 2):
            reports = _play_round(experiment, message, transport)
            if reports:
                distances = _distances(experiment, message, transport) if config.is_due(message - 1) else {}
                on_round(writer.round(reports, distances))
        final = ((node, transport.recall(node, config.num_rounds + 1).start) for node in network.nodes)
        writer.checkpoint((node, start.vector, start.buffers) for node, start in final)


def _play_round(experiment: Experiment, message: int, transport: MemoryTransport) -> list[Report]:
    reports = []
    for node in experiment.network.nodes:
        with _named(node, message, experiment):
            reports.append(play(experiment, node, message, transport))
    attack = experiment.attack
    if attack is not None and attack.knowledge is not Knowledge.LOCAL and message <= experiment.config.num_rounds:
        for node in sorted(experiment.network.byzantine):
            with _named(node, message, experiment):
                strike(experiment, node, message, transport)
    return [report for report in reports if report is not None]


@contextmanager
def _named(node: int, message: int, experiment: Experiment) -> Iterator[None]:
    """Name node and moment in the error of a node's own computation."""
    try:
        yield
    except Exception as error:
        when = step_name(message, experiment.config.num_rounds)
        raise NodeFailedError(f"node {node} failed {when}: {type(error).__name__}: {error}") from error


def _distances(experiment: Experiment, message: int, transport: MemoryTransport) -> dict[int, float]:
    honest = experiment.network.honest
    rows = [transport.recall(node, message).start.vector for node in honest]
    return dict(zip(honest, distances_to_mean(rows).tolist(), strict=True))
