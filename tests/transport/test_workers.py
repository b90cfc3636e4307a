"""The pool that mends itself, in Flower's own backend, on a real Ray, with processes that are really killed."""

import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.server.superlink.fleet.vce.backend import raybackend
from flwr.simulation.ray_transport.ray_actor import BasicActorPool
from flwr.supercore.task_identity import TaskIdentity
from ray.exceptions import RayActorError

from flower_dfl.errors import ConfigurationError, TransportError
from flower_dfl.transport import workers
from flower_dfl.transport.workers import MendingActorPool, install

pytestmark = [  # Ray leaves to the garbage collector what it opened and started
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
]


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch):
    """Take back what is installed; and let messages be made outside of a Flower task."""
    monkeypatch.setattr(raybackend, "BasicActorPool", BasicActorPool)
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def test_the_installed_flower_is_one_that_it_fits(caplog):
    install()
    install()

    assert raybackend.BasicActorPool is MendingActorPool
    assert caplog.records == []


class Renamed:
    def __init__(self, actor_type, client_resources, actor_kwargs):
        self.pool, self.num_actors, self.create_actor_fn, self._future_to_actor = [], 0, None, {}

    def add_actors_to_pool(self, num_actors): ...

    def add_actor_back_to_pool(self, future): ...


class OtherArguments(Renamed):
    def submit(self, job): ...


class OtherAttributes(Renamed):
    def __init__(self, actor_type, client_resources, actor_kwargs):
        self.idle, self.num_actors, self.create_actor_fn, self._future_to_actor = [], 0, None, {}

    def submit(self, actor_fn, job): ...


def builds_another(backend):
    backend.pool = OtherArguments(None, {}, {})


@pytest.mark.parametrize(
    ("name", "value", "difference"),
    [
        ("raybackend", None, "'NoneType' object has no attribute 'RayBackend'"),
        ("raybackend", SimpleNamespace(RayBackend=SimpleNamespace(build=builds_another)), "makes no BasicActorPool"),
        ("BasicActorPool", Renamed, "no attribute 'submit'"),
        ("BasicActorPool", OtherArguments, r"submit to take ['self', 'actor_fn', 'job'], got ['self', 'job']"),
        ("BasicActorPool", OtherAttributes, "BasicActorPool has no ['pool']"),
    ],
)
def test_another_flower_is_left_alone_and_the_log_says_why(name, value, difference, monkeypatch, caplog):
    monkeypatch.setattr(workers, name, value)

    install()

    assert raybackend.BasicActorPool is BasicActorPool
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert difference in record.getMessage()


def app():
    """Return a ClientApp that says who answers; made here, so that workers need not import this file."""
    made = ClientApp()

    @made.query()
    def answer(message: Message, context: Context) -> Message:
        order = message.content["order"]
        if order["what"] == "raise":
            raise RuntimeError("planned failure")
        if order["what"] == "report":
            Path(order["started"]).write_text(
                str(os.getpid()), encoding="utf-8"
            )  # pipes: the test has their other ends
            Path(order["finish"]).read_text(encoding="utf-8")
        return Message(RecordDict({"answer": ConfigRecord({"pid": os.getpid()})}), reply_to=message)

    return made


