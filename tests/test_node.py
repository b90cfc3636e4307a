"""A network of four: node 3 is Byzantine, the graph is complete unless a test says otherwise."""

import json
from dataclasses import dataclass, field, replace
from typing import ClassVar

import networkx as nx
import pytest
import torch
from torch import nn

from flower_dfl import randomness
from flower_dfl.conditions import Conditions
from flower_dfl.config import EvalConfig, NetworkConfig, RunConfig, TrainConfig
from flower_dfl.errors import ByzantineBudgetError, ConfigurationError, LostError
from flower_dfl.experiment import Experiment
from flower_dfl.metrics import StampedTest
from flower_dfl.network import Network
from flower_dfl.node import NodeFacts, Report, attack_context, node_facts, play, step_name, strike
from flower_dfl.protocols import Attack, PeerStrategy
from flower_dfl.strategies.average import Average
from flower_dfl.strategies.dfl_dual import DflDual
from flower_dfl.training import ModelState, one_thread, train
from flower_dfl.transport.memory import MemoryTransport
from flower_dfl.types import Aggregate, Knowledge, LabelledData, Need, Rejection
from flower_dfl.vectors import fingerprint, parameter_vector

NAN, INF = float("nan"), float("inf")
HONEST, BYZANTINE = (0, 1, 2), 3


@pytest.fixture(autouse=True)
def alone():
    """As the engines do: several threads would only wait for one another."""
    with one_thread():
        yield


def shard(seed, count=12):
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 5, generator=draw).clamp(-2, 2)
    return LabelledData(inputs, torch.randint(3, (count,), generator=draw), 3, (-2.0, 2.0))


def batch_norm():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


class History(MemoryTransport):
    """Remembers every memory, for the tests to look at."""

    def __init__(self, rounds_kept=1):
        super().__init__(rounds_kept)
        self._history = {}

    def commit(self, node, memory, letters, report):
        self._history[node, memory.round] = memory
        super().commit(node, memory, letters, report)

    def at(self, node, round):
        return self._history[node, round]


def build(strategy=None, attack=None, *, module=None, graph=None, byzantine=(BYZANTINE,), stamped=None, **settings):
    torch.manual_seed(0)
    module = nn.Linear(5, 3) if module is None else module
    graph = nx.complete_graph(4) if graph is None else graph
    settings = {"num_rounds": 3, "train": TrainConfig(lr=0.1, batch_size=6)} | settings
    config = RunConfig(num_nodes=len(graph), num_byzantine=len(byzantine), **settings)
    return Experiment(
        config=config,
        network=Network(graph, frozenset(byzantine), Conditions(config.network, len(graph), config.seed)),
        strategy=Average() if strategy is None else strategy,
        attack=attack,
        module=module,
        initial=ModelState.of(module),
        shards=tuple(shard(10 + node) for node in graph),
        test=shard(1, 30),
        stamped=stamped,
        test_sample=shard(1, 30),
        stamped_sample=stamped,
        num_steps=config.train.epochs * 12 / config.train.batch_size,
        protocol_followers=frozenset(graph) - (frozenset(byzantine) if attack is not None else frozenset()),
    )


def message(experiment, number, transport, order=None):
    """Let all nodes do one message, and the attackers their second wave."""
    nodes = experiment.network.nodes if order is None else order
    reports = {node: play(experiment, node, number, transport) for node in nodes}
    if number <= experiment.config.num_rounds:
        for node in sorted(experiment.network.byzantine):
            strike(experiment, node, number, transport)
    return reports


def one_round(experiment, transport=None):
    """Play messages 1 and 2; return the reports of round 1 and the transport."""
    transport = History() if transport is None else transport
    message(experiment, 1, transport)
    return message(experiment, 2, transport), transport


def half_steps(transport, nodes=range(4), round=1):
    return [transport.at(node, round).half_step.vector for node in nodes]


def start(transport, node, round=2):
    return transport.at(node, round).start.vector


class Tampering(History):
    """What node 3 sends is changed on its way; None loses it."""

    def __init__(self, change):
        super().__init__()
        self._change = change

    def collect(self, receiver, expected):
        letters = super().collect(receiver, expected)
        changed = [self._change(u) if u.sender == BYZANTINE else [u] for u in letters]
        return tuple(letter for letters in changed for letter in letters)


class OwnDigests(History):
    shares_digests: ClassVar[bool] = False


@dataclass(frozen=True)
class Spy(PeerStrategy[int]):
    """Keeps the own model, counts rounds, and remembers what it was given."""

    asks: frozenset[Need] = frozenset()
    seen: list = field(default_factory=list)
    digested: list = field(default_factory=list)

    @property
    def needs(self):
        return self.asks

    def init(self, own):
        return 0

    def digest(self, update, ctx):
        self.digested.append((update.sender, ctx))
        return update.vector[:2].clone()

    def aggregate(self, inbox, state, ctx):
        self.seen.append((inbox, ctx, state))
        return Aggregate(inbox.own.vector.clone(), state + 1, {u.sender: float(u is inbox.own) for u in inbox.members})


@dataclass(frozen=True)
class Returns(PeerStrategy[None]):
    vector: torch.Tensor
    rest: dict = field(default_factory=dict)

    def aggregate(self, inbox, state, ctx):
        return Aggregate(self.vector, state, **{"weights": {}} | self.rest)


@dataclass(frozen=True)
class Limited(PeerStrategy[None]):
    """Can carry ``largest`` Byzantine neighbours."""

    largest: int
    tried: list = field(default_factory=list)

    def aggregate(self, inbox, state, ctx):
        self.tried.append(ctx.budget)
        if ctx.budget > self.largest:
            raise ByzantineBudgetError(f"needs f <= {self.largest}, got f={ctx.budget}")
        return Aggregate(inbox.own.vector.clone(), state, {})


