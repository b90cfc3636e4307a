"""Public test tools: run one component on plain tensors, and check that it keeps its contract.

Every component of this package passes these checks; a third party's should too::

    from flower_dfl.testing import aggregate, check_strategy

    check_strategy(MyRule(tau=1.0))
    result = aggregate(MyRule(tau=1.0), own, received)   # (d,), (m, d)
"""

import pickle
from collections.abc import Sequence
from typing import Any, TypeVar

import networkx as nx
import torch
from torch import Tensor, nn

from flower_dfl import codec
from flower_dfl.errors import ConfigurationError, TopologyError
from flower_dfl.protocols import Attack, PeerStrategy, Schedule, Topology
from flower_dfl.topologies.checking import check_graph, check_round_graph
from flower_dfl.training import TorchLearner
from flower_dfl.types import (
    Aggregate,
    AttackContext,
    AttackView,
    Inbox,
    Knowledge,
    LabelledData,
    Learner,
    Need,
    NodeId,
    RoundContext,
    Update,
)

__all__ = [
    "ContractViolation",
    "aggregate",
    "check_attack",
    "check_schedule",
    "check_strategy",
    "check_topology",
    "craft",
    "linear_learner",
    "small_data",
]

ComponentT = TypeVar("ComponentT")

_DIMENSION = 12
_IMAGE_DIMENSION = 640
"""Of softmax regression from 8 x 8 pixels to 10 labels."""
_FAR = 1e6


class ContractViolation(AssertionError):  # noqa: N818 - it names what happened, like an assertion
    """A component breaks its contract."""


def linear_learner(dimension: int, num_classes: int = 2) -> Learner:
    """Return softmax regression with ``dimension`` parameters and no bias."""
    if dimension % num_classes:
        raise ConfigurationError(f"expected a dimension that {num_classes} classes divide, got {dimension}")
    features = dimension // num_classes
    return TorchLearner(nn.Linear(features, num_classes, bias=False), (features,), num_classes)


