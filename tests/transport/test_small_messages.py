"""Through the object store, neither Flower's messages nor a node's ``Context.state`` carry models."""

import pytest
import ray
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from flower_dfl.client_app import app
from flower_dfl.config import flatten, parse
from flower_dfl.transport.mailbox import Mailbox
from flower_dfl.wire import REPORT, STEP

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # Ray's own, at its end
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
]

NODES, ROUNDS = 3, 2
CONFIG = parse(
    {
        "num-nodes": NODES,
        "num-rounds": ROUNDS,
        "num-byzantine": 0,
        "attack.name": "none",
        "topology.name": "complete",
        "strategy.name": "average",
        "model.name": "fc",  # 400 kB
        "data.num-train": 60,
        "data.num-test": 20,
    }
)


@pytest.fixture
def mailbox(monkeypatch):
    for name in ("_task_id", "_run_id", "_node_id"):  # messages can be made only inside a Flower task
        monkeypatch.setattr(TaskIdentity, name, 1)
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or Ray warns
    ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    mailbox = Mailbox(timeout=30.0, rounds_kept=1)
    yield mailbox
    mailbox.close()
    ray.shutdown()


def size(content):
    return sum(record.count_bytes() for record in content.values())


def test_replies_and_states_stay_below_ten_kilobytes(mailbox):
    contexts = [
        Context(1, node, {"partition-id": node, "num-partitions": NODES}, RecordDict(), dict(flatten(CONFIG)))
        for node in range(NODES)
    ]
    replies = []

    for message in range(1, ROUNDS + 2):
        for node, context in enumerate(contexts):
            order = {"kind": "play", "message": message, "mailbox": mailbox.name, "wanted": []}
            content = RecordDict({STEP: ConfigRecord(order)})
            replies.append(app(Message(content, dst_node_id=node, message_type="train"), context).content)

    assert sum(REPORT in reply for reply in replies) == NODES * ROUNDS
    assert max(map(size, replies)) < 10_000
    assert max(size(context.state) for context in contexts) < 10_000