@dataclass(frozen=True)
class Weighted(PeerStrategy[None]):
    """Half of the own model, half of node 1's, nothing of the others."""

    def aggregate(self, inbox, state, ctx):
        weights = {u.sender: 0.0 for u in inbox.members} | {inbox.own.sender: 0.5, 1: 0.5}
        vector = sum(weights[u.sender] * u.vector for u in inbox.members)
        return Aggregate(vector, state, weights)


@dataclass(frozen=True)
class Asks(PeerStrategy[None]):
    """Remembers the class scores of its own start-of-round model; averages buffers."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.LEARNER})
    seen: list = field(default_factory=list)

    def aggregate(self, inbox, state, ctx):
        self.seen.append((ctx.node, ctx.round, ctx.learner.logits(ctx.base, shard(1, 30).inputs)))
        weights = dict.fromkeys((u.sender for u in inbox.members), 0.25)
        return Aggregate(inbox.own.vector.clone(), state, weights)


@dataclass(frozen=True)
class Eavesdropper(Attack):
    """Remembers its views; sends every receiver a message of its own."""

    level: Knowledge
    views: list = field(default_factory=list)

    @property
    def knowledge(self):
        return self.level

    def craft(self, view, receiver, ctx):
        self.views.append((view, receiver, ctx))
        return view.own.vector + receiver


@dataclass(frozen=True)
class Poisoner(Attack):
    knowledge: ClassVar[Knowledge] = Knowledge.LOCAL

    def poison(self, data, ctx):
        return LabelledData(data.inputs, (data.labels + 1) % 3, 3, data.input_range)


@dataclass(frozen=True)
class Repeats(Attack):
    """Gives all samples one label, and has each of them several times."""

    copies: int
    knowledge: ClassVar[Knowledge] = Knowledge.LOCAL

    def poison(self, data, ctx):
        labels = torch.zeros(len(data) * self.copies, dtype=torch.long)
        return LabelledData(data.inputs.repeat(self.copies, 1), labels, 3, data.input_range)


@dataclass(frozen=True)
class Questioner(Attack):
    """Remembers what it is told, and what the local model says of its own base, when it poisons and when it crafts."""

    knowledge: ClassVar[Knowledge] = Knowledge.COLLUDING
    seen: dict = field(default_factory=dict)

    def poison(self, data, ctx):
        self.seen["poison", ctx.round, ctx.node] = (ctx, ctx.learner.logits(ctx.base, shard(1, 30).inputs))
        return data

    def craft(self, view, receiver, ctx):
        told = (ctx, ctx.learner.logits(ctx.base, shard(1, 30).inputs))
        self.seen.setdefault(("craft", ctx.round, ctx.node), told)  # for its first receiver
        return view.own.vector


@dataclass(frozen=True)
class Sends(Attack):
    vector: torch.Tensor
    knowledge: ClassVar[Knowledge] = Knowledge.LOCAL

    def craft(self, view, receiver, ctx):
        return self.vector


def test_the_first_message_trains_and_publishes_and_has_nothing_to_report():
    experiment, transport = build(), History()

    report = play(experiment, 0, 1, transport)

    assert report is None
    (letter,) = transport.collect(1, [(0, 1)])
    assert torch.equal(letter.vector, half_steps(transport, [0])[0])
    assert not torch.equal(letter.vector, experiment.initial.vector)
    assert (letter.sender, letter.round, letter.num_examples, letter.epochs, letter.batch_size) == (0, 1, 12, 1, 6)


def test_a_letter_goes_to_neighbours_only():
    experiment, transport = build(graph=nx.path_graph(4)), History()

    message(experiment, 1, transport)

    assert [u.sender for u in transport.collect(1, [(sender, 1) for sender in range(4)])] == [0, 2]
    assert [u.sender for u in transport.collect(0, [(sender, 1) for sender in range(4)])] == [1]


@pytest.mark.parametrize("asks", [frozenset(), frozenset({Need.SENDER_BASE})])
def test_the_base_travels_only_where_the_rule_asks_for_it(asks):
    experiment, transport = build(Spy(asks)), History()

    message(experiment, 1, transport)

    (letter,) = transport.collect(1, [(0, 1)])
    assert (letter.base is not None) == bool(asks)


def test_every_node_draws_batches_of_its_own():
    experiment, transport = build(), History()
    experiment = replace(experiment, shards=(experiment.shards[0],) * 4)

    message(experiment, 1, transport)

    assert len({tuple(vector.tolist()) for vector in half_steps(transport)}) == 4


def test_all_nodes_start_from_the_same_model_and_train_differently():
    _, transport = one_round(build())

    starts = [transport.at(node, 1).start.vector for node in range(4)]
    assert all(torch.equal(vector, starts[0]) for vector in starts)
    assert len({tuple(vector.tolist()) for vector in half_steps(transport)}) == 4


def test_an_honest_node_averages_its_own_and_its_neighbours_half_steps():
    reports, transport = one_round(build(graph=nx.path_graph(4)))

    # node 1 of the path 0-1-2-3
    by_hand = sum(v.double() for v in half_steps(transport, (0, 1, 2))) / 3
    assert torch.allclose(start(transport, 1).double(), by_hand, atol=1e-7)
    assert reports[1].weights == pytest.approx({0: 1 / 3, 1: 1 / 3, 2: 1 / 3})


def test_mixing_weights_are_those_of_the_graph():
    # path 0-1-2-3: node 1 and 2 have degree 2, so w(0,1) = w(1,2) = 1/3; node 0 keeps 2/3
    reports, transport = one_round(build(Average("metropolis"), graph=nx.path_graph(4)))

    first, second = half_steps(transport, (0, 1))
    assert torch.allclose(start(transport, 0), (2 * first + second) / 3, atol=1e-7)
    assert reports[0].weights == pytest.approx({0: 2 / 3, 1: 1 / 3})


def test_the_order_in_which_nodes_are_played_does_not_matter():
    experiment, forwards, backwards = build(Average("metropolis")), History(), History()

    for number in (1, 2, 3, 4):
        message(experiment, number, forwards)
        message(experiment, number, backwards, order=[2, 0, 3, 1])

    assert all(torch.equal(start(forwards, i, 4), start(backwards, i, 4)) for i in range(4))


def test_another_seed_draws_other_batches():
    first, second = (one_round(build(seed=seed))[1] for seed in (0, 1))

    assert not torch.equal(half_steps(first)[0], half_steps(second)[0])


def test_the_last_message_only_aggregates():
    experiment, transport = build(num_rounds=1), History()

    message(experiment, 1, transport)
    reports = message(experiment, 2, transport)

    assert transport.at(0, 2).half_step is None
    assert transport.collect(1, [(0, 2)]) == ()
    assert reports[0].round == 1


def test_honest_nodes_are_evaluated_when_it_is_due_and_attackers_never():
    experiment, transport = build(eval=EvalConfig(every=2), num_rounds=3), History()

    reports = {number - 1: message(experiment, number, transport) for number in (1, 2, 3, 4)}

    evaluated = {r: [i for i in range(4) if reports[r][i].accuracy is not None] for r in (1, 2, 3)}
    assert evaluated == {1: [], 2: [0, 1, 2], 3: [0, 1, 2]}


def test_the_reported_accuracy_is_that_of_the_aggregated_model():
    experiment = build()
    reports, transport = one_round(experiment)

    scores = experiment.learner.logits(start(transport, 0), experiment.test.inputs)
    assert reports[0].accuracy == pytest.approx((scores.argmax(1) == experiment.test.labels).double().mean().item())
    assert reports[0].attack_success_rate is None


def test_the_attack_success_rate_is_reported_where_there_is_a_trigger():
    experiment = build(stamped=StampedTest(shard(2).inputs, target=1))
    reports, transport = one_round(experiment)

    scores = experiment.learner.logits(start(transport, 0), experiment.stamped.inputs)
    assert reports[0].attack_success_rate == pytest.approx((scores.argmax(1) == 1).double().mean().item())


def test_bytes_are_those_of_the_well_formed_messages():
    # 18 parameters of 4 bytes; three neighbours, one of them lost
    _, transport = one_round(build(), OwnDigests())
    reports, _ = one_round(build(), Tampering(lambda u: [replace(u, vector=u.vector * NAN)]))

    assert transport.at(0, 1).half_step.vector.numel() == 18
    assert reports[0].bytes_received == 2 * 18 * 4


HOSTILE = {
    "NaN": lambda u: [replace(u, vector=u.vector * NAN)],
    "infinite": lambda u: [replace(u, vector=u.vector / 0)],
    "too short": lambda u: [replace(u, vector=u.vector[:-1])],
    "float64": lambda u: [replace(u, vector=u.vector.double())],
    "old": lambda u: [replace(u, round=0)],
    "twice": lambda u: [u, u],
    "under a stranger's name": lambda u: [replace(u, sender=77)],
    "under no name": lambda u: [replace(u, sender=None)],
    "no examples": lambda u: [replace(u, num_examples=0)],
    "no vector": lambda u: [replace(u, vector=None)],
    "no base": lambda u: [replace(u, base=None)],
}


@pytest.mark.parametrize(
    ("strategy", "hostile"),
    [(Average("metropolis"), hostile) for hostile in HOSTILE if hostile != "no base"]
    + [(DflDual(iterations=2, per_class=2), hostile) for hostile in HOSTILE],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_hostile_message_has_the_effect_of_no_message(strategy, hostile):
    reports, attacked = one_round(build(strategy), Tampering(HOSTILE[hostile]))
    silent_reports, silent = one_round(build(strategy), Tampering(lambda _: []))

    for node in HONEST:
        assert torch.equal(start(attacked, node), start(silent, node))
        assert reports[node].weights == silent_reports[node].weights
        assert len(reports[node].rejections) == (2 if hostile == "twice" else 1)
        assert silent_reports[node].rejections == ()


def test_a_message_in_an_honest_nodes_name_takes_that_node_out_and_nothing_else():
    forge = Tampering(lambda u: [replace(u, sender=1)])

    reports, transport = one_round(build(), forge)

    assert reports[0].rejections == (Rejection(1, "duplicate sender"),) * 2
    assert torch.allclose(start(transport, 0), sum(half_steps(transport, (0, 2))) / 2, atol=1e-7)


def test_an_inbox_of_nothing_but_garbage_leaves_the_node_at_its_half_step():
    graph = nx.path_graph(2)
    experiment = build(graph=graph, byzantine=(1,), attack=Sends(torch.full((18,), NAN)))

    reports, transport = one_round(experiment)

    assert torch.equal(start(transport, 0), half_steps(transport, [0])[0])
    assert reports[0].rejections == (Rejection(1, "vector: not finite"),)


def test_a_node_whose_own_model_is_not_finite_keeps_it_and_says_so():
    experiment, transport = build(DflDual(iterations=2)), History()
    message(experiment, 1, transport)
    memory = transport.at(0, 1)
    broken = memory.half_step.vector.clone()
    broken[3] = NAN
    transport.commit(0, replace(memory, half_step=replace(memory.half_step, vector=broken)), {}, "")

    report = play(experiment, 0, 2, transport)

    assert torch.equal(start(transport, 0).isnan(), broken.isnan())
    assert torch.equal(start(transport, 0).nan_to_num(0), broken.nan_to_num(0))
    assert report.flags == ("own-not-finite",)
    assert report.weights == {0: 1.0, 1: 0.0, 2: 0.0, 3: 0.0}
    assert report.diverged
    assert report.accuracy == 0.0


def test_a_diverged_node_does_not_infect_its_neighbours():
    experiment, transport = build(), History()
    message(experiment, 1, transport)
    memory = transport.at(0, 1)
    broken = replace(memory.half_step, vector=memory.half_step.vector * NAN)
    transport.commit(0, replace(memory, half_step=broken), {}, "")
    transport.publish(0, 1, dict.fromkeys((1, 2, 3), broken))

    reports = message(experiment, 2, transport)

    assert [reports[i].diverged for i in HONEST] == [True, False, False]
    assert reports[1].rejections == (Rejection(0, "vector: not finite"),)
    assert torch.isfinite(start(transport, 1)).all()


@pytest.mark.parametrize(
    ("largest", "given"), [(5, 2), (2, 2), (1, 1), (0, 0)], ids=["ample", "exact", "one less", "none"]
)
def test_the_largest_policy_gives_a_rule_the_largest_budget_it_can_carry(largest, given):
    rule = Limited(largest)

    reports, _ = one_round(build(rule, byzantine=(2, 3), budget_policy="largest"))

    assert reports[0].budget == given
    assert rule.tried[: 3 - given] == list(range(2, given - 1, -1))


def test_the_error_policy_stops_with_the_rules_own_error():
    experiment, transport = build(Limited(1), byzantine=(2, 3), budget_policy="error"), History()
    message(experiment, 1, transport)

    with pytest.raises(ByzantineBudgetError, match=r"^needs f <= 1, got f=2$"):
        play(experiment, 0, 2, transport)


def test_a_rule_that_cannot_even_carry_nobody_stops_the_run_under_either_policy():
    experiment, transport = build(Limited(-1), budget_policy="largest"), History()
    message(experiment, 1, transport)

    with pytest.raises(ByzantineBudgetError, match=r"got f=0$"):
        play(experiment, 0, 2, transport)


def test_the_budget_is_the_number_of_byzantine_neighbours():
    # path 0-1-2-3: only node 2 has the Byzantine neighbour 3
    reports, _ = one_round(build(Limited(5), graph=nx.path_graph(4)))

    assert [reports[i].budget for i in HONEST] == [0, 0, 1]


@pytest.mark.parametrize(
    ("vector", "described"),
    [
        (torch.zeros(17), r"got torch\.float32 \(17,\)"),
        (torch.zeros(1, 18), r"got torch\.float32 \(1, 18\)"),
        (torch.zeros(18, dtype=torch.float64), r"got torch\.float64 \(18,\)"),
    ],
)
def test_a_rule_that_returns_another_shape_or_dtype_is_an_error(vector, described):
    experiment, transport = build(Returns(vector)), History()
    message(experiment, 1, transport)

    with pytest.raises(ConfigurationError, match=rf"must return a float32 vector of shape \(18,\), {described}$"):
        play(experiment, 0, 2, transport)


@pytest.mark.parametrize(
    ("changes", "described"),
    [
        ({"weights": {0: True}}, r"in 'weights', got True \(bool\) for 0$"),
        ({"weights": {0: torch.ones(())}}, r"in 'weights', got tensor\(1\.\) \(Tensor\) for 0$"),
        ({"weights": {"0": 1.0}}, r"in 'weights', got 1\.0 \(float\) for '0'$"),
        ({"scores": {"trust": {1: None}}}, r"in 'trust', got None \(NoneType\) for 1$"),
        ({"flags": (1,)}, r"must return flags that are text, got \(1,\)$"),
    ],
)
def test_a_rule_whose_report_no_engine_could_carry_is_an_error(changes, described):
    experiment, transport = build(Returns(torch.zeros(18), changes)), History()
    message(experiment, 1, transport)

    with pytest.raises(ConfigurationError, match=described):
        play(experiment, 0, 2, transport)


def test_models_that_carry_gradients_travel_without_them():
    class Tracked(Poisoner):
        def craft(self, view, receiver, ctx):
            return view.own.vector.clone().requires_grad_()

    experiment, transport = build(Returns(torch.zeros(18, requires_grad=True)), Tracked()), History()
    for number in (1, 2):
        message(experiment, number, transport)

    crafted, honest = transport.collect(0, [(BYZANTINE, 2), (1, 2)])
    assert not crafted.vector.requires_grad
    assert not honest.vector.requires_grad
    assert not transport.recall(0, 3).start.vector.requires_grad


@pytest.mark.parametrize("need", [None, *Need])
def test_a_rule_is_given_what_it_names_and_nothing_else(need):
    rule = Spy(frozenset() if need is None else frozenset({need}))
    experiment = build(rule)

    one_round(experiment)

    inbox, context, _ = rule.seen[0]
    everyone = [inbox.own, *inbox.received]
    assert all((update.base is not None) == (need is Need.SENDER_BASE) for update in everyone)
    assert (context.learner is not None) == (need is Need.LEARNER)
    assert (context.data is experiment.shards[context.node]) == (need is Need.OWN_DATA)
    assert (context.data is None) == (need is not Need.OWN_DATA)
    assert context.honest == (frozenset(range(4)) if need is Need.HONEST_NODES else None)


def test_a_reference_rule_is_told_who_follows_the_protocol():
    rule = Spy(frozenset({Need.HONEST_NODES}))

    one_round(build(rule, Poisoner()))

    assert rule.seen[0][1].honest == frozenset(HONEST)


def test_a_rule_is_told_round_base_and_rates():
    rule = Spy()
    experiment = build(rule, seed=5, train=TrainConfig(lr=0.1, batch_size=8, epochs=2))
    transport = History()
    for number in (1, 2, 3):
        message(experiment, number, transport)

    _, context, _ = rule.seen[-1]  # of node 3 in round 2, which follows the protocol
    assert (context.node, context.round, context.num_rounds, context.seed) == (3, 2, 3, 5)
    assert torch.equal(context.base, start(transport, 3, 2))
    assert context.lr == 0.1
    assert context.num_steps == 3.0  # two epochs of 12 samples in batches of 8


def test_state_goes_in_and_comes_out_for_every_node_separately():
    rule = Spy()
    experiment, transport = build(rule), History()
    for number in (1, 2, 3, 4):
        message(experiment, number, transport)

    states = [state for _, context, state in rule.seen if context.node == 1]
    assert states == [0, 1, 2]
    assert transport.at(1, 4).strategy_state == 3


def test_with_shared_digests_each_distinct_message_is_digested_once():
    rule = Spy()

    one_round(build(rule))

    assert sorted(sender for sender, context in rule.digested if context.round == 1) == [0, 1, 2, 3]


def test_without_shared_digests_every_receiver_digests_for_itself():
    rule = Spy()

    one_round(build(rule), OwnDigests())

    assert (
        sorted(sender for sender, context in rule.digested if context.round == 1)
        == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    )


def test_shared_digests_change_no_bit_of_the_result():
    rule = DflDual(iterations=3, per_class=2)
    shared, separate = (one_round(build(rule, Eavesdropper(Knowledge.LOCAL)), t)[1] for t in (History(), OwnDigests()))

    assert all(torch.equal(start(shared, i), start(separate, i)) for i in range(4))


def test_every_inbox_comes_with_the_digests():
    rule = Spy()

    one_round(build(rule))

    inbox, _, _ = rule.seen[0]
    assert all(torch.equal(u.digest, u.vector[:2]) for u in inbox.members)


@pytest.mark.parametrize(
    ("knowledge", "byzantine", "honest"),
    [(Knowledge.LOCAL, 1, 0), (Knowledge.COLLUDING, 2, 0), (Knowledge.OMNISCIENT, 2, 2)],
)
def test_an_attack_sees_what_its_knowledge_allows_and_nothing_else(knowledge, byzantine, honest):
    attack = Eavesdropper(knowledge)
    experiment, transport = build(attack=attack, byzantine=(2, 3)), History()

    message(experiment, 1, transport)

    steps = half_steps(transport)
    for view, _, context in attack.views:
        colluders = (2, 3) if byzantine == 2 else (context.node,)
        assert torch.equal(view.own.vector, steps[context.node])
        assert torch.equal(view.own.base, experiment.initial.vector)
        assert [u.sender for u in view.byzantine] == list(colluders)
        assert all(torch.equal(u.vector, steps[u.sender]) for u in (*view.byzantine, *view.honest))
        assert all(data is experiment.shards[i] for data, i in zip(view.byzantine_data, colluders, strict=True))
        assert [u.sender for u in view.honest] == [0, 1][:honest]


@pytest.mark.parametrize("knowledge", Knowledge)
def test_an_attack_crafts_one_message_for_each_honest_neighbour(knowledge):
    attack = Eavesdropper(knowledge)
    experiment, transport = build(attack=attack, byzantine=(2, 3)), History()

    message(experiment, 1, transport)

    assert [(context.node, receiver) for _, receiver, context in attack.views] == [(2, 0), (2, 1), (3, 0), (3, 1)]
    own = half_steps(transport, [3])[0]
    for receiver in (0, 1):
        (letter,) = transport.collect(receiver, [(3, 1)])
        assert torch.equal(letter.vector, own + receiver)
    assert transport.collect(2, [(3, 1)]) == ()


def test_what_an_attacker_sends_changes_what_honest_nodes_average():
    reports, transport = one_round(build(attack=Eavesdropper(Knowledge.OMNISCIENT)))

    steps = half_steps(transport)
    assert torch.allclose(start(transport, 1), (sum(steps) + 1) / 4, atol=1e-6)
    assert reports[1].weights[3] == pytest.approx(0.25)


def test_an_attackers_malformed_message_is_rejected_and_stops_nobody():
    reports, transport = one_round(build(attack=Sends(torch.zeros(4))))

    assert reports[0].rejections == (Rejection(3, "vector: wrong shape"),)
    assert torch.allclose(start(transport, 0), sum(half_steps(transport, HONEST)) / 3, atol=1e-7)


@pytest.mark.parametrize(
    "vector",
    [torch.zeros(18, dtype=torch.bfloat16), torch.zeros(18, dtype=torch.complex64), torch.zeros(18).to_sparse()],
)
def test_a_message_that_some_engine_cannot_carry_is_the_attacks_error_on_every_engine(vector):
    with pytest.raises(ConfigurationError, match=r"attack 'scaling' must craft a vector .* got torch\."):
        one_round(build(attack=Sends(vector)))


def test_an_attacker_is_told_the_graph_and_the_round():
    experiment = build(attack=Poisoner(), byzantine=(2, 3), graph=nx.cycle_graph(4), seed=7)

    context = attack_context(experiment, 2, 1)

    assert (context.node, context.round, context.num_rounds, context.seed, context.lr) == (2, 1, 3, 7, 0.1)
    assert context.byzantine == frozenset({2, 3})
    assert context.neighbours == {0: {1, 3}, 1: {0, 2}, 2: {1, 3}, 3: {0, 2}}


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0)])
def test_an_attacker_is_told_its_base_and_asks_its_own_model_whoever_came_before(order):
    attack = Questioner()
    experiment, transport = build(attack=attack, byzantine=(2, 3), module=batch_norm()), History()
    for number in (1, 2):
        message(experiment, number, transport, order)

    for node in (2, 3):
        begun, trained = transport.at(node, 2).start, half_steps(transport, [node], 2)[0]
        for occasion, buffers in (("poison", begun.buffers), ("craft", transport.at(node, 2).half_step.buffers)):
            told, scores = attack.seen[occasion, 2, node]
            assert torch.equal(told.base, begun.vector)
            assert not torch.equal(told.base, trained)
            assert told.num_steps == 2.0  # one epoch of 12 samples in batches of 6
            ModelState(begun.vector, buffers).load(experiment.module)
            assert torch.equal(scores, experiment.learner.logits(begun.vector, shard(1, 30).inputs))


def test_an_attacker_trains_on_poisoned_data_and_everybody_elses_stay_clean():
    clean, poisoned = (one_round(build(attack=a))[1] for a in (Sends(torch.zeros(18)), Poisoner()))

    assert all(torch.equal(a, b) for a, b in zip(half_steps(clean, HONEST), half_steps(poisoned, HONEST), strict=True))
    assert not torch.equal(half_steps(clean, [3])[0], half_steps(poisoned, [3])[0])


@pytest.mark.parametrize("copies", [1, 2])
def test_an_attacker_draws_evenly_by_the_labels_from_before_it_poisons(copies):
    # by poisoned labels all would be of one kind, whatever there was; samples that are added have only those
    settings = TrainConfig(lr=0.1, batch_size=6, sampling="class-balanced")
    experiment, transport = build(attack=Repeats(copies), train=settings), History()

    message(experiment, 1, transport)

    clean = experiment.shards[3]
    strata = clean.labels if copies == 1 else clean.labels[:1].repeat(24)
    batches = randomness.generator(0, "batches", 1, 3)
    poisoned = Repeats(copies).poison(clean, None)
    trained = train(experiment.module, experiment.initial, poisoned, settings, batches, strata=strata)
    assert torch.equal(half_steps(transport, [3])[0], trained.vector)
    assert len(clean.labels.unique()) > 1


def test_poisoning_leaves_the_attackers_clean_data_alone():
    experiment = build(attack=Poisoner())
    before = experiment.shards[3].labels.clone()

    one_round(experiment)

    assert torch.equal(experiment.shards[3].labels, before)


def test_an_attacker_trains_from_the_mean_of_its_honest_neighbours():
    reports, transport = one_round(build(attack=Sends(torch.full((18,), 9.0)), byzantine=(2, 3)))

    assert torch.allclose(start(transport, 3), sum(half_steps(transport, (0, 1))) / 2, atol=1e-7)
    assert reports[3].weights == pytest.approx({0: 0.5, 1: 0.5})
    assert reports[3].accuracy is None


def test_an_attacker_without_honest_neighbours_goes_on_from_its_own_half_step():
    # path 0-1-2-3 with 2 and 3 Byzantine: 3 has no honest neighbour
    _, transport = one_round(build(attack=Poisoner(), byzantine=(2, 3), graph=nx.path_graph(4)))

    assert torch.equal(start(transport, 3), half_steps(transport, [3])[0])


def test_without_an_attack_byzantine_nodes_follow_the_protocol():
    _, transport = one_round(build())

    assert torch.allclose(start(transport, 3), sum(half_steps(transport)) / 4, atol=1e-7)


def test_float_buffers_are_averaged_with_the_rules_weights_and_integer_ones_stay():
    experiment = build(Weighted(), module=batch_norm())
    transport = History()
    message(experiment, 1, transport)
    half = {node: transport.at(node, 1).half_step for node in (0, 1)}
    memory = transport.at(0, 1)
    transport.commit(0, replace(memory, integer_buffers=(memory.integer_buffers[0] + 77,)), {}, "")

    play(experiment, 0, 2, transport)

    mixed = transport.at(0, 2).start
    assert not torch.equal(half[0].buffers, half[1].buffers)
    assert torch.allclose(mixed.buffers, (half[0].buffers + half[1].buffers) / 2, atol=1e-7)
    assert [int(b) for b in mixed.integer_buffers] == [79]  # two batches of its own training went by


def test_a_rules_learner_has_the_buffers_of_the_nodes_own_start():
    experiment, transport = build(Asks(), module=batch_norm()), History()
    for number in (1, 2, 3):
        message(experiment, number, transport)

    of_round_two = [(node, scores) for node, number, scores in experiment.strategy.seen if number == 2]
    assert [node for node, _ in of_round_two] == [0, 1, 2, 3]
    for node, scores in of_round_two:
        transport.at(node, 2).start.load(experiment.module)
        assert torch.equal(scores, experiment.learner.logits(start(transport, node), experiment.test.inputs))


def test_a_digest_is_taken_with_the_senders_buffers_whoever_computes_it():
    rule, reports = DflDual(iterations=3, per_class=2), []

    for transport in (History(), OwnDigests()):
        experiment = build(rule, module=batch_norm())
        message(experiment, 1, transport)
        message(experiment, 2, transport)
        reports.append(message(experiment, 3, transport))

    assert [reports[0][i].scores for i in range(4)] == [reports[1][i].scores for i in range(4)]


def test_a_model_is_evaluated_with_its_own_buffers():
    experiment, transport = build(Limited(5), module=batch_norm()), History()
    message(experiment, 1, transport)
    memory = transport.at(0, 1)
    shifted = memory.half_step.buffers + torch.tensor([-9.0, 9, -9, 9, 0, 0, 0, 0])  # four means, four variances
    transport.commit(0, replace(memory, half_step=replace(memory.half_step, buffers=shifted)), {}, "")

    report = play(experiment, 0, 2, transport)

    accuracies = []
    for buffers in (shifted, memory.half_step.buffers):
        ModelState(start(transport, 0), buffers).load(experiment.module)
        scores = experiment.learner.logits(start(transport, 0), experiment.test.inputs)
        accuracies.append((scores.argmax(dim=1) == experiment.test.labels).double().mean().item())
    assert report.accuracy == pytest.approx(accuracies[0])
    assert report.accuracy != pytest.approx(accuracies[1])


def test_a_rule_without_weights_keeps_the_nodes_own_buffers():
    experiment = build(Limited(5), module=batch_norm())

    _, transport = one_round(experiment)

    own = transport.at(0, 1).half_step.buffers
    assert own.numel() == 8
    assert torch.equal(transport.at(0, 2).start.buffers, own)


def test_a_message_with_broken_buffers_is_rejected():
    reports, _ = one_round(build(module=batch_norm()), Tampering(lambda u: [replace(u, buffers=u.buffers * NAN)]))

    assert reports[0].rejections == (Rejection(3, "buffers: not finite"),)


def test_the_global_random_state_is_not_touched():
    experiment = build(DflDual(iterations=2), Poisoner())
    torch.manual_seed(5)
    before = torch.get_rng_state()

    one_round(experiment)

    assert torch.equal(torch.get_rng_state(), before)


def test_the_workspace_does_not_leak_from_one_node_to_another():
    experiment = build(Average("metropolis"))
    first, _ = one_round(experiment)
    with torch.no_grad():
        experiment.module.weight.fill_(123)

    second, _ = one_round(experiment)

    assert [first[i].accuracy for i in HONEST] == [second[i].accuracy for i in HONEST]
    assert not torch.equal(parameter_vector(experiment.module), experiment.initial.vector)


def test_a_report_survives_as_text():
    report = Report(
        3, 2, 0.5, 0.25, diverged=True, weights={0: 0.5, 3: 0.5}, scores={"distance": {0: 1.5, 3: 0.0}},
        flags=("alone",), rejections=(Rejection(1, "wrong round"),), budget=2, bytes_received=7, seconds={"train": 0.5},
    )  # fmt: skip

    assert Report.from_json(report.to_json()) == report
    assert json.loads(report.to_json())["node"] == 3


def test_an_empty_report_survives_as_text():
    assert Report.from_json(Report(0, 1).to_json()) == Report(0, 1)


def test_the_facts_of_a_node_count_its_labels():
    experiment = build()

    facts = node_facts(experiment, 2)

    labels = experiment.shards[2].labels.tolist()
    assert facts == NodeFacts(2, 12, (labels.count(0), labels.count(1), labels.count(2)))


@pytest.mark.parametrize(
    ("number", "when"),
    [(1, "in round 1"), (2, "between the exchanges of rounds 1 and 2"), (5, "between the exchanges of rounds 4 and 5"),
     (6, "at the end of round 5")],
)  # fmt: skip
def test_the_moment_of_a_message_is_named(number, when):
    assert step_name(number, num_rounds=5) == when


def troubled(strategy=None, attack=None, **network):
    return build(strategy, attack, network=NetworkConfig(**network))


def test_a_node_that_is_away_keeps_its_model_and_its_neighbours_do_without_it():
    rule = Spy()
    experiment, transport = troubled(rule, churn=0.3, absence=1), History()
    present = [[experiment.network.conditions.is_present(node, round) for node in range(4)] for round in (1, 2, 3)]
    assert present == [[True, False, True, True], [True, True, True, False], [False, True, True, True]]  # of seed 0

    _, _, _, last = (message(experiment, number, transport) for number in (1, 2, 3, 4))

    assert last[0].flags == ("absent",)
    assert last[0].accuracy is not None
    assert torch.equal(start(transport, 0, 4), start(transport, 0, 3))
    assert transport.at(0, 3).half_step is None
    assert last[1].missing == {0: "absent"}
    assert set(last[1].weights) == {1, 2, 3}


def test_a_node_that_comes_back_trains_on_from_its_old_model():
    experiment, transport = troubled(churn=0.3, absence=1), History()
    for number in (1, 2):
        message(experiment, number, transport)

    assert transport.at(1, 1).half_step is None
    batches = randomness.generator(0, "batches", 2, 1)
    moved = train(experiment.module, experiment.initial, experiment.shards[1], experiment.config.train, batches)
    assert torch.equal(half_steps(transport, [1], 2)[0], moved.vector)


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_late_message_comes_with_its_own_round_and_counts_if_it_is_not_too_old(staleness):
    rule = Spy()
    experiment, transport = troubled(rule, late_rate=0.35, staleness=staleness), History(rounds_kept=2)
    late = [[experiment.network.conditions.is_late(node, round) for node in range(4)] for round in (1, 2)]
    assert late == [[False, False, False, True], [False, True, False, True]]  # of seed 0

    message(experiment, 1, transport)
    first = message(experiment, 2, transport)
    second = message(experiment, 3, transport)

    assert first[0].missing == {3: "late"}
    assert second[0].missing == {1: "late", 3: "late"}
    inbox = next(inbox for inbox, context, _ in rule.seen if (context.node, context.round) == (0, 2))
    assert [(u.sender, u.round) for u in inbox.received] == [(2, 2)] + [(3, 1)] * staleness
    assert inbox.rejected == (() if staleness else (Rejection(3, "wrong round"),))


@pytest.mark.parametrize("transport", [History, OwnDigests])
def test_a_late_message_is_digested_in_the_round_in_which_it_is_compared(transport):
    rule = Spy()
    experiment, transport = troubled(rule, late_rate=0.35, staleness=1), transport(rounds_kept=2)

    for number in (1, 2, 3):
        message(experiment, number, transport)

    late = [told.round for sender, told in rule.digested if sender == 3]
    inbox = next(inbox for inbox, context, _ in rule.seen if (context.node, context.round) == (0, 2))
    assert (inbox.received[-1].sender, inbox.received[-1].round) == (3, 1)
    assert torch.equal(inbox.received[-1].digest, inbox.received[-1].vector[:2])
    assert late.count(2) > 3  # its own of round 2, and at each of the three others what was late


def test_a_lost_message_is_missing_in_one_direction_only():
    experiment, transport = troubled(drop_rate=0.25), History()
    fates = {node: experiment.network.fates(node, 1) for node in range(4)}

    reports, _ = one_round(experiment, transport)

    lost = {(sender, node) for node in fates for sender, fate in fates[node].items() if fate == "dropped"}
    assert lost
    assert {(sender, node) for node in range(4) for sender in reports[node].missing} == lost
    assert any((node, sender) not in lost for sender, node in lost)


def test_a_split_network_exchanges_within_its_parts_until_it_heals():
    experiment, transport = troubled(split_start=1, split_stop=1), History()
    message(experiment, 1, transport)

    split, healed = message(experiment, 2, transport), message(experiment, 3, transport)

    assert all(list(report.missing.values()) == ["split", "split"] for report in split.values())
    assert all(not report.missing for report in healed.values())


def test_a_neighbour_that_sent_nothing_is_called_silent():
    reports, _ = one_round(build(), Tampering(lambda update: []))

    assert [reports[node].missing for node in HONEST] == [{3: "silent"}] * 3


def test_attackers_see_and_hear_only_who_takes_part():
    spy = Eavesdropper(Knowledge.OMNISCIENT)
    experiment, transport = troubled(attack=spy, churn=0.3, absence=1), History()
    for number in (1, 2, 3):
        message(experiment, number, transport)

    seen = {view.own.round: {u.sender for u in view.honest} for view, _, _ in spy.views}
    assert seen == {1: {0, 2}, 3: {1, 2}}  # the attacker itself is away in round 2


def test_a_step_that_is_repeated_from_its_inputs_gives_the_same_bytes():
    experiment, transport = build(Spy()), History()
    message(experiment, 1, transport)
    before = transport.at(0, 1)

    first = play(experiment, 0, 2, transport)
    once = transport.at(0, 2)
    transport.commit(0, before, {}, "")
    second = play(experiment, 0, 2, transport)

    assert first.fingerprint == second.fingerprint
    assert torch.equal(once.half_step.vector, transport.at(0, 2).half_step.vector)


def test_a_lost_memory_stops_a_node_unless_failures_are_skipped():
    class Forgetful(History):
        def recall(self, node, before):
            if node == 0 and before == 2:
                raise LostError("the holder died")
            return super().recall(node, before)

    for policy in ("stop", "restart"):
        with pytest.raises(LostError, match=r"^the holder died$"):
            one_round(build(on_node_failure=policy), Forgetful())
    reports, transport = one_round(build(on_node_failure="skip"), Forgetful())

    assert reports[0].flags == ("absent",)
    assert torch.equal(start(transport, 0), transport.at(0, 1).start.vector)


def test_a_letter_whose_holder_died_stops_a_node_unless_failures_are_skipped():
    class Leaky(History):
        def collect(self, receiver, expected):
            if any(sender == 3 for sender, _ in expected):
                raise LostError("the holder died")
            return super().collect(receiver, expected)

    with pytest.raises(LostError, match=r"^the holder died$"):
        one_round(build(), Leaky())
    reports, _ = one_round(build(on_node_failure="skip"), Leaky())

    assert reports[0].missing == {3: "silent"}
    assert set(reports[0].weights) == {0, 1, 2}


def test_the_fingerprint_is_that_of_the_aggregated_model():
    reports, transport = one_round(build())

    begun = transport.at(1, 2).start
    assert reports[1].fingerprint == fingerprint(begun.vector, begun.buffers)
    assert reports[1].fingerprint != fingerprint(half_steps(transport, [1])[0], begun.buffers)


def test_digests_are_reported_only_where_they_are_recorded():
    silent, _ = one_round(build(Spy()))
    told, transport = one_round(build(Spy(), record_digests=True))

    assert silent[0].digests == {}
    assert {node: digest.tolist() for node, digest in told[0].digests.items()} == {
        node: transport.at(node, 1).half_step.vector[:2].tolist() for node in range(4)
    }
    assert Report.from_json(told[0].to_json()).digests == {}


def test_evaluation_may_leave_out_nodes_and_samples_until_the_last_round():
    experiment = build(eval=EvalConfig(nodes=1, samples=5))
    sample = experiment.test.subset(torch.arange(5))
    experiment, transport = replace(experiment, test_sample=sample), History()

    reports = [message(experiment, number, transport) for number in (1, 2, 3, 4)]

    evaluated = [[node for node in range(4) if report[node].accuracy is not None] for report in reports[1:]]
    assert [len(nodes) for nodes in evaluated] == [1, 1, 3]
    assert (5 * reports[1][evaluated[0][0]].accuracy).is_integer()
    scores = experiment.learner.logits(start(transport, 0, 4), experiment.test.inputs)
    assert reports[3][0].accuracy == pytest.approx(
        float((scores.argmax(1) == experiment.test.labels).double().mean()), abs=1e-12
    )
