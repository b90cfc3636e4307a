"""The Flower ServerApp: clock, topology and metrics sink. It aggregates no model."""

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

from flower_dfl import codec
from flower_dfl.checkpoint import Checkpoint, load_checkpoint
from flower_dfl.code_version import code_version
from flower_dfl.config import RunConfig, parse
from flower_dfl.errors import ConfigurationError, LostError, NodeFailedError, TransportError
from flower_dfl.experiment import build_rules
from flower_dfl.network import Network, build_network
from flower_dfl.node import NodeFacts, Report
from flower_dfl.protocols import Attack
from flower_dfl.records import RunWriter, create_run_folder
from flower_dfl.rounds import Failure, Outcome, Wave, play_rounds, rounds_kept
from flower_dfl.transport.base import Memory
from flower_dfl.transport.cluster import describe_cluster
from flower_dfl.transport.mailbox import Mailbox, is_ray_running
from flower_dfl.transport.relay import HALF_STEP, MEMORY, MODEL, Relay, read_bytes
from flower_dfl.types import Knowledge, NodeId, Update
from flower_dfl.wire import DIGESTS, FACTS, FAILURE, REPORT, RUN_FOLDER_VARIABLE, START_TIMEOUT, STEP

__all__ = ["app"]

_NODES_TIMEOUT = 60.0
_SETTLED = 3.0
"""Seconds without a change after which the number of SuperNodes is taken as final."""
_GRACE = 30.0
"""Seconds beyond ``node-timeout`` in which the engine must report a dead worker."""
_POLL = 0.02
_MOST_OPEN = 128
"""Messages on their way at once: the engine searches all of them for each that it delivers."""
_IDLE_SHARE = 3.0
"""Seconds of sleep for each second that asking for replies takes, at least."""
_DELIVERIES = 10
"""How often a message is sent that went to a worker that had died before."""
_REDELIVERY_PAUSE = 0.5
_WORKER_DIED = "its worker process died"
_NOT_BEGUN = Failure(f"{_WORKER_DIED} before the step began")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the configuration of ``context.run_config``."""
    config = parse(dict(context.run_config))
    network = build_network(config)
    _, attack = build_rules(config)
    given = os.environ.get(RUN_FOLDER_VARIABLE)
    folder = Path(given) if given else create_run_folder(config, Path.cwd())
    print(f"flower-dfl: run folder {folder}", flush=True)  # noqa: T201 - Flower's log is the user's terminal here
    checkpoint = load_checkpoint(folder, config)  # the folder of a new run is empty
    mark = None if checkpoint is None else checkpoint.mark
    with RunWriter(folder, config, network, f"flower+{config.transport}", mark) as writer:
        team = _Team(grid, config, network, attack)
        writer.nodes(team.shake_hands())
        if is_ray_running():
            print(f"flower-dfl: {describe_cluster()}", flush=True)  # noqa: T201
        try:
            team.restore(checkpoint)
            play_rounds(config, network, attack, team, writer, resumed=checkpoint)
        finally:
            team.close()
    print(f"flower-dfl: completed, results in {folder}", flush=True)  # noqa: T201


class _Hub(Protocol):
    """The server's end of a transport."""

    def distances_to_mean(self, nodes: list[NodeId]) -> list[float]: ...

    def memories(self, nodes: Iterable[NodeId]) -> Iterable[tuple[NodeId, Memory]]: ...

    def letters_of(self, sender: NodeId, round: int) -> Mapping[NodeId, Update]: ...

    def restore(
        self, memories: Mapping[NodeId, Memory], letters: Iterable[tuple[NodeId, int, Mapping[NodeId, Update]]]
    ) -> None: ...

    def close(self) -> None: ...


