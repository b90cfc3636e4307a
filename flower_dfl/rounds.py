"""The clock of a run, the same for every engine: rounds, failures by policy, records and checkpoints.

Models stay with the nodes. What passes through here are reports, and, where a checkpoint is due, one node's state at a
time on its way to the disk.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from flower_dfl.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from flower_dfl.config import RunConfig
from flower_dfl.errors import LostError, NodeFailedError
from flower_dfl.network import Network
from flower_dfl.node import Report, step_name
from flower_dfl.protocols import Attack
from flower_dfl.records import RoundSummary, RunWriter
from flower_dfl.transport.base import Memory
from flower_dfl.types import Knowledge, NodeId, Update

__all__ = ["Failure", "Outcome", "Team", "Wave", "play_rounds", "rounds_kept"]

_ATTEMPTS = 3
"""How often a step is tried, and how often a run goes back to the same checkpoint."""

Wave: TypeAlias = Literal["play", "strike"]
"""Every node plays a message; attackers that need to see others then strike."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A step that failed.

    Attributes:
        cause: Why.
        is_lost: Whether what the step needs is gone, so that trying again cannot help.
    """

    cause: str
    is_lost: bool = False


Outcome: TypeAlias = Report | Failure | None
"""What became of a node's step; None where there is nothing to report."""


class Team(Protocol):
    """The nodes of a run, as an engine reaches them."""

    def step(self, wave: Wave, message: int, nodes: Iterable[NodeId]) -> Mapping[NodeId, Outcome]:
        """Let nodes take their part of a message; every wait is bounded, and every node has an outcome."""
        ...

    def distances_to_mean(self, nodes: list[NodeId]) -> list[float]:
        """Return each node's distance from the mean of their start-of-round models."""
        ...

    def memories(self, nodes: Iterable[NodeId]) -> Iterable[tuple[NodeId, Memory]]:
        """Yield each node's memory, one node at a time."""
        ...

    def letters_of(self, sender: NodeId, round: int) -> Mapping[NodeId, Update]:
        """Return what a node sent in a round, by receiver."""
        ...

    def restore(self, checkpoint: Checkpoint | None) -> None:
        """Put the nodes where a checkpoint left them; None is the beginning."""
        ...


def rounds_kept(config: RunConfig) -> int:
    """Return for how many rounds a transport must keep letters."""
    return 2 if config.network.late_rate > 0 else 1


def play_rounds(
    config: RunConfig,
    network: Network,
    attack: Attack | None,
    team: Team,
    writer: RunWriter,
    *,
    on_round: Callable[[RoundSummary], None] = lambda _: None,
    resumed: Checkpoint | None = None,
    last: int | None = None,
) -> None:
    """Play a run to its end, and write each node's final model.

    Args:
        config: What to run.
        network: Its graphs.
        attack: Its attack.
        team: Its nodes.
        writer: Its records, cut back to the checkpoint.
        on_round: Called after every round.
        resumed: The checkpoint that the team has been put to; None is the beginning.
        last: Stop after this round, without final models; None plays all.

    Raises:
        NodeFailedError: A step failed, and the policy is to stop, or trying again did not help.
    """
    clock = _Clock(config, network, attack, team, writer, on_round)
    closed = 0 if resumed is None else resumed.round
    end = config.num_rounds if last is None else min(last, config.num_rounds)
    returns: dict[int, int] = {}
    while True:
        try:
            if closed < end:
                clock.play(closed, end)
            if last is None:
                clock.write_models()
        except LostError as error:
            if config.on_node_failure != "restart":
                raise
            checkpoint = load_checkpoint(writer.folder, config)
            closed = 0 if checkpoint is None else checkpoint.round
            returns[closed] = returns.get(closed, 0) + 1
            if returns[closed] > _ATTEMPTS:
                raise
            writer.rewind(None if checkpoint is None else checkpoint.mark)
            writer.failure(closed, -1, str(error), "restart")
            team.restore(checkpoint)
        else:
            return


