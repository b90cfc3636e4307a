"""One node's part of a round: receive, aggregate, evaluate, train, attack, publish. Every engine calls exactly these.

Message ``t`` to a node makes it collect its neighbours' half-steps of round ``t - 1``, aggregate them, evaluate the
result if that is due, train, and publish its half-step of round ``t``. The message after the last round only aggregates
and evaluates. Attackers that need to see others (COLLUDING, OMNISCIENT) publish in a second wave of the same round, by
:func:`strike`, once everybody else has.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from flower_dfl import randomness
from flower_dfl.errors import ByzantineBudgetError, ConfigurationError
from flower_dfl.experiment import Experiment
from flower_dfl.ingress import Expectation, screen
from flower_dfl.metrics import Evaluation, evaluate
from flower_dfl.strategies.kernels import weighted_mean
from flower_dfl.training import ModelState, train
from flower_dfl.transport.base import Memory, Transport
from flower_dfl.types import (
    Aggregate,
    AttackContext,
    AttackView,
    DigestContext,
    Inbox,
    Knowledge,
    Need,
    NodeId,
    Rejection,
    RoundContext,
    Update,
)
from flower_dfl.vectors import load_buffers

__all__ = ["NodeFacts", "Report", "aggregate", "attack_context", "node_facts", "play", "receive", "step_name", "strike"]


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What is known of a node before the first round.

    Attributes:
        node: Who.
        num_examples: Size of its training data.
        label_counts: How many of them have each label.
    """

    node: NodeId
    num_examples: int
    label_counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What a node says of one aggregation; no model is in it.

    Attributes:
        node: Who reports.
        round: The aggregated round.
        accuracy: On held-out data; None where it was not due, or for an attacker.
        attack_success_rate: Likewise; None also where the attack has no trigger.
        diverged: Whether the model is not finite.
        weights: How much each member of the closed neighbourhood counted.
        scores: The rule's scores by name and member.
        flags: The rule's remarks.
        rejections: Messages that ingress dropped.
        budget: Byzantine budget that the rule was given in the end.
        bytes_received: Size of the well-formed messages.
        seconds: Time by step: train, aggregate, evaluate.
    """

    node: NodeId
    round: int
    accuracy: float | None = None
    attack_success_rate: float | None = None
    diverged: bool = False
    weights: Mapping[NodeId, float] = field(default_factory=dict)
    scores: Mapping[str, Mapping[NodeId, float]] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    budget: int = 0
    bytes_received: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the report as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Undo :meth:`to_json`."""
        values = json.loads(text)
        values["weights"] = {int(node): weight for node, weight in values["weights"].items()}
        values["scores"] = {
            name: {int(node): score for node, score in scores.items()} for name, scores in values["scores"].items()
        }
        values["flags"] = tuple(values["flags"])
        values["rejections"] = tuple(Rejection(**rejection) for rejection in values["rejections"])
        return cls(**values)


def node_facts(experiment: Experiment, node: NodeId) -> NodeFacts:
    """Return a node's data facts."""
    shard = experiment.shards[node]
    return NodeFacts(node, len(shard), tuple(shard.labels.bincount(minlength=shard.num_classes).tolist()))


def play(experiment: Experiment, node: NodeId, message: int, transport: Transport) -> Report | None:
    """Do what message ``message`` asks of a node; None for the first one, which has nothing to aggregate."""
    config = experiment.config
    report = None
    if message == 1:
        start, state = experiment.initial, experiment.strategy.init(experiment.initial.vector.clone())
    else:
        start, state, report = _close_round(experiment, node, message - 1, transport)
    if message > config.num_rounds:
        transport.remember(node, message, Memory(start, None, state))
        return report
    began = time.perf_counter()
    half_step, integers = _train(experiment, node, message, start)
    memory = Memory(
        replace(start, integer_buffers=integers), half_step, state, train_seconds=time.perf_counter() - began
    )
    if not experiment.is_attacker(node):
        if transport.shares_digests:
            half_step = _with_digest(experiment, half_step)
            memory = replace(memory, half_step=half_step)
        letter = _as_letter(experiment, half_step)
        transport.publish(node, message, dict.fromkeys(sorted(experiment.network.neighbours[node]), letter))
    elif experiment.attack is not None and experiment.attack.knowledge is Knowledge.LOCAL:
        view = AttackView(half_step, (half_step,), (experiment.shards[node],))
        _publish_attack(experiment, node, message, view, transport)
    transport.remember(node, message, memory)
    return report


def step_name(message: int, num_rounds: int) -> str:
    """Return in words when the step of a message happens: it closes one round and opens the next."""
    if message == 1:
        return "in round 1"
    if message > num_rounds:
        return f"at the end of round {num_rounds}"
    return f"between the exchanges of rounds {message - 1} and {message}"