class _Team:
    """The nodes of a run behind Flower's messages, and the server's end of their transport."""

    def __init__(self, grid: Grid, config: RunConfig, network: Network, attack: Attack | None) -> None:
        self._grid = grid
        self._config = config
        self._network = network
        self._attack = attack
        self._addresses: dict[NodeId, int] = {}
        self._hub: Mailbox | Relay | None = None

    def shake_hands(self) -> list[NodeFacts]:
        """Learn which SuperNode is which node, compare code versions, and collect data facts."""
        addresses = _wait_for_nodes(self._grid, self._config.num_nodes)
        self._addresses = dict(enumerate(addresses))  # provisional: addresses are in no order
        hello = RecordDict({STEP: ConfigRecord({"code-version": code_version()})})
        replies = self._greet(hello)
        facts = {}
        for place, reply in sorted(replies.items()):
            if isinstance(reply, Failure):
                raise NodeFailedError(f"SuperNode {addresses[place]} failed in the handshake: {reply.cause}")
            if failure := reply.config_records.get(FAILURE):
                who, cause = failure.get("node", f"at SuperNode {addresses[place]}"), _cause_of(failure)
                raise NodeFailedError(f"node {who!s} failed in the handshake: {cause}")
            try:
                facts[place] = NodeFacts.from_json(_text(reply, FACTS))
            except (ValueError, TypeError, KeyError) as error:
                raise NodeFailedError(
                    f"SuperNode {addresses[place]} sent data facts that cannot be read: {error}"
                ) from error
        self._addresses = {fact.node: addresses[place] for place, fact in facts.items()}
        if sorted(self._addresses) != list(self._network.nodes):
            raise ConfigurationError(
                f"expected partition-ids 0..{self._config.num_nodes - 1}, got {sorted(self._addresses)}"
            )
        return list(facts.values())

    def _greet(self, hello: RecordDict) -> dict[NodeId, "RecordDict | Failure"]:
        """Greet all nodes; those whose worker dies are greeted again, as nothing has happened yet."""
        replies: dict[NodeId, RecordDict | Failure] = {}
        open_nodes = list(self._addresses)
        for _ in range(_DELIVERIES):
            replies |= self._ask(dict.fromkeys(open_nodes, hello), MessageType.QUERY)
            open_nodes = [node for node in open_nodes if _is_answer_of_the_dead(replies[node])]
            if not open_nodes:
                break
            time.sleep(_REDELIVERY_PAUSE)
        return replies

    def restore(self, checkpoint: Checkpoint | None) -> None:
        """Open a new hub, and put the nodes where a checkpoint left them."""
        self.close()
        # The simulation engine starts Ray beside this thread; that the nodes have answered means that it is up.
        kept = rounds_kept(self._config)
        hub = Relay(kept) if self._config.transport == "relay" else _open_mailbox(self._config.node_timeout, kept)
        self._hub = hub
        if checkpoint is not None:
            hub.restore(checkpoint.memories, checkpoint.letters)

    def step(self, wave: Wave, message: int, nodes: Iterable[NodeId]) -> Mapping[NodeId, Outcome]:
        """Let nodes play a message, or strike in its second wave."""
        if isinstance(self._hub, Relay) and wave == "play":
            self._hub.begin(message)
        outcomes: dict[NodeId, Outcome] = {}
        open_nodes = list(nodes)
        for _ in range(_DELIVERIES):
            contents = {node: self._content(wave, message, node) for node in open_nodes}
            replies = self._ask(contents, MessageType.TRAIN)
            if isinstance(self._hub, Relay):
                honest = (replies[node] for node in self._network.honest if node in replies)
                self._hub.learn_sizes(reply for reply in honest if not isinstance(reply, Failure))
            outcomes |= {node: self._outcome(wave, node, message, reply) for node, reply in sorted(replies.items())}
            open_nodes = [node for node in open_nodes if outcomes[node] == _NOT_BEGUN]
            if not open_nodes:
                break
            time.sleep(_REDELIVERY_PAUSE)
        return outcomes

    def distances_to_mean(self, nodes: list[NodeId]) -> list[float]:
        """Return each node's distance from the mean of their start-of-round models."""
        return self._open_hub.distances_to_mean(nodes)

    def memories(self, nodes: Iterable[NodeId]) -> Iterable[tuple[NodeId, Memory]]:
        """Yield each node's memory, one node at a time."""
        return self._open_hub.memories(nodes)

    def letters_of(self, sender: NodeId, round: int) -> Mapping[NodeId, Update]:
        """Return what a node sent in a round, by receiver."""
        return self._open_hub.letters_of(sender, round)

    def close(self) -> None:
        """End the hub."""
        if self._hub is not None:
            self._hub.close()
            self._hub = None

    @property
    def _open_hub(self) -> _Hub:
        if self._hub is None:
            raise LostError("the hub of the run is closed")
        return self._hub

    @property
    def _knowledge(self) -> Knowledge:
        return Knowledge.LOCAL if self._attack is None else self._attack.knowledge

    def _content(self, wave: Wave, message: int, node: NodeId) -> RecordDict:
        """Return a message; a relayed one says what its reply must carry, and brings what the node may see."""
        hub = self._hub
        mailbox = hub.name if isinstance(hub, Mailbox) else ""
        wanted = self._wanted(message, node) if isinstance(hub, Relay) and wave == "play" else []
        content = RecordDict(
            {STEP: ConfigRecord({"kind": wave, "message": message, "mailbox": mailbox, "wanted": wanted})}
        )
        if isinstance(hub, Relay) and wave == "play":
            arrivals = self._network.arrivals(node, message - 1) if message > 1 else []
            content.update(hub.letters_for(node, arrivals))
            content.update(hub.memory_for(node))
        elif isinstance(hub, Relay):
            seen = self._network.honest if self._knowledge is Knowledge.OMNISCIENT else ()
            content.update(hub.half_steps_of([*sorted(self._network.byzantine), *seen]))
        return content

    def _wanted(self, message: int, node: NodeId) -> list[str]:
        """Return what a relayed reply must carry beside letters and report."""
        config, closes = self._config, message - 1
        saves = config.checkpoint.every and closes > 0 and closes % config.checkpoint.every == 0
        is_seen = self._knowledge is Knowledge.OMNISCIENT or (
            self._knowledge is Knowledge.COLLUDING and node in self._network.byzantine
        )
        trains = message <= config.num_rounds and self._network.conditions.is_present(node, message)
        return (
            [MODEL] * (closes > 0 and config.is_due(closes))
            + [MEMORY] * bool(saves or closes == config.num_rounds)
            + [HALF_STEP] * (is_seen and trains)
        )

    def _outcome(self, wave: Wave, node: NodeId, message: int, reply: "RecordDict | Failure") -> Outcome:
        """Read a reply; one that makes no sense is a failure of the node."""
        if isinstance(reply, Failure):
            return self._without_reply(wave, node, message, reply)
        if failure := reply.config_records.get(FAILURE):
            failed = Failure(_cause_of(failure), bool(failure.get("lost", False)))
            return self._without_reply(wave, node, message, failed)
        try:
            report = _report(node, message, reply)
            if isinstance(self._hub, Relay):
                self._hub.accept(node, message, reply, self._wanted(message, node) if wave == "play" else [])
        except TransportError as error:  # a node behind the relay has entered the round, and cannot do so again
            return Failure(str(error), is_lost=isinstance(self._hub, Relay))
        return report

    def _without_reply(self, wave: Wave, node: NodeId, message: int, failure: Failure) -> Outcome:
        """Say what became of a step that failed: a worker may have handed it in before, or never have begun it."""
        if not isinstance(self._hub, Mailbox) or failure.is_lost:
            return failure
        try:
            if wave == "strike":
                return None if self._hub.letters_of(node, message) else failure
            progress = self._hub.progress(node, message)
        except TransportError:  # then the next step will fail for that
            return failure
        if progress is None:
            return _NOT_BEGUN if _is_answer_of_the_dead(failure) else failure
        return _stored_report(progress) if progress.startswith("committed:") else failure

    def _ask(self, contents: Mapping[NodeId, RecordDict], kind: str) -> dict[NodeId, "RecordDict | Failure"]:
        """Send one message to each node; what comes back is a reply's content, or why there is none."""
        messages = [Message(content, self._addresses[node], kind) for node, content in contents.items()]
        limit = self._config.node_timeout
        patience = limit + START_TIMEOUT + _GRACE
        taken, replies = _send_and_receive(self._grid, messages, patience)
        sent = {message.metadata.message_id: node for node, message in zip(contents, messages, strict=True)}
        silent = Failure(f"no answer for {patience:.0f} s, node-timeout = {limit:.0f} s and a worker's start")
        gone = Failure("the SuperLink took no message to it: its SuperNode is gone, or the message is too large")
        found: dict[NodeId, RecordDict | Failure] = dict.fromkeys(contents, gone)
        found |= {node: silent for identity, node in sent.items() if identity in taken}
        for reply in replies:  # for a SuperNode that goes away meanwhile the SuperLink answers in its place
            node = sent.get(reply.metadata.reply_to_message_id)
            if node is not None:
                found[node] = Failure(_cause(reply, limit)) if reply.has_error() else reply.content
        return found


