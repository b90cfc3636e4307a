"""One node's part of a round: receive, aggregate, evaluate, train, attack, publish. Every engine calls exactly these.

Message ``t`` to a node makes it collect its neighbours' half-steps of round ``t - 1``, aggregate them, evaluate the
result if that is due, train, and publish its half-step of round ``t``. The message after the last round only aggregates
and evaluates. Attackers that need to see others (COLLUDING, OMNISCIENT) publish in a second wave of the same round, by
:func:`strike`, once everybody else has.

A node that is away in a round, whose step failed, or that has just been restored from a checkpoint has no half-step of
that round: it goes on from the start-of-round model that it has.
"""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from flower_dfl import randomness
from flower_dfl.errors import ByzantineBudgetError, ConfigurationError, LostError
from flower_dfl.experiment import Experiment
from flower_dfl.ingress import Expectation, screen
from flower_dfl.metrics import evaluate
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
from flower_dfl.validation import check_fields
from flower_dfl.vectors import all_finite, fingerprint, load_buffers

__all__ = ["NodeFacts", "Report", "aggregate", "attack_context", "node_facts", "play", "receive", "step_name", "strike"]


_LARGEST = 1e300
"""Whole numbers in a report beyond this fit no float."""


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

    def to_json(self) -> str:
        """Return the facts as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "NodeFacts":
        """Undo :meth:`to_json`. Anybody may have sent them.

        Raises:
            ValueError: The text holds no facts; likewise TypeError, KeyError.
        """
        values = _read_json(text)
        facts = cls(**values | {"label_counts": tuple(values["label_counts"])})
        _check_types(facts)
        counts = (facts.num_examples, *facts.label_counts)
        if not all(type(count) is int and 0 <= count < _LARGEST for count in counts):
            raise ValueError(f"numbers of samples must be whole and not negative, got {counts}")
        return facts


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
        missing: Why a neighbour's message did not arrive.
        bytes_received: Size of the well-formed messages.
        fingerprint: Of the aggregated model.
        seconds: Time by step: train, digest, aggregate, evaluate.
        digests: The rule's digests by sender, where they are recorded; no part of the text form.
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
    missing: Mapping[NodeId, str] = field(default_factory=dict)
    bytes_received: int = 0
    fingerprint: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    digests: Mapping[NodeId, torch.Tensor] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the report as text."""
        return json.dumps(asdict(replace(self, digests={})))

    @classmethod
    def from_json(cls, text: str, digests: Mapping[NodeId, torch.Tensor] | None = None) -> "Report":
        """Undo :meth:`to_json`, and put the digests beside that are no part of the text. Anybody may have sent them.

        Raises:
            ValueError: The text is no report; likewise TypeError, KeyError, AttributeError.
        """
        values = _read_json(text)
        values["weights"] = {int(node): weight for node, weight in values["weights"].items()}
        values["scores"] = {
            name: {int(node): score for node, score in scores.items()} for name, scores in values["scores"].items()
        }
        values["missing"] = {int(node): reason for node, reason in values["missing"].items()}
        values["flags"] = tuple(values["flags"])
        values["rejections"] = tuple(Rejection(**rejection) for rejection in values["rejections"])
        report = cls(**values | {"digests": {} if digests is None else digests})
        report._check()
        return report

    def _check(self) -> None:
        """Raise ValueError if a value is not what it should be."""
        _check_types(self)
        rates = [value for value in (self.accuracy, self.attack_success_rate) if value is not None]
        if not all(0 <= rate <= 1 for rate in rates):
            raise ValueError(f"accuracy and attack success rate must be in [0, 1], got {rates}")
        amounts = (*self.seconds.values(), self.bytes_received, self.budget)
        if not all(0 <= amount < _LARGEST for amount in amounts):
            raise ValueError("seconds, bytes and budget must be finite and not negative")
        scores = [score for by_member in self.scores.values() for score in by_member.values()]
        numbers = (*self.weights.values(), *scores)
        if not all(type(value) is float or (type(value) is int and abs(value) < _LARGEST) for value in numbers):
            raise ValueError("weights and scores must be numbers")
        texts = (*self.flags, *self.missing.values(), *(rejection.reason for rejection in self.rejections))
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("flags and reasons must be text")
        if not all(type(rejection.sender) is int for rejection in self.rejections):
            raise ValueError("senders must be whole numbers")
        if not all(type(node) is int and isinstance(digest, torch.Tensor) for node, digest in self.digests.items()):
            raise ValueError("digests must be tensors by node")


def _read_json(text: str) -> dict[str, Any]:
    """Return what a text says; ValueError also where it is nested too deeply to be read."""
    try:
        return dict(json.loads(text))
    except RecursionError as error:
        raise ValueError("the text is nested too deeply") from error