def strike(experiment: Experiment, node: NodeId, round: int, transport: Transport) -> None:
    """Let an attacker that needs to see others craft and publish: the second wave of a round."""
    network, attack = experiment.network, experiment.attack
    if attack is None or attack.knowledge is Knowledge.LOCAL:
        return
    colluders = sorted(network.byzantine)
    seen = list(network.honest) if attack.knowledge is Knowledge.OMNISCIENT else []
    half_steps = [update.to(experiment.device) for update in transport.half_steps([*colluders, *seen], round)]
    byzantine, honest = tuple(half_steps[: len(colluders)]), tuple(half_steps[len(colluders) :])
    view = AttackView(
        own=byzantine[colluders.index(node)],
        byzantine=byzantine,
        byzantine_data=tuple(experiment.shards[colluder] for colluder in colluders),
        honest=honest,
    )
    _publish_attack(experiment, node, round, view, transport)


def receive(experiment: Experiment, node: NodeId, round: int, own: Update, transport: Transport) -> Inbox:
    """Collect and screen the round's messages, and compute the digests that no engine has computed yet."""
    neighbours = experiment.network.neighbours[node]
    with_base = Need.SENDER_BASE in experiment.strategy.needs
    expected = Expectation(
        neighbours, round, own.vector.numel(), own.buffers.numel(), with_base, device=experiment.device
    )
    received, rejected = screen(transport.collect(node, round, sorted(neighbours)), expected)
    mixing = experiment.network.mixing_weights(node)
    if not experiment.is_attacker(node) and bool(torch.isfinite(own.vector).all()):
        own = _with_digest(experiment, own)
        received = tuple(_with_digest(experiment, update) for update in received)
    return Inbox(
        own=own if with_base else replace(own, base=None),
        received=received,
        mixing_weights=torch.tensor([mixing[update.sender] for update in received], dtype=torch.float64),
        rejected=rejected,
    )


def aggregate(
    experiment: Experiment, node: NodeId, round: int, inbox: Inbox, memory: Memory
) -> tuple[Aggregate[Any], int]:
    """Apply the rule; return its result and the budget that it was given.

    A node whose own model is not finite keeps it: it has diverged, and no rule can say whom it should believe.
    """
    config, network, rule = experiment.config, experiment.network, experiment.strategy
    budget = len(network.neighbours[node] & network.byzantine)
    if not bool(torch.isfinite(inbox.own.vector).all()):
        own_only = {update.sender: float(update.sender == node) for update in inbox.members}
        return Aggregate(inbox.own.vector, memory.strategy_state, own_only, flags=("own-not-finite",)), budget
    context = RoundContext(
        node=node,
        round=round,
        num_rounds=config.num_rounds,
        base=memory.start.vector,
        budget=budget,
        lr=config.train.lr,
        num_steps=experiment.num_steps,
        seed=config.seed,
        learner=experiment.learner if Need.LEARNER in rule.needs else None,
        data=experiment.shards[node] if Need.OWN_DATA in rule.needs else None,
        honest=experiment.protocol_followers if Need.HONEST_NODES in rule.needs else None,
    )
    load_buffers(experiment.module, memory.start.buffers, ())
    while True:
        try:
            result = rule.aggregate(inbox, memory.strategy_state, context)
            break
        except ByzantineBudgetError:
            if config.budget_policy == "error" or context.budget == 0:
                raise
            context = replace(context, budget=context.budget - 1)
    if result.vector.shape != inbox.own.vector.shape or result.vector.dtype != inbox.own.vector.dtype:
        raise ConfigurationError(
            f"strategy {config.strategy.name!r} must return a float32 vector of shape "
            f"{tuple(inbox.own.vector.shape)}, got {result.vector.dtype} {tuple(result.vector.shape)}"
        )
    return result, context.budget


def attack_context(experiment: Experiment, node: NodeId, round: int, base: torch.Tensor | None = None) -> AttackContext:
    """Return what an attacker is told; ``base`` is its start-of-round model."""
    network = experiment.network
    return AttackContext(
        node=node,
        round=round,
        num_rounds=experiment.config.num_rounds,
        byzantine=network.byzantine,
        neighbours=network.neighbours,
        lr=experiment.config.train.lr,
        seed=experiment.config.seed,
        learner=experiment.learner,
        num_steps=experiment.num_steps,
        base=base,
    )


def _close_round(
    experiment: Experiment, node: NodeId, round: int, transport: Transport
) -> tuple[ModelState, Any, Report]:
    """Receive, aggregate and evaluate a round."""
    memory = transport.recall(node, round).to(experiment.device)
    own = memory.half_step
    if own is None:
        raise ConfigurationError(f"node {node} has no half-step of round {round}: its training is over")
    began = time.perf_counter()
    inbox = receive(experiment, node, round, own, transport)
    if experiment.is_attacker(node):
        result, budget = _honest_track(experiment, inbox, memory), 0
    else:
        result, budget = aggregate(experiment, node, round, inbox, memory)
    start = ModelState(result.vector, _mix_buffers(inbox, result.weights), memory.start.integer_buffers)
    aggregated = time.perf_counter()
    evaluation = Evaluation(0.0, None, diverged=False)
    due = experiment.config.is_due(round) and node not in experiment.network.byzantine
    if due:
        start.load(experiment.module)
        evaluation = evaluate(experiment.learner, start.vector, experiment.test, experiment.stamped)
    report = Report(
        node=node,
        round=round,
        accuracy=evaluation.accuracy if due else None,
        attack_success_rate=evaluation.attack_success_rate,
        diverged=evaluation.diverged,
        weights=result.weights,
        scores=result.scores,
        flags=result.flags,
        rejections=inbox.rejected,
        budget=budget,
        bytes_received=sum(_size(update) for update in inbox.received),
        seconds={
            "train": memory.train_seconds,
            "aggregate": aggregated - began,
            "evaluate": time.perf_counter() - aggregated,
        },
    )
    return start, result.state, report


