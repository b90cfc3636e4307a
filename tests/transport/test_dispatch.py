"""Delivery in Flower's simulation: each message once, in order, and only to simulated nodes."""

import queue
import threading
from types import SimpleNamespace

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.server.superlink.fleet.vce import vce_api
from flwr.supercore.task_identity import TaskIdentity

from flower_dfl.transport import dispatch as module
from flower_dfl.transport.dispatch import dispatch, install


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch):
    """Take back what is installed; and let messages be made outside of a Flower task."""
    monkeypatch.setattr(vce_api, "add_messages_to_queue", vce_api.add_messages_to_queue)
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


class Store:
    """Flower's store of messages as far as delivery sees it; the run ends once nothing is left to deliver."""

    def __init__(self, nodes, stop):
        self.lock = threading.RLock()
        self.message_ins_store = {f"id-{place}": self._message(node) for place, node in enumerate(nodes)}
        self.asked = []
        self._stop = stop

    @staticmethod
    def _message(node):
        return Message(RecordDict(), dst_node_id=node, message_type="train")

    def get_message_ins(self, node_id, limit):
        self.asked.append(node_id)
        waiting = [
            message
            for message in self.message_ins_store.values()
            if message.metadata.dst_node_id == node_id and not message.metadata.delivered_at
        ][:limit]
        for message in waiting:
            message.metadata.delivered_at = "now"
        if all(message.metadata.delivered_at for message in self.message_ins_store.values()):
            self._stop.set()
        return waiting


def delivered(nodes, mapping, under_way=()):
    stop, found = threading.Event(), queue.Queue()
    store = Store([*under_way, *nodes], stop)
    for message in list(store.message_ins_store.values())[: len(under_way)]:
        message.metadata.delivered_at = "before"

    dispatch(store, found, mapping, stop)

    return [found.get_nowait().metadata.dst_node_id for _ in range(found.qsize())], store.asked


def test_every_message_is_delivered_once_in_the_order_of_sending():
    found, _ = delivered([7, 5, 9], {5: 0, 7: 1, 9: 2})

    assert found == [7, 5, 9]


def test_two_messages_to_one_node_are_both_delivered():
    found, _ = delivered([7, 7, 5], {5: 0, 7: 1})

    assert sorted(found) == [5, 7, 7]


def test_only_nodes_with_a_message_are_asked_for():
    _, asked = delivered([3], {node: node for node in range(1_000)})

    assert asked == [3]


def test_nodes_that_are_at_work_are_not_asked_for():
    _, asked = delivered([3], {3: 0, 4: 1}, under_way=[4])

    assert asked == [3]


def test_the_installed_flower_is_one_that_it_fits(caplog):
    install()
    install()

    assert vce_api.add_messages_to_queue is dispatch
    assert caplog.records == []


def other_arguments(state, queue): ...


def starts_another(): ...


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        (None, "'NoneType' object has no attribute 'run_api'"),
        (SimpleNamespace(run_api=starts_another), "run_api starts no add_messages_to_queue"),
        (SimpleNamespace(run_api=vce_api.run_api, add_messages_to_queue=other_arguments), "got ['state', 'queue']"),
    ],
)
def test_another_flower_is_left_as_it_is_with_a_warning(monkeypatch, caplog, changed, difference):
    monkeypatch.setattr(module, "vce_api", changed)

    install()

    assert difference in caplog.text
    assert getattr(changed, "add_messages_to_queue", None) is not dispatch


def test_a_store_that_is_kept_otherwise_is_left_as_it_is(monkeypatch, caplog):
    monkeypatch.setattr(module, "InMemoryLinkState", Error)

    install()

    assert "has no ['lock', 'message_ins_store']" in caplog.text
