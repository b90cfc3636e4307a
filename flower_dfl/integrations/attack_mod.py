"""Attacks for a usual Flower app with a server in the middle: as a client mod, and for the app's own data loading."""

import logging
import math
from collections.abc import Collection, Mapping
from typing import Any

from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable, Mod
from torch import Tensor

from flower_dfl import registry
from flower_dfl.errors import ConfigurationError
from flower_dfl.integrations.screening import SERVER, Layout
from flower_dfl.protocols import Attack
from flower_dfl.types import AttackContext, AttackView, Knowledge, LabelledData, Learner, NodeId, Update
from flower_dfl.vectors import all_finite

__all__ = ["attack_mod", "poisoned"]

_logger = logging.getLogger(__name__)


def attack_mod(
    attack: Attack | str,
    *,
    nodes: Collection[NodeId],
    params: Mapping[str, Any] | None = None,
    num_rounds: int = 0,
    seed: int = 0,
    arrayrecord_key: str = "arrays",
    configrecord_key: str = "config",
) -> Mod:
    """Return a client mod that makes some clients attack: model poisoning in an ordinary Flower app.

    The client trains as usual; in the reply to a training message its arrays are then replaced by what the attack
    crafts from them and from the arrays received. Only clients whose ``partition-id`` is in ``nodes`` attack; other
    messages, other clients and replies that carry an error pass unchanged, and so does a model that is not finite, from
    which nothing can be crafted. Metrics pass unchanged as well. For backdoors the training data must be poisoned too:
    :func:`poisoned`.

    The vector is the float32 arrays by sorted key, running statistics of normalisation layers included; other arrays
    are sent as trained. The round is the server's ``server-round``. The receiver is the server, whose neighbours are
    all partitions (``num-partitions`` of the node configuration): a boost of ``auto`` is their number plus one over
    that of the attackers.

    Args:
        attack: The attack: an object, a registered name, or a reference ``"package.module:Class"``. It must need no
            more than the client's own model: nothing else is known there.
        nodes: Partition-ids of the attackers.
        params: The attack's parameters, if it is given by name or reference.
        num_rounds: Rounds of the whole run, for attacks that ask.
        seed: Seed of the attack's draws.
        arrayrecord_key: Key of the arrays, as given to the server's strategy.
        configrecord_key: Key of the configuration that holds ``server-round``.

    Returns:
        A mod for ``ClientApp(mods=[...])``.

    Raises:
        ConfigurationError: The attack needs to know other clients; while running: the node has no ``partition-id``,
            the message has no round or arrays, the arrays are not the same float32 arrays as those received, or the
            attack crafts a vector of another shape or type.
        UnknownComponentError: There is no such attack.

    Example:
        ``app = ClientApp(mods=[attack_mod("scaling", nodes={0, 1}, params={"gamma": 5})])``
    """
    built = _local_attack(attack, params)
    attackers = frozenset(nodes)

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        node = _setting(context.node_config, "partition-id")
        reply = call_next(message, context)
        is_training = message.metadata.message_type.split(".")[0] == "train"
        if node not in attackers or not is_training or not reply.has_content():
            return reply
        received, trained = (_arrays(m, arrayrecord_key) for m in (message, reply))
        server_round = _setting(message.content.config_records.get(configrecord_key, {}), "server-round")
        layout = Layout(trained)
        vector, base = _vector(layout, trained), _vector(layout, _like(received, trained))
        if not (all_finite(vector) and all_finite(base)):
            _logger.warning("round %d: partition %d trains no finite model and sends it as it is", server_round, node)
            return reply
        own = Update(node, server_round, vector, base)
        ctx = _context(
            node,
            server_round,
            attackers,
            num_rounds=num_rounds,
            seed=seed,
            base=base,
            num_partitions=_setting(context.node_config, "num-partitions"),
        )
        crafted = built.craft(AttackView(own, (own,), ()), SERVER, ctx).detach()
        form = (vector.shape, vector.dtype, vector.layout)
        if (crafted.shape, crafted.dtype, crafted.layout) != form:
            raise ConfigurationError(
                f"{type(built).__name__} must craft a vector of shape {tuple(vector.shape)} and type {vector.dtype}, "
                f"got {tuple(crafted.shape)} and {crafted.dtype}, {crafted.layout}"
            )
        reply.content[arrayrecord_key] = layout.record(crafted)
        return reply

    return mod