def _check_types(values: Report | NodeFacts) -> None:
    try:
        check_fields(values)
    except ConfigurationError as error:
        raise ValueError(str(error)) from error


def node_facts(experiment: Experiment, node: NodeId) -> NodeFacts:
    """Return a node's data facts."""
    shard = experiment.shards[node]
    return NodeFacts(node, len(shard), tuple(shard.labels.bincount(minlength=shard.num_classes).tolist()))


def play(experiment: Experiment, node: NodeId, message: int, transport: Transport) -> Report | None:
    """Do what message ``message`` asks of a node; None for the first one, which has nothing to aggregate."""
    config, attack = experiment.config, experiment.attack
    memory, report = _recall(experiment, node, message, transport), None
    start, state = memory.start, memory.strategy_state
    if message > 1:
        start, state, report = _close_round(experiment, node, message - 1, memory, transport)
    half_step, integers, seconds = None, None, dict[str, float]()
    letters: Mapping[NodeId, Update] = {}
    if message <= config.num_rounds and experiment.network.conditions.is_present(node, message):
        half_step, integers, seconds["train"] = _timed(_train, experiment, node, message, start)
        if not experiment.is_attacker(node):
            if transport.shares_digests:
                half_step, seconds["digest"] = _timed(_with_digest, experiment, half_step, half_step.round)
            letter = _as_letter(experiment, half_step)
            letters = dict.fromkeys(sorted(experiment.network.links(message).neighbours[node]), letter)
        elif attack is not None and attack.knowledge is Knowledge.LOCAL:
            view = AttackView(half_step, (half_step,), (experiment.shards[node],))
            letters = _attack_letters(experiment, node, message, view, transport)
    memory = Memory(message, start, half_step, state, integers, seconds)
    transport.commit(node, memory, letters, "" if report is None else report.to_json())
    return report


def step_name(message: int, num_rounds: int) -> str:
    """Return in words when the step of a message happens: it closes one round and opens the next."""
    if message == 1:
        return "in round 1"
    if message > num_rounds:
        return f"at the end of round {num_rounds}"
    return f"between the exchanges of rounds {message - 1} and {message}"


def strike(experiment: Experiment, node: NodeId, round: int, transport: Transport) -> None:
    """Let an attacker that needs to see others craft and publish: the second wave of a round.

    Who is away in this round is neither seen nor heard.
    """
    network, attack = experiment.network, experiment.attack
    if attack is None or attack.knowledge is Knowledge.LOCAL:
        return
    seen = network.honest if attack.knowledge is Knowledge.OMNISCIENT else ()
    half_steps = [u.to(experiment.device) for u in transport.half_steps([*sorted(network.byzantine), *seen], round)]
    byzantine = tuple(update for update in half_steps if update.sender in network.byzantine)
    own = next((update for update in byzantine if update.sender == node), None)
    if own is None:
        return
    view = AttackView(
        own=own,
        byzantine=byzantine,
        byzantine_data=tuple(experiment.shards[update.sender] for update in byzantine),
        honest=tuple(update for update in half_steps if update.sender not in network.byzantine),
    )
    transport.publish(node, round, _attack_letters(experiment, node, round, view, transport))


def receive(
    experiment: Experiment, node: NodeId, round: int, own: Update, transport: Transport
) -> tuple[Inbox, dict[NodeId, str]]:
    """Collect and screen the round's messages, and compute the digests that no engine has computed yet.

    Returns:
        The inbox, and why a neighbour's message did not arrive; ``silent`` is a neighbour that sent none.
    """
    network, config = experiment.network, experiment.config
    links = network.links(round)
    with_base = Need.SENDER_BASE in experiment.strategy.needs
    expected = Expectation(
        links.neighbours[node],
        round,
        own.vector.numel(),
        own.buffers.numel(),
        with_base,
        config.network.staleness,
        experiment.device,
    )
    arrivals = network.arrivals(node, round)
    letters = _collect(experiment, node, arrivals, transport)
    missing: dict[NodeId, str] = {s: fate for s, fate in network.fates(node, round).items() if fate != "delivered"}
    came = {letter.sender for letter in letters}
    missing |= {
        s: "silent" for s, sent in arrivals if sent == round and s not in came and not _spares(experiment, node, s)
    }
    received, rejected = screen(letters, expected)
    mixing = links.mixing_weights(node)
    if not experiment.is_attacker(node) and all_finite(own.vector):
        own = _with_digest(experiment, own, round)
        received = tuple(_with_digest(experiment, update, round) for update in received)
    inbox = Inbox(
        own=own if with_base else replace(own, base=None),
        received=received,
        mixing_weights=torch.tensor([mixing[update.sender] for update in received], dtype=torch.float64),
        rejected=rejected,
    )
    return inbox, missing