def _honest_track(experiment: Experiment, inbox: Inbox, memory: Memory) -> Aggregate[None]:
    """Return the model from which an attacker trains: the mean of its honest neighbours' models.

    Colluders do not lie to one another, so what they send is left out; with no honest neighbour the attacker goes on
    from its own half-step.
    """
    honest = [u for u in inbox.received if u.sender not in experiment.network.byzantine] or [inbox.own]
    weights = {update.sender: 1 / len(honest) for update in honest}
    return Aggregate(weighted_mean([u.vector for u in honest], [1.0] * len(honest)), memory.strategy_state, weights)


def _mix_buffers(inbox: Inbox, weights: Mapping[NodeId, float]) -> torch.Tensor:
    """Average float buffers with the weights that the rule gave to the vectors."""
    members = [(u.buffers, weights.get(u.sender, 0.0)) for u in inbox.members]
    if inbox.own.buffers.numel() == 0 or not any(weight > 0 for _, weight in members):
        return inbox.own.buffers
    return weighted_mean([buffers for buffers, _ in members], [max(weight, 0.0) for _, weight in members])


def _train(
    experiment: Experiment, node: NodeId, round: int, start: ModelState
) -> tuple[Update, tuple[torch.Tensor, ...]]:
    config, data = experiment.config, experiment.shards[node]
    if experiment.attack is not None and experiment.is_attacker(node):
        load_buffers(experiment.module, start.buffers, ())
        data = experiment.attack.poison(data, attack_context(experiment, node, round, start.vector))
    batches = randomness.generator(config.seed, "batches", round, node)
    trained = train(experiment.module, start, data, config.train, batches)
    half_step = Update(
        sender=node,
        round=round,
        vector=trained.vector,
        base=start.vector,
        buffers=trained.buffers,
        num_examples=len(experiment.shards[node]),
        epochs=config.train.epochs,
        batch_size=config.train.batch_size,
    )
    return half_step, trained.integer_buffers


def _publish_attack(experiment: Experiment, node: NodeId, round: int, view: AttackView, transport: Transport) -> None:
    """Craft one message for each honest neighbour; equal vectors share one letter, and one digest."""
    attack = experiment.attack
    if attack is None:
        return
    context = attack_context(experiment, node, round, view.own.base)
    load_buffers(experiment.module, view.own.buffers, ())
    letters: dict[NodeId, Update] = {}
    distinct: list[Update] = []
    for receiver in sorted(experiment.network.neighbours[node] - experiment.network.byzantine):
        vector = attack.craft(view, receiver, context)
        letter = next((known for known in distinct if torch.equal(known.vector, vector)), None)
        if letter is None:
            letter = replace(view.own, vector=vector)
            if transport.shares_digests and _is_well_formed(vector, view.own.vector):
                letter = _with_digest(experiment, letter)
            letter = _as_letter(experiment, letter)
            distinct.append(letter)
        letters[receiver] = letter
    transport.publish(node, round, letters)


def _with_digest(experiment: Experiment, update: Update) -> Update:
    """Attach the rule's digest of a message, unless it has one."""
    if update.digest is not None:
        return update
    config, needs = experiment.config, experiment.strategy.needs
    load_buffers(experiment.module, update.buffers, ())
    context = DigestContext(
        update.round,
        config.num_rounds,
        config.train.lr,
        experiment.num_steps,
        config.seed,
        experiment.learner if Need.LEARNER in needs else None,
    )
    return replace(update, digest=experiment.strategy.digest(update, context))


def _is_well_formed(vector: torch.Tensor, like: torch.Tensor) -> bool:
    """Return whether ingress will let a crafted vector through; what it will drop needs no digest."""
    return (
        vector.layout == torch.strided
        and vector.dtype == like.dtype
        and vector.shape == like.shape
        and bool(torch.isfinite(vector).all())
    )


def _as_letter(experiment: Experiment, half_step: Update) -> Update:
    """Return what travels: without the base, unless the rule asks for it."""
    return half_step if Need.SENDER_BASE in experiment.strategy.needs else replace(half_step, base=None)


def _size(update: Update) -> int:
    """Return the bytes of a message's tensors."""
    tensors = [update.vector, update.buffers] + ([] if update.base is None else [update.base])
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
