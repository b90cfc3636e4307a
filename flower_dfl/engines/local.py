"""The ``local`` engine: one process, one thread, no Ray and no Flower messages."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from flower_dfl.checkpoint import Checkpoint, load_checkpoint
from flower_dfl.config import RunConfig
from flower_dfl.errors import LostError
from flower_dfl.experiment import Experiment, experiment_for
from flower_dfl.metrics import distances_to_mean
from flower_dfl.node import Report, node_facts, play, strike
from flower_dfl.records import RoundSummary, RunWriter
from flower_dfl.rounds import Failure, Outcome, Wave, play_rounds, rounds_kept
from flower_dfl.training import one_thread
from flower_dfl.transport.base import Memory
from flower_dfl.transport.memory import MemoryTransport
from flower_dfl.types import NodeId, Update

__all__ = ["run_local"]

_logger = logging.getLogger(__name__)


def run_local(
    config: RunConfig,
    folder: Path,
    on_round: Callable[[RoundSummary], None] = lambda _: None,
    *,
    resume: bool = False,
    last: int | None = None,
) -> None:
    """Run a configuration and write its folder.

    Args:
        config: What to run.
        folder: An existing folder: empty, or a run's own if it is to be resumed.
        on_round: Called after every round.
        resume: Go on from the newest checkpoint in the folder; without one the run begins anew.
        last: Stop after this round, without final models; None plays all.
    """
    experiment = experiment_for(config)
    network = experiment.network
    checkpoint = load_checkpoint(folder, config) if resume else None
    team = _Team(experiment, config)
    team.restore(checkpoint)
    mark = None if checkpoint is None else checkpoint.mark
    with one_thread(), RunWriter(folder, config, network, "local", mark) as writer:
        writer.nodes(node_facts(experiment, node) for node in network.nodes)
        play_rounds(config, network, experiment.attack, team, writer, on_round=on_round, resumed=checkpoint, last=last)


class _Team:
    """The nodes of a run in this process."""

    def __init__(self, experiment: Experiment, config: RunConfig) -> None:
        self._experiment = experiment
        self._rounds_kept = rounds_kept(config)
        self._transport = MemoryTransport(self._rounds_kept)

    def step(self, wave: Wave, message: int, nodes: Iterable[NodeId]) -> Mapping[NodeId, Outcome]:
        """Let nodes take their part of a message, one after the other."""
        return {node: self._step(wave, message, node) for node in nodes}

    def distances_to_mean(self, nodes: list[NodeId]) -> list[float]:
        """Return each node's distance from the mean of their start-of-round models."""
        return distances_to_mean([memory.start.vector for _, memory in self.memories(nodes)]).tolist()

    def memories(self, nodes: Iterable[NodeId]) -> Iterator[tuple[NodeId, Memory]]:
        """Yield each node's memory."""
        for node in nodes:
            memory = self._transport.recall(node, 0)
            if memory is None:
                raise LostError(f"node {node} has no memory")
            yield node, memory

    def letters_of(self, sender: NodeId, round: int) -> Mapping[NodeId, Update]:
        """Return what a node sent in a round, by receiver."""
        return self._transport.letters_of(sender, round)

    def restore(self, checkpoint: Checkpoint | None) -> None:
        """Put the nodes where a checkpoint left them."""
        self._transport = MemoryTransport(self._rounds_kept)
        if checkpoint is None:
            return
        for node, memory in checkpoint.memories.items():
            self._transport.commit(node, memory, {}, "")
        for sender, round, letters in checkpoint.letters:
            self._transport.publish(sender, round, letters)

    def _step(self, wave: Wave, message: int, node: NodeId) -> Report | Failure | None:
        try:
            if wave == "play":
                return play(self._experiment, node, message, self._transport)
            strike(self._experiment, node, message, self._transport)
        except Exception as error:
            _logger.exception("node %s failed", node)
            return Failure(f"{type(error).__name__}: {error}", isinstance(error, LostError))
        return None