def aggregate(
    experiment: Experiment, node: NodeId, round: int, inbox: Inbox, memory: Memory
) -> tuple[Aggregate[Any], int]:
    """Apply the rule; return its result and the budget that it was given.

    A node whose own model is not finite keeps it: it has diverged, and no rule can say whom it should believe.
    """
    config, network, rule = experiment.config, experiment.network, experiment.strategy
    budget = len(network.links(round).neighbours[node] & network.byzantine)
    if not all_finite(inbox.own.vector):
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
    _check_result(config.strategy.name, inbox.own.vector, result)
    return replace(result, vector=result.vector.detach()), context.budget


def _check_result(rule: str, own: torch.Tensor, result: Aggregate[Any]) -> None:
    """Raise a ConfigurationError, on every engine alike, if a rule returns what cannot be a model or a report."""
    vector = result.vector
    if vector.shape != own.shape or vector.dtype != own.dtype:
        raise ConfigurationError(
            f"strategy {rule!r} must return a float32 vector of shape {tuple(own.shape)}, "
            f"got {vector.dtype} {tuple(vector.shape)}"
        )
    for what, by_member in {"weights": result.weights, **result.scores}.items():
        for member, number in by_member.items():
            if isinstance(member, bool | str) or isinstance(number, bool) or not isinstance(number, int | float):
                raise ConfigurationError(
                    f"strategy {rule!r} must give every member a number of Python's in {what!r}, "
                    f"got {number!r} ({type(number).__name__}) for {member!r}"
                )
    if not all(isinstance(flag, str) for flag in result.flags):
        raise ConfigurationError(f"strategy {rule!r} must return flags that are text, got {result.flags!r}")


def attack_context(experiment: Experiment, node: NodeId, round: int, base: torch.Tensor | None = None) -> AttackContext:
    """Return what an attacker is told; ``base`` is its start-of-round model."""
    network = experiment.network
    return AttackContext(
        node=node,
        round=round,
        num_rounds=experiment.config.num_rounds,
        byzantine=network.byzantine,
        neighbours=network.links(round).neighbours,
        lr=experiment.config.train.lr,
        seed=experiment.config.seed,
        learner=experiment.learner,
        num_steps=experiment.num_steps,
        base=base,
    )


def _recall(experiment: Experiment, node: NodeId, message: int, transport: Transport) -> Memory:
    """Return the node's memory; at first, or where it is lost and failures are skipped, the common start."""
    skips = experiment.config.on_node_failure == "skip"
    memory = None
    try:
        memory = transport.recall(node, message)
    except LostError:
        if not skips:
            raise
    if memory is not None:
        return memory.to(experiment.device)
    if message > 1 and not skips:
        raise LostError(f"node {node} has no memory of round {message - 1}")
    return Memory(0, experiment.initial, None, experiment.strategy.init(experiment.initial.vector.clone()))


def _close_round(
    experiment: Experiment, node: NodeId, round: int, memory: Memory, transport: Transport
) -> tuple[ModelState, Any, Report]:
    """Receive, aggregate and evaluate a round; a node that took no part in it only evaluates what it has."""
    if memory.round < round or memory.half_step is None:
        start, state, report = memory.start, memory.strategy_state, Report(node, round, flags=("absent",))
    else:
        start, state, report = _aggregate_round(experiment, node, memory, memory.half_step, transport)
    began = time.perf_counter()
    if experiment.is_evaluated(node, round):
        start.load(experiment.module)
        test, stamped = experiment.held_out(round)
        evaluation = evaluate(experiment.learner, start.vector, test, stamped)
        report = replace(
            report,
            accuracy=evaluation.accuracy,
            attack_success_rate=evaluation.attack_success_rate,
            diverged=evaluation.diverged,
        )
    seconds = {**report.seconds, "evaluate": time.perf_counter() - began}
    return start, state, replace(report, fingerprint=fingerprint(start.vector, start.buffers), seconds=seconds)


def _aggregate_round(
    experiment: Experiment, node: NodeId, memory: Memory, own: Update, transport: Transport
) -> tuple[ModelState, Any, Report]:
    """Receive and aggregate the round that the node has entered with its memory."""
    began, round = time.perf_counter(), memory.round
    inbox, missing = receive(experiment, node, round, own, transport)
    if experiment.is_attacker(node):
        result, budget = _honest_track(experiment, inbox, memory), 0
    else:
        result, budget = aggregate(experiment, node, round, inbox, memory)
    start = ModelState(result.vector, _mix_buffers(inbox, result.weights), memory.integer_buffers or ())
    report = Report(
        node=node,
        round=round,
        weights=result.weights,
        scores=result.scores,
        flags=result.flags,
        rejections=inbox.rejected,
        budget=budget,
        missing=missing,
        bytes_received=sum(_size(update) for update in inbox.received),
        seconds={**memory.seconds, "aggregate": time.perf_counter() - began},
        digests=_recorded_digests(experiment, inbox),
    )
    return start, result.state, report