def _is_answer_of_the_dead(answer: "RecordDict | Failure") -> bool:
    return isinstance(answer, Failure) and answer.cause.startswith(_WORKER_DIED)


def _cause_of(failure: ConfigRecord) -> str:
    return str(failure.get("error", "it did not say why"))


def _cause(reply: Message, limit: float) -> str:
    reason = str(reply.error.reason)
    if "ActorDiedError" in reason or "ActorUnavailableError" in reason:
        return f"{_WORKER_DIED}: ended after node-timeout = {limit:.0f} s, out of memory, killed, or crashed"
    return f"the engine reports {reason}"


def _open_mailbox(timeout: float, kept: int) -> Mailbox:
    if not is_ray_running():
        raise ConfigurationError(
            "transport = 'mailbox' needs Flower's simulation engine; on the deployment engine set transport = 'relay'"
        )
    return Mailbox(timeout, kept)


def _wait_for_nodes(grid: Grid, expected: int) -> list[int]:
    """Wait until exactly the expected number of SuperNodes is there."""
    began = changed = time.monotonic()
    found: list[int] = []
    while time.monotonic() - began < _NODES_TIMEOUT:
        now = sorted(grid.get_node_ids())
        if len(now) == expected:
            return now
        if now != found:
            found, changed = now, time.monotonic()
        if found and time.monotonic() - changed > _SETTLED:
            break
        time.sleep(0.1)
    raise ConfigurationError(
        f"expected num-nodes = {expected} SuperNodes, got {len(found)}. Start the run with as many: "
        f'flwr run . --stream --federation-config "num-supernodes={expected} client-resources-num-cpus=1"'
    )


