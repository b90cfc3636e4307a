"""Messages go to Flower's simulation workers at once, however many nodes there are.

Flower 1.41 looks for new messages ten times a second, for every node on its own, and goes through all open messages
each time: with a thousand nodes this takes longer than the nodes' work. :func:`dispatch` looks only for the nodes to
which a message is waiting. :func:`install` puts it into the place of Flower's loop. It must be called before Flower
starts the loop, as the import of the ClientApp is.
"""

import inspect
import logging
import threading
from collections.abc import Mapping
from queue import Queue
from typing import Any

try:
    from flwr.server.superlink.fleet.vce import vce_api
    from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
except ImportError:  # not public, so another Flower may not have them; `install` says so
    vce_api, InMemoryLinkState = None, None  # type: ignore[assignment, misc]

__all__ = ["dispatch", "install"]

_logger = logging.getLogger(__name__)

_PARAMETERS = ["state", "queue", "nodes_mapping", "f_stop"]
_POLL = 0.02


def dispatch(state: Any, queue: "Queue[Any]", nodes_mapping: Mapping[int, int], f_stop: threading.Event) -> None:  # noqa: ANN401 - Flower's
    """Put new messages into the queue of the workers, in the order in which they were sent, until the run ends.

    Args:
        state: Flower's store of messages.
        queue: Where the workers take messages from.
        nodes_mapping: The simulated nodes.
        f_stop: Set at the end of the run.
    """
    while not f_stop.is_set():
        with state.lock:
            stored = [message.metadata for message in state.message_ins_store.values()]
        waiting = dict.fromkeys(metadata.dst_node_id for metadata in stored if not metadata.delivered_at)
        for node_id in waiting:
            if node_id in nodes_mapping:
                for message in state.get_message_ins(node_id=node_id, limit=1):
                    queue.put(message)
        f_stop.wait(_POLL)


def install() -> None:
    """Let Flower's simulation deliver by :func:`dispatch`; leave a Flower alone that is not as expected."""
    difference = _difference()
    if difference is None:
        vce_api.add_messages_to_queue = dispatch
    else:
        _logger.warning("this Flower's delivery of messages is left as it is, slow with many nodes: %s", difference)


def _difference() -> str | None:
    """Return in what Flower's loop is not what :func:`dispatch` takes the place of."""
    try:
        if "add_messages_to_queue" not in vce_api.run_api.__code__.co_names:
            return "run_api starts no add_messages_to_queue"
        found = list(inspect.signature(vce_api.add_messages_to_queue).parameters)
        if found != _PARAMETERS:
            return f"expected add_messages_to_queue to take {_PARAMETERS}, got {found}"
        missing = {"lock", "message_ins_store"} - set(InMemoryLinkState.__init__.__code__.co_names)
    except AttributeError as error:
        return str(error)
    return f"InMemoryLinkState has no {sorted(missing)}" if missing else None