@pytest.fixture(scope="module")
def cluster():
    """Flower's backend with two workers, on a Ray of two CPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "local")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or Ray warns
        patch.setattr(raybackend, "BasicActorPool", MendingActorPool)
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        backend = raybackend.RayBackend({"client_resources": {"num_cpus": 1}})
        backend.build(app)
        yield backend
        backend.terminate()


@pytest.fixture
def backend(cluster, monkeypatch):
    """The backend; whatever a test did to its workers, the next one finds two."""
    yield cluster
    if cluster.num_workers < 2:
        renew(cluster, monkeypatch)


def renew(backend, monkeypatch):
    """Give a backend two workers that have yet to start."""
    for actor in backend.pool.pool:
        ray.kill(actor)
    monkeypatch.setattr(raybackend, "BasicActorPool", MendingActorPool)
    backend.build(app)


def send(backend, what="answer", **order):
    """Let the backend process a message and return the process that answered."""
    message = Message(RecordDict({"order": ConfigRecord({"what": what} | order)}), dst_node_id=7, message_type="query")
    context = Context(run_id=1, node_id=7, node_config={"partition-id": 0}, state=RecordDict(), run_config={})
    reply, _ = backend.process_message(message, context)
    return reply.content["answer"]["pid"]


class LongCall:
    """A message under way: ``pid`` is the process that has begun with it."""

    def __init__(self, backend, executor, folder, name):
        started, self._finish = folder / f"{name}-started", folder / f"{name}-finish"
        os.mkfifo(started)
        os.mkfifo(self._finish)
        self.result = executor.submit(send, backend, "report", started=str(started), finish=str(self._finish))
        self.pid = int(started.read_text(encoding="utf-8"))

    def end(self):
        self._finish.write_text("", encoding="utf-8")
        return self.result.result(timeout=60)


@pytest.fixture
def calls(backend, tmp_path):
    """Return a function that begins a long call."""
    with ThreadPoolExecutor() as executor:
        begun = []

        def begin():
            begun.append(LongCall(backend, executor, tmp_path, len(begun)))
            return begun[-1]

        yield begin
        for call in begun:
            if not call.result.done():
                kill(call.pid)


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def all_pids(backend, calls):
    """Return the processes of both workers."""
    first, second = calls(), calls()
    return {first.end(), second.end()}


def answered_by(backend, count=20, threads=2):
    """Send messages as Flower does, from a thread for each worker, and return who answered them."""
    with ThreadPoolExecutor(threads) as executor:
        return [future.result(timeout=120) for future in [executor.submit(send, backend) for _ in range(count)]]


@pytest.mark.ray
def test_a_worker_killed_under_a_message_is_replaced_and_eats_no_other(backend, calls):
    call = calls()
    kill(call.pid)

    with pytest.raises(RayActorError):
        call.result.result(timeout=60)
    pids = answered_by(backend)
    assert len(pids) == 20
    assert call.pid not in pids
    assert backend.num_workers == 2


@pytest.mark.ray
def test_a_worker_killed_between_two_messages_eats_none(backend, calls):
    before = all_pids(backend, calls)
    victim = send(backend)
    kill(victim)

    after = set(answered_by(backend)) | all_pids(backend, calls)
    assert victim not in after
    assert len(before & after) == 1
    assert len(after) == 2
    assert backend.num_workers == 2


@pytest.mark.ray
def test_two_workers_killed_at_the_same_time_are_both_replaced(backend, calls):
    under_way = [calls(), calls()]
    for call in under_way:
        kill(call.pid)

    for call in under_way:
        with pytest.raises(RayActorError):
            call.result.result(timeout=60)
    after = set(answered_by(backend)) | all_pids(backend, calls)
    assert len(after) == 2
    assert after.isdisjoint(call.pid for call in under_way)
    assert backend.num_workers == 2


@pytest.mark.ray
def test_a_failing_app_costs_no_worker(backend, calls):
    before = all_pids(backend, calls)

    for _ in range(3):
        with pytest.raises(Exception, match="planned failure"):
            send(backend, "raise")

    assert all_pids(backend, calls) == before


@pytest.mark.ray
def test_a_job_that_cannot_be_handed_over_costs_no_worker(backend):
    def refuse(*_):
        raise MemoryError

    for _ in range(3):
        with pytest.raises(MemoryError):
            backend.pool.submit(refuse, (None, None, None, None))

    assert len(answered_by(backend)) == 20


@pytest.mark.ray
def test_a_message_without_an_idle_worker_waits_for_one(backend, calls):
    busy = [calls(), calls()]

    with ThreadPoolExecutor() as executor:
        waiting = executor.submit(send, backend)
        freed = busy[0].end()

        assert waiting.result(timeout=60) == freed
    busy[1].end()


@pytest.mark.ray
def test_the_wait_for_an_idle_worker_is_bounded(backend, calls, monkeypatch):
    busy = [calls(), calls()]
    monkeypatch.setattr(backend.pool, "longest_wait", 0.1)

    with pytest.raises(TransportError, match=r"^none of 2 workers became free in 0 s$"):
        send(backend)
    for call in busy:
        call.end()


@pytest.mark.ray
@pytest.mark.parametrize(("most", "started"), [("1", 1), ("3", 2)])
def test_no_more_workers_start_than_there_are_nodes(backend, monkeypatch, most, started):
    monkeypatch.setenv("FLOWER_DFL_MOST_WORKERS", most)

    renew(backend, monkeypatch)

    assert backend.num_workers == len(backend.pool.pool) == started
    assert len(answered_by(backend)) == 20
    monkeypatch.delenv("FLOWER_DFL_MOST_WORKERS")  # the next test finds two


@pytest.mark.ray
@pytest.mark.parametrize("most", ["", "0", "-1", "1.5", "many"])
def test_an_impossible_number_of_workers_is_an_error_that_names_its_variable(backend, monkeypatch, most):
    monkeypatch.setenv("FLOWER_DFL_MOST_WORKERS", most)

    with pytest.raises(ConfigurationError, match=f"expected FLOWER_DFL_MOST_WORKERS = .*, got '{most}'"):
        backend.pool.add_actors_to_pool(1)


@pytest.mark.ray
def test_workers_may_take_longer_to_start_than_to_answer(backend, calls, monkeypatch):
    monkeypatch.setattr(MendingActorPool, "patience", 0.0)
    renew(backend, monkeypatch)

    assert len(all_pids(backend, calls)) == 2
    assert backend.num_workers == 2


@pytest.mark.ray
def test_a_successor_may_take_as_long_to_start_as_the_first_ones(backend, calls, monkeypatch):
    first, second = calls(), calls()
    monkeypatch.setattr(backend.pool, "patience", 0.0)
    kill(first.pid)
    with pytest.raises(RayActorError):
        first.result.result(timeout=60)

    with ThreadPoolExecutor() as executor:
        waiting = executor.submit(send, backend)
        second.end()

        assert waiting.result(timeout=120) not in {first.pid, second.pid}  # nobody answers in no time at all
    assert backend.num_workers == 2


@pytest.mark.ray
def test_no_message_waits_for_a_successor_that_another_worker_can_take(backend, calls):
    other = ray.remote(threading.Event).options(num_cpus=1).remote()
    arrived = other.is_set.remote()  # once it has what a dead worker leaves
    victim, left = calls(), calls()
    kill(victim.pid)
    with pytest.raises(RayActorError):
        victim.result.result(timeout=60)
    ray.get(arrived, timeout=60)

    with ThreadPoolExecutor() as executor:
        waiting = executor.submit(send, backend)
        left.end()

        assert waiting.result(timeout=60) == left.pid

    ray.kill(other)
    after = all_pids(backend, calls)  # two at once: one waits until the successor has its room
    assert left.pid in after
    assert victim.pid not in after
    assert len(after) == 2
    assert backend.num_workers == 2


@pytest.mark.ray
def test_the_pool_shrinks_where_the_cluster_has_no_room_and_says_so_when_nobody_is_left(backend, calls):
    others = [ray.remote(threading.Event).options(num_cpus=1).remote() for _ in range(2)]
    arrived = [other.is_set.remote() for other in others]  # once they have what a dead worker leaves
    victims = [calls(), calls()]
    backend.pool.patience = backend.pool.longest_start = 10.0
    backend.pool.longest_wait = 200.0

    kill(victims[0].pid)
    with pytest.raises(RayActorError):
        victims[0].result.result(timeout=60)
    ray.wait(arrived, num_returns=1, timeout=60)
    with ThreadPoolExecutor() as executor:
        waiting = executor.submit(send, backend)  # finds the dead worker, then waits for the other one
        assert victims[1].end() == waiting.result(timeout=60) == victims[1].pid
    wait_until(lambda: backend.num_workers == 1)
    assert send(backend) == victims[1].pid

    kill(victims[1].pid)
    ray.wait(arrived, num_returns=2, timeout=60)
    with ThreadPoolExecutor(3) as executor:  # one finds the dead worker, the others wait for it
        for refused in [executor.submit(send, backend) for _ in range(3)]:
            with pytest.raises(TransportError, match=r"^no worker is left"):
                refused.result(timeout=60)
    assert backend.num_workers == 0
    for other in others:
        ray.kill(other)


def wait_until(happened):
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)