def _send_and_receive(grid: Grid, messages: list[Message], patience: float) -> tuple[set[str], list[Message]]:
    """Send messages and wait for the replies; give the open ones up when none has come for ``patience`` seconds.

    Returns:
        Identities of the messages that were taken, and the replies.
    """
    unsent = messages[::-1]
    taken: set[str] = set()
    open_ids: set[str] = set()
    replies: list[Message] = []
    last = time.monotonic()
    while unsent or open_ids:
        if unsent and len(open_ids) <= _MOST_OPEN // 2:
            count = min(len(unsent), _MOST_OPEN - len(open_ids))
            pushed = set(filter(None, grid.push_messages([unsent.pop() for _ in range(count)])))
            taken |= pushed
            open_ids |= pushed
        asked = time.monotonic()
        arrived = list(grid.pull_messages(open_ids))
        if arrived:
            last = time.monotonic()
            replies += arrived
            open_ids -= {reply.metadata.reply_to_message_id for reply in arrived}
        elif time.monotonic() - last > patience:
            last = time.monotonic()
            open_ids = set()
        if open_ids:  # asking takes longer the more messages are open; it must not keep the workers from theirs
            time.sleep(max(_POLL, _IDLE_SHARE * (time.monotonic() - asked)))
    return taken, replies


def _stored_report(progress: str) -> Report | None:
    text = progress.removeprefix("committed:")
    return Report.from_json(text) if text else None


def _report(node: NodeId, message: int, reply: RecordDict) -> Report | None:
    """Read a node's report on the round that a message closes, if the reply has one, and the digests beside it."""
    if REPORT not in reply.config_records:
        return None
    try:
        digests = reply.config_records.get(DIGESTS)
        report = Report.from_json(
            _text(reply, REPORT), None if digests is None else codec.unpack(read_bytes(digests, "data"))
        )
    except (ValueError, TypeError, KeyError, AttributeError, TransportError) as error:
        raise TransportError(f"node {node} sent a report that cannot be read: {error}") from error
    if (report.node, report.round) != (node, message - 1):
        raise TransportError(
            f"node {node} sent a report of node {report.node!r}, round {report.round!r}; expected round {message - 1}"
        )
    return report


def _text(content: RecordDict, name: str) -> str:
    record = content.config_records.get(name)
    if record is None:
        raise TransportError(f"expected a record {name!r} in a reply, got {sorted(content)}")
    return str(record["json"])