def small_data(num_features: int = _DIMENSION // 2, num_classes: int = 2, count: int = 20) -> LabelledData:
    """Return reproducible labelled noise ``(count, num_features)``, every class equally often."""
    inputs = torch.randn(count, num_features, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    return LabelledData(inputs, torch.arange(count) % num_classes, num_classes, (-2.0, 2.0))


def aggregate(
    strategy: PeerStrategy[Any],
    own: Tensor,
    received: Tensor | Sequence[Tensor],
    *,
    base: Tensor | None = None,
    bases: Tensor | Sequence[Tensor] | None = None,
    weights: Tensor | Sequence[float] | None = None,
    f: int | None = None,
    round: int = 1,
    num_rounds: int = 10,
    learner: Learner | None = None,
    data: LabelledData | None = None,
    state: Any = None,  # noqa: ANN401 - the strategy's own
    seed: int = 0,
) -> Aggregate[Any]:
    """Run one aggregation. The node is 0, its neighbours are 1..m.

    Args:
        strategy: The rule.
        own: Own half-step ``(d,)``.
        received: Neighbours' half-steps ``(m, d)``; no rows is an empty inbox.
        base: Own start-of-round model ``(d,)``; zero if not given.
        bases: The neighbours' ones ``(m, d)``; equal to ``base`` if not given.
        weights: Mixing weights ``(m,)``; 1/(m+1) each if not given.
        f: Byzantine budget, 0 if not given; the last ``f`` neighbours count as Byzantine for rules that are told.
        round: Current round.
        num_rounds: Rounds of the run.
        learner: The local model; softmax regression without bias if the rule needs one and none is given.
        data: Own training data; labelled noise if the rule needs them and none are given.
        state: What the rule remembers; its own initial state if None.
        seed: Seed of the run.
    """
    base = torch.zeros_like(own) if base is None else base
    rows = list(received)
    starts = [base] * len(rows) if bases is None else list(bases)
    budget = f or 0
    with_base = Need.SENDER_BASE in strategy.needs
    if Need.LEARNER in strategy.needs and learner is None:
        learner = linear_learner(own.numel())
    if Need.OWN_DATA in strategy.needs and data is None:
        data = small_data(own.numel() // 2)

    def message(sender: NodeId, vector: Tensor, start: Tensor) -> Update:
        return Update(sender, round, vector, start if with_base else None, num_examples=20, batch_size=10)

    mixing = [1 / (len(rows) + 1)] * len(rows) if weights is None else weights
    inbox = Inbox(
        own=message(0, own, base),
        received=tuple(message(j, row, start) for j, (row, start) in enumerate(zip(rows, starts, strict=True), 1)),
        mixing_weights=torch.as_tensor(mixing, dtype=torch.float64),
    )
    context = RoundContext(
        node=0,
        round=round,
        num_rounds=num_rounds,
        base=base,
        budget=budget,
        lr=0.1,
        num_steps=2.0,
        seed=seed,
        learner=learner if Need.LEARNER in strategy.needs else None,
        data=data if Need.OWN_DATA in strategy.needs else None,
        honest=frozenset(range(len(rows) + 1 - budget)) if Need.HONEST_NODES in strategy.needs else None,
    )
    return strategy.aggregate(inbox, strategy.init(own) if state is None else state, context)


def craft(
    attack: Attack,
    honest: Tensor | Sequence[Tensor],
    byzantine: Tensor | Sequence[Tensor],
    *,
    base: Tensor | None = None,
    receiver: NodeId = 0,
    attacker: int = 0,
    neighbours: "nx.Graph[int] | None" = None,
    round: int = 1,
    num_rounds: int = 10,
    learner: Learner | None = None,
    data: LabelledData | None = None,
    seed: int = 0,
) -> Tensor:
    """Craft one message. Honest nodes are 0..h-1, Byzantine ones h..h+b-1.

    Args:
        attack: The attack; it sees what its knowledge level allows and nothing else.
        honest: Honest half-steps of the round ``(h, d)``.
        byzantine: Half-steps of the Byzantine nodes ``(b, d)``, at least one.
        base: Start-of-round model of every node ``(d,)``; zero if not given.
        receiver: Who gets the message.
        attacker: Which of the Byzantine nodes sends it.
        neighbours: The graph; complete if not given.
        round: Current round.
        num_rounds: Rounds of the run.
        learner: The local model, if the attack uses one.
        data: Clean data of every Byzantine node; labelled noise if not given.
        seed: Seed of the run.
    """
    good, bad = list(honest), list(byzantine)
    if not bad:
        raise ConfigurationError("expected at least one Byzantine half-step, got none")
    start = torch.zeros_like(bad[0]) if base is None else base
    graph = nx.complete_graph(len(good) + len(bad)) if neighbours is None else neighbours
    updates = [Update(i, round, vector, start, num_examples=20, batch_size=10) for i, vector in enumerate(good + bad)]
    colluders = tuple(updates[len(good) :])
    own = colluders[attacker]
    seen = colluders if attack.knowledge >= Knowledge.COLLUDING else (own,)
    view = AttackView(
        own=own,
        byzantine=seen,
        byzantine_data=(small_data() if data is None else data,) * len(seen),
        honest=tuple(updates[: len(good)]) if attack.knowledge is Knowledge.OMNISCIENT else (),
    )
    context = AttackContext(
        node=own.sender,
        round=round,
        num_rounds=num_rounds,
        byzantine=frozenset(update.sender for update in colluders),
        neighbours={i: frozenset(graph.neighbors(i)) for i in graph},
        lr=0.1,
        seed=seed,
        learner=learner,
        num_steps=2.0,
        base=start,
    )
    return attack.craft(view, receiver, context)


def check_strategy(strategy: PeerStrategy[Any], *, robust: bool = True, f: int = 1) -> None:
    """Check the contract of a rule on a neighbourhood of eleven.

    Args:
        strategy: The rule.
        robust: Whether one neighbour that sends something huge must not move the result.
        f: Byzantine budget that the rule is given.

    Raises:
        ContractViolation: It breaks the contract; the message says where.
    """
    own, received, base = _neighbourhood()
    before = [t.clone() for t in (own, received, base)]
    result = aggregate(strategy, own, received, base=base, f=f)
    _require(result.vector.shape == own.shape, "the result has the shape of the own vector")
    _require(result.vector.dtype == own.dtype, "the result has the dtype of the own vector")
    _require(result.vector.device == own.device, "the result stays on the own vector's device")
    _require(all(torch.equal(a, b) for a, b in zip(before, (own, received, base), strict=True)), "inputs are unchanged")
    _require(not _shares_memory(result.vector, own, received, base), "the result does not alias an input")
    _require(set(result.weights) == set(range(len(received) + 1)), "weights cover the closed neighbourhood")
    _require(bool(torch.isfinite(result.vector).all()), "finite inputs give a finite result")
    again = aggregate(strategy, own, received, base=base, f=f)
    _require(torch.equal(result.vector, again.vector), "the same inputs give the same bits")
    order = torch.randperm(len(received), generator=torch.Generator().manual_seed(1))
    shuffled = aggregate(strategy, own, received[order], base=base, f=f)
    if Need.HONEST_NODES not in strategy.needs:
        _require(torch.allclose(result.vector, shuffled.vector, atol=1e-5), "the order of neighbours does not matter")
    _require(
        torch.equal(aggregate(strategy, own, received[:0], base=base, f=0).vector, own),
        "an empty inbox leaves the node at its half-step",
    )
    equal = aggregate(strategy, own, own.expand(len(received), -1).clone(), base=base, f=f).vector
    _require(torch.allclose(equal, own, rtol=1e-6, atol=1e-7), "equal inputs are a fixed point")
    copy = _pickled(strategy)
    _require(torch.equal(aggregate(copy, own, received, base=base, f=f).vector, result.vector), "it survives pickling")
    try:
        state = codec.unpack(codec.pack(result.state))
    except TypeError as error:
        raise ContractViolation(f"broken: its state can be stored ({error})") from error
    first = aggregate(strategy, own, received, base=base, f=f, round=2, state=result.state).vector
    second = aggregate(strategy, own, received, base=base, f=f, round=2, state=state).vector
    _require(torch.equal(first, second), "its state survives being stored")
    if robust:
        _check_liar(strategy, own, received, base, f)


def check_attack(attack: Attack) -> None:
    """Check the contract of an attack, on 8 x 8 images with 10 labels and softmax regression.

    Raises:
        ContractViolation: It breaks the contract; the message says where.
    """
    data, learner = _images(), _image_learner()
    own, received, base = _neighbourhood(_IMAGE_DIMENSION)
    honest, byzantine = received[:6], received[6:]
    before = [t.clone() for t in (honest, byzantine, base)]
    _require(isinstance(attack.knowledge, Knowledge), "knowledge is a level of flower_dfl.types.Knowledge")

    def send() -> Tensor:
        return craft(attack, honest, byzantine, base=base, learner=learner, data=data)

    vector = send()
    _require(vector.shape == own.shape and vector.dtype == own.dtype, "it crafts a float32 vector of the model's shape")
    _require(vector.device == own.device, "the crafted vector stays on the models' device")
    _require(torch.equal(vector, send()), "the same inputs give the same bits")
    unchanged = all(torch.equal(a, b) for a, b in zip(before, (honest, byzantine, base), strict=True))
    _require(unchanged, "views are unchanged")
    inputs, labels = data.inputs.clone(), data.labels.clone()
    neighbours = {i: frozenset(range(11)) - {i} for i in range(11)}
    context = AttackContext(
        6, 1, 10, frozenset(range(6, 11)), neighbours, lr=0.1, seed=0, learner=learner, num_steps=2.0, base=base
    )
    poisoned = attack.poison(data, context)
    _require(torch.equal(inputs, data.inputs) and torch.equal(labels, data.labels), "clean data are unchanged")
    _require(poisoned.inputs.shape[1:] == inputs.shape[1:], "poisoned inputs have the shape of clean ones")
    _require(len(poisoned.inputs) == len(poisoned.labels), "every poisoned input has a label")
    valid = bool(((poisoned.labels >= 0) & (poisoned.labels < data.num_classes)).all())
    _require(valid, "poisoned labels are labels")
    low, high = data.input_range
    inside = bool(((poisoned.inputs >= low - 1e-5) & (poisoned.inputs <= high + 1e-5)).all())
    _require(inside, "poisoned inputs stay in the input range")
    _require(torch.equal(attack.poison(data, context).inputs, poisoned.inputs), "poisoning is reproducible")
    copy = _pickled(attack)
    _require(copy == attack, "it survives pickling")


def check_topology(topology: Topology, *, num_nodes: int = 10, num_byzantine: int = 2) -> None:
    """Check that a topology draws connected graphs on ``0..n-1``, the same ones for the same seed.

    Raises:
        ContractViolation: It breaks the contract; the message says where.
    """
    drawn = [topology(num_nodes=num_nodes, num_byzantine=num_byzantine, seed=seed) for seed in (0, 0, 1)]
    for graph in drawn:
        try:
            check_graph(graph, num_nodes)
        except TopologyError as error:
            raise ContractViolation(str(error)) from error
    _require(set(drawn[0].edges) == set(drawn[1].edges), "the same seed draws the same graph")


def check_schedule(schedule: Schedule, *, graph: "nx.Graph[int] | None" = None) -> None:
    """Check that a schedule's graphs have the labels of the base graph, and follow from round and seed alone.

    Args:
        schedule: The schedule.
        graph: The base graph; a connected one of eight nodes if not given.

    Raises:
        ContractViolation: It breaks the contract; the message says where.
    """
    base: nx.Graph[int] = nx.circulant_graph(8, [1, 3]) if graph is None else graph
    before = base.copy()
    keys = [(t, seed) for seed in (0, 1) for t in range(1, 9)]
    drawn = {(t, seed): schedule(graph=base, round=t, seed=seed) for t, seed in keys}
    for found in drawn.values():
        try:
            check_round_graph(found, len(before))
        except TopologyError as error:
            raise ContractViolation(str(error)) from error
    _require(nx.utils.graphs_equal(base, before), "the base graph is unchanged")
    for t, seed in reversed(keys):
        again = schedule(graph=base, round=t, seed=seed)
        _require(nx.utils.graphs_equal(again, drawn[t, seed]), "the same round and seed give the same graph")


def _pickled(component: ComponentT) -> ComponentT:
    """Return a component after a round trip through pickle, as Ray makes it."""
    try:
        copy: ComponentT = pickle.loads(pickle.dumps(component))  # noqa: S301 - our own object
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ContractViolation(f"broken: it survives pickling ({error})") from error
    return copy


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise ContractViolation(f"broken: {rule}")


def _neighbourhood(dimension: int = _DIMENSION) -> tuple[Tensor, Tensor, Tensor]:
    """Return own (d,), received (10, d) and base (d,): half-steps of nodes that nearly agree."""
    generator = torch.Generator().manual_seed(7)
    base = torch.randn(dimension, generator=generator)
    models = base + 0.1 + 0.02 * torch.randn(11, dimension, generator=generator)
    return models[0], models[1:], base


def _images() -> LabelledData:
    inputs = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return LabelledData(inputs, torch.arange(20) % 10, 10, (0.0, 1.0))


def _image_learner() -> Learner:
    """Return softmax regression without bias for these images."""
    return TorchLearner(nn.Sequential(nn.Flatten(), nn.Linear(_IMAGE_DIMENSION // 10, 10, bias=False)), (1, 8, 8), 10)


def _shares_memory(result: Tensor, *inputs: Tensor) -> bool:
    return any(result.untyped_storage().data_ptr() == t.untyped_storage().data_ptr() for t in inputs)


def _check_liar(strategy: PeerStrategy[Any], own: Tensor, received: Tensor, base: Tensor, f: int) -> None:
    spread = float((received - own).norm(dim=1).max())
    positions = [len(received) - 1] if Need.HONEST_NODES in strategy.needs else [0, len(received) - 1]
    for position in positions:
        lied = received.clone()
        lied[position] = _FAR
        moved = float((aggregate(strategy, own, lied, base=base, f=f).vector - own).norm())
        _require(
            moved <= 10 * spread, f"a huge liar cannot win (neighbour {position + 1} moved the node by {moved:.3g})"
        )