@dataclass(frozen=True, slots=True)
class _Clock:
    config: RunConfig
    network: Network
    attack: Attack | None
    team: Team
    writer: RunWriter
    on_round: Callable[[RoundSummary], None]

    def play(self, closed: int, end: int) -> None:
        """Play from a state in which ``closed`` rounds are closed and recorded until ``end`` are."""
        self._message(closed + 1, is_recorded=True)
        for message in range(closed + 2, end + 2):
            self._message(message, is_recorded=False)

    def write_models(self) -> None:
        """Write each node's model; where failures are skipped, a node may have none."""
        for node in self.network.nodes:
            with self._losses():
                memories = self.team.memories([node])
                self.writer.checkpoint((node, memory.start.vector, memory.start.buffers) for node, memory in memories)

    def _message(self, message: int, *, is_recorded: bool) -> None:
        """Play one message, which closes a round and opens the next."""
        config, network = self.config, self.network
        closes = message - 1
        reports = self._wave("play", message, network.nodes)
        waits = self.attack is not None and self.attack.knowledge is not Knowledge.LOCAL
        if waits and message <= config.num_rounds:
            self._wave("strike", message, sorted(network.byzantine))
        if is_recorded:
            return
        summary = self.writer.round(
            (reports.get(node) or Report(node, closes, flags=("failed",)) for node in network.nodes),
            self._distances(reports) if config.is_due(closes) else {},
        )
        is_whole = len(reports) == len(network.nodes)
        every = config.checkpoint.every
        if every and closes % every == 0 and closes < config.num_rounds and is_whole:
            with self._losses():
                self._save(closes)
        self.on_round(summary)

    def _distances(self, reports: Mapping[NodeId, Report]) -> dict[NodeId, float]:
        """Return the distances from the mean of those honest nodes that have closed the round."""
        honest = [node for node in self.network.honest if node in reports]
        distances: list[float] = []
        with self._losses():
            distances = self.team.distances_to_mean(honest)
        return dict(zip(honest, distances, strict=False))

    def _losses(self) -> AbstractContextManager[None]:
        """Go on without what is lost, where failures are skipped: its node will fail, or start over."""
        return suppress(LostError) if self.config.on_node_failure == "skip" else nullcontext()

    def _save(self, round: int) -> None:
        late = [node for node in self.network.nodes if self.network.conditions.is_late(node, round)]
        memories = ((node, memory.at_start()) for node, memory in self.team.memories(self.network.nodes))
        letters = ((node, round, self._under_way(node, round)) for node in late)
        save_checkpoint(self.writer.folder, self.config, round, memories, letters=letters, mark=self.writer.mark())

    def _under_way(self, sender: NodeId, round: int) -> dict[NodeId, Update]:
        """Return a straggler's letters to its neighbours; what a liar sent to others would be kept for nothing."""
        neighbours = self.network.links(round).neighbours[sender]
        return {to: letter for to, letter in self.team.letters_of(sender, round).items() if to in neighbours}

    def _wave(self, wave: Wave, message: int, nodes: Iterable[NodeId]) -> dict[NodeId, Report]:
        """Let nodes take their part, and follow the policy where that fails."""
        reports: dict[NodeId, Report] = {}
        open_nodes = list(nodes)
        policy, when = self.config.on_node_failure, step_name(message, self.config.num_rounds)
        round = max(message - 1, 1)
        if wave == "strike":
            round, when = message, f"in round {message}"
        for attempt in range(1, _ATTEMPTS + 1):
            outcomes = self.team.step(wave, message, open_nodes)
            reports |= {node: found for node, found in outcomes.items() if isinstance(found, Report)}
            failed = {node: found for node, found in sorted(outcomes.items()) if isinstance(found, Failure)}
            if not failed:
                return reports
            lost = [found for found in failed.values() if found.is_lost]
            goes_back = bool(lost) and policy == "restart"
            gives_up = policy == "stop" or (policy == "restart" and attempt == _ATTEMPTS and not goes_back)
            for node, failure in failed.items():
                self.writer.failure(round, node, failure.cause, "stop" if gives_up else policy)
            if policy == "skip":
                self._check_somebody_is_left(when, failed)
                return reports
            node, failure = next(iter(failed.items()))
            if goes_back:
                raise LostError(f"{when.capitalize()}: {lost[0].cause}")
            if gives_up:
                raise NodeFailedError(f"node {node} failed {when}: {failure.cause}")
            open_nodes = list(failed)
        return reports

    def _check_somebody_is_left(self, when: str, failed: Mapping[NodeId, Failure]) -> None:
        if set(self.network.honest) <= failed.keys():
            raise NodeFailedError(f"every honest node failed {when}; node {min(failed)}: {failed[min(failed)].cause}")
