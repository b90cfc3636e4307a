"""What the tests of the Flower strategies share: clients' replies without clients."""

from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from flower_dfl.integrations.screening import ScreenedFedAvg


@pytest.fixture(autouse=True)
def server_task(monkeypatch):
    """Flower makes messages only inside the process of a run, which this pretends to be."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


class FakeGrid:
    """Knows who is connected, and nothing else."""

    def __init__(self, nodes):
        self.nodes = list(nodes)

    def get_node_ids(self):
        return self.nodes


def record(vector, **others):
    """Return a model with one float array, and others by key."""
    arrays = {"weight": Array(torch.as_tensor(vector, dtype=torch.float32).numpy())}
    return ArrayRecord(arrays | {key: Array(value) for key, value in others.items()})


def vector_of(arrays):
    """Return the float array of a model."""
    return torch.from_numpy(arrays["weight"].numpy().copy())


def task(node):
    return Message(RecordDict(), dst_node_id=node, message_type="train")


def reply(node, arrays, **metrics: Any):
    """Return a client's reply: a record, a vector, or any content."""
    if not isinstance(arrays, ArrayRecord | RecordDict):
        arrays = record(arrays)
    if isinstance(arrays, ArrayRecord):
        arrays = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1} | metrics)})
    return Message(arrays, reply_to=task(node))


def failure(node):
    return Message(Error(code=0, reason="it raised"), reply_to=task(node))


def replies(rows):
    """Return one reply for each row; the first node is 1."""
    return [reply(node, row) for node, row in enumerate(rows, 1)]


def ask(strategy: ScreenedFedAvg, arrays, nodes, server_round=1):
    """Configure a round and return whom it asks."""
    strategy.min_train_nodes = strategy.min_available_nodes = 0  # FedAvg waits for two otherwise
    if not isinstance(arrays, ArrayRecord):
        arrays = record(arrays)
    messages = strategy.configure_train(server_round, arrays, ConfigRecord(), FakeGrid(nodes))
    return sorted(message.metadata.dst_node_id for message in messages)


def play(strategy, arrays, answers, server_round=1):
    """Play a round with every node that answers; return the model and the metrics."""
    answers = list(answers)
    ask(strategy, arrays, [message.metadata.src_node_id for message in answers], server_round)
    return strategy.aggregate_train(server_round, answers)
