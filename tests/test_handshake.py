"""The first message: server and worker compare the code they run."""

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from flower_dfl.client_app import app
from flower_dfl.code_version import code_version
from flower_dfl.config import RunConfig, flatten
from flower_dfl.wire import FACTS, FAILURE, STEP


@pytest.fixture(autouse=True)
def _in_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages can be made only inside a Flower task; its engine sets this, here the test does."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def _greet(version: str, node_config: dict[str, object] | None = None) -> RecordDict:
    content = RecordDict({STEP: ConfigRecord({"code-version": version})})
    context = Context(
        run_id=1,
        node_id=7,
        node_config={"partition-id": 3, "num-partitions": 10} if node_config is None else node_config,
        state=RecordDict(),
        run_config=dict(flatten(RunConfig())),
    )
    return app(Message(content, dst_node_id=7, message_type="query"), context).content


def test_a_worker_with_the_same_code_says_which_node_it_is_and_what_data_it_has() -> None:
    answer = _greet(code_version())

    assert FAILURE not in answer
    assert '"node": 3' in answer.config_records[FACTS]["json"]


@pytest.mark.parametrize(
    ("node_config", "message"),
    [
        ({"partition-id": 10}, "expected a partition-id in 0..9, got 10"),
        ({"partition-id": -1}, "expected a partition-id in 0..9, got -1"),
        ({"partition-id": 2.7}, "expected --node-config 'partition-id=N' of the SuperNode, got 2.7"),
        ({"partition-id": True}, "expected --node-config 'partition-id=N' of the SuperNode, got True"),
        ({}, "expected --node-config 'partition-id=N' of the SuperNode, got None"),
        ({"partition-id": "first"}, "expected --node-config 'partition-id=N' of the SuperNode, got 'first'"),
    ],
)
def test_a_worker_that_does_not_know_which_node_it_is_says_so(node_config, message) -> None:
    assert FAILURE in _greet("0.0.0+somethingelse", node_config)
    assert message in _greet(code_version(), node_config).config_records[FAILURE]["error"]


def test_a_worker_with_other_code_refuses_and_names_both_versions() -> None:
    answer = _greet("0.0.0+somethingelse")

    failure = answer.config_records[FAILURE]
    assert failure["node"] == 3
    assert "0.0.0+somethingelse" in failure["error"]
    assert code_version() in failure["error"]


def test_the_code_version_is_stable_and_names_the_package_version() -> None:
    assert code_version() == code_version()
    assert code_version().startswith("0.1.0+")