def poisoned(
    attack: Attack | str,
    data: LabelledData,
    partition_id: NodeId,
    round: int,
    *,
    nodes: Collection[NodeId],
    params: Mapping[str, Any] | None = None,
    num_rounds: int = 0,
    seed: int = 0,
    lr: float = math.nan,
    learner: Learner | None = None,
    base: Tensor | None = None,
) -> LabelledData:
    """Return the data that a client trains on in a round: poisoned for the attackers, unchanged for everybody else.

    For the app's own training code, with the same attack, ``nodes`` and ``seed`` as :func:`attack_mod`.

    Args:
        attack: The attack, as there.
        data: The client's training data, with labels ``0..num_classes-1`` and the range of its inputs.
        partition_id: Which client.
        round: Current round, from 1.
        nodes: Partition-ids of the attackers.
        params: The attack's parameters, if it is given by name or reference.
        num_rounds: Rounds of the whole run, for attacks that ask.
        seed: Seed of the attack's draws.
        lr: Learning rate of local training, for attacks that ask.
        learner: The local model, for attacks that ask: a :class:`flower_dfl.training.TorchLearner`.
        base: The model received from the server, for attacks that ask, as a vector of that learner.

    Raises:
        ConfigurationError: The attack needs to know other clients, or something that is not given.
        UnknownComponentError: There is no such attack.
    """
    built = _local_attack(attack, params)
    if partition_id not in nodes:
        return data
    ctx = _context(
        partition_id, round, frozenset(nodes), num_rounds=num_rounds, seed=seed, base=base, lr=lr, learner=learner
    )
    return built.poison(data, ctx)


def _local_attack(attack: Attack | str, params: Mapping[str, Any] | None) -> Attack:
    if params and not isinstance(attack, str):
        raise ConfigurationError("params go with an attack given by name; an object has its own")
    built: Attack = registry.build("attack", attack, params) if isinstance(attack, str) else attack
    if built.knowledge > Knowledge.LOCAL:
        raise ConfigurationError(
            f"{type(built).__name__} needs {built.knowledge.name} knowledge, but a client of a usual Flower app knows "
            "its own model only"
        )
    return built


def _context(
    node: NodeId,
    round: int,
    attackers: frozenset[NodeId],
    *,
    num_rounds: int,
    seed: int,
    base: Tensor | None,
    num_partitions: int = 0,
    lr: float = math.nan,
    learner: Learner | None = None,
) -> AttackContext:
    clients = frozenset(range(num_partitions)) | attackers
    star = {SERVER: clients} | {client: frozenset({SERVER}) for client in clients}
    return AttackContext(node, round, num_rounds, attackers, star, lr, seed, learner, base=base)


def _setting(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int):
        raise ConfigurationError(f"attack_mod needs {key!r}, which Flower sets; got {dict(config)!r}")
    return value


def _arrays(message: Message, key: str) -> ArrayRecord:
    record = message.content.get(key)
    if not isinstance(record, ArrayRecord):
        raise ConfigurationError(f"expected arrays under {key!r}, got {sorted(message.content)}")
    return record


def _vector(layout: Layout, record: ArrayRecord) -> Tensor:
    try:
        return layout.values(record)
    except ValueError as error:
        raise ConfigurationError(f"attack_mod: the arrays received and sent must be alike: {error}") from error


def _like(received: ArrayRecord, trained: ArrayRecord) -> ArrayRecord:
    """Return the received arrays that the reply has as well."""
    missing = sorted(set(trained) - set(received))
    if missing:
        raise ConfigurationError(f"the reply has arrays that the server did not send: {missing}")
    changed = sorted(key for key in trained if trained[key].shape != received[key].shape)
    if changed:
        raise ConfigurationError(f"the reply's arrays have not the same shapes as the server's: {changed}")
    return ArrayRecord({key: received[key] for key in trained})