def _collect(
    experiment: Experiment, node: NodeId, arrivals: list[tuple[NodeId, int]], transport: Transport
) -> tuple[Update, ...]:
    """Collect letters; where failures are skipped, one whose holder died is a letter that never came."""
    try:
        return transport.collect(node, arrivals)
    except LostError:
        if experiment.config.on_node_failure != "skip":
            raise
    found: list[Update] = []
    for arrival in arrivals:
        with suppress(LostError):
            found += transport.collect(node, [arrival])
    return tuple(found)


def _spares(experiment: Experiment, receiver: NodeId, sender: NodeId) -> bool:
    """Return whether a sender has nothing to say to a receiver: attackers do not lie to one another."""
    return experiment.is_attacker(receiver) and experiment.is_attacker(sender)


def _recorded_digests(experiment: Experiment, inbox: Inbox) -> dict[NodeId, torch.Tensor]:
    if not experiment.config.record_digests:
        return {}
    return {update.sender: update.digest.cpu() for update in inbox.members if update.digest is not None}


def _timed(work: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401 - adds the seconds to any result
    """Return what a function returns, and how long it took as one value more."""
    began = time.perf_counter()
    result = work(*arguments)
    seconds = time.perf_counter() - began
    return (*result, seconds) if isinstance(result, tuple) else (result, seconds)


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
    clean = data.labels
    if experiment.attack is not None and experiment.is_attacker(node):
        load_buffers(experiment.module, start.buffers, ())
        data = experiment.attack.poison(data, attack_context(experiment, node, round, start.vector))
    batches = randomness.generator(config.seed, "batches", round, node)
    # drawn evenly by poisoned labels, a backdoor's samples would be one label among ten, however many they are
    strata = clean if len(data) == len(clean) else data.labels
    with randomness.scoped_global_seed(config.seed, "train", round, node):  # of which layers such as dropout draw
        trained = train(experiment.module, start, data, config.train, batches, strata=strata)
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


_CARRIED = frozenset(
    {
        torch.float16,
        torch.float32,
        torch.float64,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.uint8,
        torch.bool,
    }
)
"""Types that every transport carries; what is not float32 arrives and is dropped there."""


def _attack_letters(
    experiment: Experiment, node: NodeId, round: int, view: AttackView, transport: Transport
) -> dict[NodeId, Update]:
    """Craft one message for each honest neighbour; equal vectors share one letter, and one digest."""
    attack = experiment.attack
    letters: dict[NodeId, Update] = {}
    if attack is None:
        return letters
    context = attack_context(experiment, node, round, view.own.base)
    load_buffers(experiment.module, view.own.buffers, ())
    distinct: list[Update] = []
    for receiver in sorted(context.neighbours[node] - experiment.network.byzantine):
        vector = attack.craft(view, receiver, context).detach()
        if vector.layout != torch.strided or vector.dtype not in _CARRIED:
            raise ConfigurationError(
                f"attack {experiment.config.attack.name!r} must craft a vector of a type that every engine can carry, "
                f"float32 if it is to arrive; got {vector.dtype}, {vector.layout}"
            )
        letter = next((known for known in distinct if torch.equal(known.vector, vector)), None)
        if letter is None:
            letter = replace(view.own, vector=vector)
            if transport.shares_digests and _is_well_formed(vector, view.own.vector):
                letter = _with_digest(experiment, letter, letter.round)
            letter = _as_letter(experiment, letter)
            distinct.append(letter)
        letters[receiver] = letter
    return letters


def _with_digest(experiment: Experiment, update: Update, round: int) -> Update:
    """Attach the rule's digest of a message, unless it has one.

    Digests can be compared if they were made with the draws of one round: that of a late message is made anew.
    """
    if update.digest is not None and update.round == round:
        return update
    config, needs = experiment.config, experiment.strategy.needs
    load_buffers(experiment.module, update.buffers, ())
    context = DigestContext(
        round,
        config.num_rounds,
        config.train.lr,
        experiment.num_steps,
        config.seed,
        experiment.learner if Need.LEARNER in needs else None,
    )
    return replace(update, digest=experiment.strategy.digest(update, context))


def _is_well_formed(vector: torch.Tensor, like: torch.Tensor) -> bool:
    """Return whether ingress will let a crafted vector through; what it will drop needs no digest."""
    return vector.dtype == like.dtype and vector.shape == like.shape and all_finite(vector)


def _as_letter(experiment: Experiment, half_step: Update) -> Update:
    """Return what travels: without the base, unless the rule asks for it."""
    return half_step if Need.SENDER_BASE in experiment.strategy.needs else replace(half_step, base=None)


def _size(update: Update) -> int:
    """Return the bytes of a message's tensors."""
    tensors = [update.vector, update.buffers] + ([] if update.base is None else [update.base])
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
