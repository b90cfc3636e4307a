"""The Flower ServerApp: clock, topology and metrics sink. It aggregates no model."""

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp
from torch import Tensor

from flower_dfl.code_version import code_version
from flower_dfl.config import RunConfig, parse
from flower_dfl.errors import ConfigurationError, NodeFailedError, TransportError
from flower_dfl.experiment import build_rules
from flower_dfl.network import Network, build_network
from flower_dfl.node import NodeFacts, Report, step_name
from flower_dfl.protocols import Attack
from flower_dfl.records import RunWriter, create_run_folder
from flower_dfl.transport.mailbox import Mailbox, is_ray_running
from flower_dfl.transport.relay import HALF_STEP, MODEL, Relay
from flower_dfl.types import Knowledge, NodeId
from flower_dfl.wire import FACTS, FAILURE, REPORT, RUN_FOLDER_VARIABLE, STEP

__all__ = ["app"]

_NODES_TIMEOUT = 60.0
_SETTLED = 3.0
"""Seconds without a change after which the number of SuperNodes is taken as final."""
_GRACE = 30.0
"""Seconds beyond ``node-timeout`` in which the engine must report a dead worker."""

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
    with RunWriter(folder, config, network, f"flower+{config.transport}") as writer:
        _Run(grid, config, network, attack, writer).play()
    print(f"flower-dfl: completed, results in {folder}", flush=True)  # noqa: T201


class _Hub(Protocol):
    """The server's end of a transport."""

    def distances_to_mean(self, round: int, nodes: list[NodeId]) -> list[float]: ...

    def models(self, round: int, nodes: Iterable[NodeId]) -> Iterable[tuple[NodeId, Tensor, Tensor]]: ...

    def close(self) -> None: ...


