"""A pool of Flower's simulation workers that mends itself.

Flower 1.41 puts a worker back into its pool whatever has become of it, and a dead one eats the messages that it is
given later. :class:`MendingActorPool` asks a worker for a sign of life before it hands a message to it, and replaces
one that gives none. :func:`install` puts it into the place of Flower's pool. It must be called before Flower builds its
backend, as the import of the ClientApp is.
"""

import inspect
import logging
import os
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

import ray
from ray.exceptions import RayError

from flower_dfl.errors import TransportError
from flower_dfl.validation import workers_allowed
from flower_dfl.wire import START_TIMEOUT

try:
    from flwr.server.superlink.fleet.vce.backend import raybackend
    from flwr.simulation.ray_transport.ray_actor import BasicActorPool
except ImportError:  # not public, so another Flower may not have them; `install` says so
    raybackend, BasicActorPool = None, object  # type: ignore[assignment, misc]

__all__ = ["MendingActorPool", "install"]

_logger = logging.getLogger(__name__)

_Actor: TypeAlias = Any
"""A handle of Ray's."""
_Future: TypeAlias = Any
"""A reference of Ray's."""

_METHODS = {
    "__init__": ["self", "actor_type", "client_resources", "actor_kwargs"],
    "add_actors_to_pool": ["self", "num_actors"],
    "submit": ["self", "actor_fn", "job"],
    "add_actor_back_to_pool": ["self", "future"],
}
_ATTRIBUTES = {"pool", "num_actors", "create_actor_fn", "_future_to_actor"}


class MendingActorPool(BasicActorPool):
    """Flower's pool, in which a message goes to a living worker, or is told that there is none.

    A worker that died, under a message or between two, is found when the next message wants it, and a successor is
    started. Messages go to the others meanwhile; if the successor does not start, because the cluster has no room for
    it any more, the pool is smaller by one. The message that a worker died under is not sent again: Flower answers it
    with the error.

    Attributes:
        patience: Seconds that a worker may take to answer.
        longest_start: Seconds that a worker may take to start.
        longest_wait: Seconds that a message may wait for workers that are busy with others, or start.
    """

    patience = 60.0
    longest_start = START_TIMEOUT
    longest_wait = 3_600.0

    def __init__(
        self, actor_type: _Actor, client_resources: dict[str, int | float], actor_kwargs: dict[str, Any]
    ) -> None:
        super().__init__(actor_type, client_resources, actor_kwargs)
        self._started: set[_Actor] = set()
        self._changed = threading.Condition()  # Flower runs a thread for each worker that it began with

    def add_actors_to_pool(self, num_actors: int) -> None:
        """Begin with so many workers: as many as fit, but no more than the environment allows.

        Each takes seconds to start and hundreds of MiB, and what it would reserve is left to other runs.

        Raises:
            ConfigurationError: The environment variable is not a number of workers.
        """
        most = workers_allowed(os.environ)
        super().add_actors_to_pool(num_actors if most is None else min(num_actors, most))

    def submit(self, actor_fn: Callable[..., _Future], job: tuple[Any, ...]) -> _Future:
        """Give a job to a living worker and return the future.

        Raises:
            TransportError: No worker is left, or none became free.
        """
        actor = self._living()
        self._started.add(actor)
        try:
            future = actor_fn(actor, *job)
        except BaseException:
            self._put_back(actor)
            raise
        self._future_to_actor[future] = actor
        return future

    def add_actor_back_to_pool(self, future: _Future) -> None:
        """Put back the worker of a call that has ended, however it did."""
        self._put_back(self._future_to_actor.pop(future))

    def _put_back(self, actor: _Actor) -> None:
        with self._changed:
            self.pool.append(actor)
            self._changed.notify()

    def _living(self) -> _Actor:
        """Take a worker that lives out of the pool."""
        while True:
            actor = self._idle()
            if self._answers(actor, self.patience if actor in self._started else self.longest_start):
                return actor
            ray.kill(actor)  # it may only be stuck, and would keep its resources
            self._started.discard(actor)
            threading.Thread(target=self._start_successor, name="successor", daemon=True).start()

    def _start_successor(self) -> None:
        """Start a worker in a dead one's place; no message waits for it that another one can take."""
        successor = self.create_actor_fn()  # type: ignore[no-untyped-call]  # a lambda of Flower's
        if self._answers(successor, self.longest_start):
            _logger.warning("a worker had died; another one took its place")
            self._put_back(successor)
            return
        if ray.is_initialized():  # with the run it may have ended, and would start again only to be told
            ray.kill(successor)
        with self._changed:
            self.num_actors -= 1
            self._changed.notify_all()
        _logger.warning("a worker had died, and no other one started; %d are left", self.num_actors)

    def _idle(self) -> _Actor:
        """Take a worker that is not busy out of the pool; wait for one."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.pool or not self.num_actors, self.longest_wait):
                raise TransportError(f"none of {self.num_actors} workers became free in {self.longest_wait:.0f} s")
            if not self.pool:
                raise TransportError("no worker is left: all have died, and the cluster started no others")
            return self.pool.pop()

    def _answers(self, actor: _Actor, patience: float) -> bool:
        try:
            ray.get(actor.__ray_ready__.remote(), timeout=patience)
        except RayError:
            return False
        return True


def install() -> None:
    """Let Flower's simulation use the pool that mends itself; leave a Flower alone that is not as expected."""
    difference = _difference()
    if difference is None:
        raybackend.BasicActorPool = MendingActorPool  # type: ignore[attr-defined]  # imported there
    else:
        _logger.warning("this Flower's worker pool is left as it is, dead workers will eat messages: %s", difference)


def _difference() -> str | None:
    """Return in what Flower's pool is not what the one that mends itself builds on."""
    try:
        if "BasicActorPool" not in raybackend.RayBackend.build.__code__.co_names:
            return "RayBackend.build makes no BasicActorPool"
        for name, expected in _METHODS.items():
            found = list(inspect.signature(getattr(BasicActorPool, name)).parameters)
            if found != expected:
                return f"expected BasicActorPool.{name} to take {expected}, got {found}"
        missing = _ATTRIBUTES - set(BasicActorPool.__init__.__code__.co_names)
    except AttributeError as error:
        return str(error)
    return f"BasicActorPool has no {sorted(missing)}" if missing else None