@dataclass
class _Run:
    """One run's dialogue with its nodes.

    ``relay`` is the server's end of the relay transport, if that is used; ``mailbox_name`` names the mailbox otherwise.
    """

    grid: Grid
    config: RunConfig
    network: Network
    attack: Attack | None
    writer: RunWriter
    relay: Relay | None = None
    mailbox_name: str = ""
    addresses: dict[NodeId, int] = field(default_factory=dict)

    def play(self) -> None:
        """Shake hands, then send every node message 1 to T + 1."""
        self._shake_hands()
        # The simulation engine starts Ray beside this thread; that the nodes have answered means that it is up.
        if self.config.transport == "relay":
            self.relay = Relay()
            self._rounds(self.relay)
        else:
            mailbox = _open_mailbox(self.config.node_timeout)
            self.mailbox_name = mailbox.name
            try:
                self._rounds(mailbox)
            finally:
                mailbox.close()

    def _rounds(self, hub: _Hub) -> None:
        config, honest = self.config, list(self.network.honest)
        for message in range(1, config.num_rounds + 2):
            closes = message - 1
            due = closes > 0 and config.is_due(closes)
            replies = self._step("play", message, self.network.nodes, models=due)
            if self._knowledge is not Knowledge.LOCAL and message <= config.num_rounds:
                self._step("strike", message, sorted(self.network.byzantine), models=False)
            if self.relay is not None:
                self.relay.turn()
            if closes > 0:
                reports = [_report(node, replies[node]) for node in self.network.nodes]
                distances = hub.distances_to_mean(message, honest) if due else []
                self.writer.round(reports, dict(zip(honest, distances, strict=False)))
        self.writer.checkpoint(hub.models(config.num_rounds + 1, self.network.nodes))

    @property
    def _knowledge(self) -> Knowledge:
        return Knowledge.LOCAL if self.attack is None else self.attack.knowledge

    def _step(self, kind: str, message: int, nodes: Iterable[NodeId], *, models: bool) -> dict[NodeId, RecordDict]:
        """Let nodes play a message, or strike in its second wave; relayed replies are sorted into the next ones."""
        contents = {node: self._content(kind, message, node, models=models) for node in nodes}
        replies = self._ask(contents, MessageType.TRAIN, step_name(message, self.config.num_rounds))
        if self.relay is not None:
            for node, reply in sorted(replies.items()):
                self.relay.accept(node, reply)
        return replies

    def _content(self, kind: str, message: int, node: NodeId, *, models: bool) -> RecordDict:
        """Return a message; a relayed one says what its reply must carry, and brings what the node may see."""
        byzantine, omniscient = self.network.byzantine, self._knowledge is Knowledge.OMNISCIENT
        seen_by_attackers = omniscient or (self._knowledge is Knowledge.COLLUDING and node in byzantine)
        wanted = [MODEL] * models + [HALF_STEP] * (kind == "play" and seen_by_attackers)
        step = ConfigRecord({"kind": kind, "message": message, "mailbox": self.mailbox_name, "wanted": wanted})
        content = RecordDict({STEP: step})
        if self.relay is not None and kind == "play":
            content.update(self.relay.letters_for(node))
        elif self.relay is not None:
            content.update(self.relay.half_steps_of([*sorted(byzantine), *(self.network.honest if omniscient else ())]))
        return content

    def _ask(self, contents: Mapping[NodeId, RecordDict], kind: str, when: str) -> dict[NodeId, RecordDict]:
        """Send one message to each node and return the replies; an error names the node and the cause."""
        by_address = {self.addresses[node]: node for node in contents}
        messages = [Message(content, self.addresses[node], kind) for node, content in contents.items()]
        replies = _send_and_receive(self.grid, messages, self.config.node_timeout + _GRACE)
        answered = {by_address[reply.metadata.src_node_id]: reply for reply in replies}
        for node, reply in sorted(answered.items()):
            if reply.has_error():
                raise NodeFailedError(f"node {node} failed {when}: {self._cause(reply)}")
            if failure := reply.content.config_records.get(FAILURE):
                raise NodeFailedError(f"node {failure['node']!r} failed {when}: {failure['error']!s}")
        missing = [node for node in contents if node not in answered]
        if missing:
            raise NodeFailedError(
                f"no answer {when} from nodes {missing} within node-timeout = {self.config.node_timeout:.0f} s"
            )
        return {node: reply.content for node, reply in answered.items()}

    def _cause(self, reply: Message) -> str:
        reason = str(reply.error.reason)
        if "ActorDiedError" in reason or "ActorUnavailableError" in reason:
            limit = self.config.node_timeout
            return f"its worker process died: ended after node-timeout = {limit:.0f} s, out of memory, or killed"
        return f"the engine reports {reason}"

    def _shake_hands(self) -> None:
        """Learn which SuperNode is which node, compare code versions, and collect data facts."""
        addresses = _wait_for_nodes(self.grid, self.config.num_nodes)
        self.addresses = dict(enumerate(addresses))  # provisional: addresses are in no order
        hello = RecordDict({STEP: ConfigRecord({"code-version": code_version()})})
        replies = self._ask(dict.fromkeys(self.addresses, hello), MessageType.QUERY, "in the handshake")
        facts = {node: NodeFacts(**json.loads(_text(reply, FACTS))) for node, reply in replies.items()}
        self.addresses = {fact.node: addresses[place] for place, fact in facts.items()}
        if sorted(self.addresses) != list(self.network.nodes):
            raise ConfigurationError(
                f"expected partition-ids 0..{self.config.num_nodes - 1}, got {sorted(self.addresses)}"
            )
        self.writer.nodes(facts.values())


def _open_mailbox(timeout: float) -> Mailbox:
    if not is_ray_running():
        raise ConfigurationError(
            "transport = 'mailbox' needs Flower's simulation engine; on the deployment engine set transport = 'relay'"
        )
    return Mailbox(timeout)


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


def _send_and_receive(grid: Grid, messages: list[Message], patience: float) -> list[Message]:
    """Send messages and wait for the replies; give up when none has come for ``patience`` seconds."""
    open_ids = set(grid.push_messages(messages))
    replies: list[Message] = []
    last = time.monotonic()
    while open_ids and time.monotonic() - last < patience:
        arrived = list(grid.pull_messages(open_ids))
        if arrived:
            last = time.monotonic()
            replies += arrived
            open_ids -= {reply.metadata.reply_to_message_id for reply in arrived}
        else:
            time.sleep(0.02)
    return replies


def _report(node: NodeId, reply: RecordDict) -> Report:
    try:
        return Report.from_json(_text(reply, REPORT))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TransportError(f"node {node} sent a report that cannot be read: {error}") from error


def _text(content: RecordDict, name: str) -> str:
    record = content.config_records.get(name)
    if record is None:
        raise TransportError(f"expected a record {name!r} in a reply, got {sorted(content)}")
    return str(record["json"])
