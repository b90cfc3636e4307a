"""Peer rules as Flower strategies, fed with replies directly; and beside Flower's own strategies.

Conventions that differ: Flower's MultiKrum averages one model unless told otherwise, and FedTrimmedAvg takes a fraction
and rounds down; Flower weighs by the examples that clients claim, we do so only on request.
"""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, FedMedian, FedTrimmedAvg, Strategy
from flwr.serverapp.strategy import Krum as FlowerKrum
from flwr.serverapp.strategy import MultiKrum as FlowerMultiKrum

from flower_dfl import registry
from flower_dfl.errors import ByzantineBudgetError, ConfigurationError, UnknownComponentError
from flower_dfl.integrations import as_flower_strategy
from flower_dfl.integrations.screening import Layout
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.average import Average
from flower_dfl.strategies.balance import Balance
from flower_dfl.strategies.bucketing import Bucketing
from flower_dfl.strategies.centered_clipping import CenteredClipping
from flower_dfl.strategies.clip_first import ClipFirst
from flower_dfl.strategies.krum import Krum
from flower_dfl.strategies.nnm import NearestNeighbourMixing
from flower_dfl.strategies.self_centered_clipping import SelfCenteredClipping
from flower_dfl.types import Aggregate
from tests.integrations.conftest import ask, failure, play, record, replies, reply, vector_of

ALIKE = ["average", "bulyan", "centered-clipping", "geometric-median", "krum", "median", "multi-krum", "trimmed-mean"]
SIZES = [(4, 0), (5, 1), (11, 2), (20, 4)]


def stack(n, seed=0, d=300):
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return rows * torch.linspace(1, 2, n)[:, None]


def result(strategy, rows, base=None):
    arrays, _ = play(strategy, torch.zeros(rows.shape[1]) if base is None else base, replies(rows))
    return vector_of(arrays)


# Against Flower's own


@pytest.mark.parametrize(("n", "f"), SIZES)
def test_krum_picks_the_model_that_flowers_krum_picks(n, f):
    ours = result(as_flower_strategy("krum", budget=f), stack(n))

    assert torch.equal(ours, result(FlowerKrum(num_malicious_nodes=f), stack(n)))


@pytest.mark.parametrize(("n", "f"), SIZES)
def test_multi_krum_averages_the_models_that_flowers_averages_when_told_how_many(n, f):
    ours = result(as_flower_strategy("multi-krum", budget=f), stack(n))

    flower = FlowerMultiKrum(num_malicious_nodes=f, num_nodes_to_select=n - f)
    torch.testing.assert_close(ours, result(flower, stack(n)))
    one = as_flower_strategy("multi-krum", params={"m": 1}, budget=f)
    torch.testing.assert_close(result(one, stack(n)), result(FlowerMultiKrum(num_malicious_nodes=f), stack(n)))


@pytest.mark.parametrize(("n", "f"), SIZES)
def test_the_median_is_fed_median_to_the_last_bit(n, f):
    assert torch.equal(result(as_flower_strategy("median", budget=f), stack(n)), result(FedMedian(), stack(n)))


@pytest.mark.parametrize(("n", "f"), SIZES)
def test_the_trimmed_mean_is_fed_trimmed_avg_where_the_fraction_is_a_count(n, f):
    ours = result(as_flower_strategy("trimmed-mean", budget=f), stack(n))

    torch.testing.assert_close(ours, result(FedTrimmedAvg(beta=(f + 0.5) / n), stack(n)))


def test_the_average_is_fed_avg_with_equal_claims():
    torch.testing.assert_close(result(as_flower_strategy("average"), stack(7)), result(FedAvg(), stack(7)))


def test_claims_weigh_only_on_request_and_then_as_in_fed_avg():
    rows, claims = stack(3), [10, 30, 60]
    answers = [reply(node, row, **{"num-examples": claims[node - 1]}) for node, row in enumerate(rows, 1)]
    metropolis = Average(weights="metropolis")

    equal, _ = play(as_flower_strategy(metropolis), torch.zeros(300), answers)
    claimed, _ = play(as_flower_strategy(metropolis, weighted_by_examples=True), torch.zeros(300), answers)
    flower, _ = play(FedAvg(), torch.zeros(300), answers)

    torch.testing.assert_close(vector_of(equal), rows.mean(dim=0))
    torch.testing.assert_close(vector_of(claimed), vector_of(flower))


# Who plays the node itself


@pytest.mark.parametrize("name", ALIKE)
def test_no_reply_is_told_apart_by_rules_that_treat_all_alike(name):
    rows = stack(11)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1))

    first = result(as_flower_strategy(name, budget=2), rows)
    other_ids = result(as_flower_strategy(name, budget=2), rows[order])
    # The part of the node itself goes to the reply nearest to the global model: another one here.
    other_own = result(as_flower_strategy(name, budget=2, anchor="none"), rows, base=rows[7])

    torch.testing.assert_close(first, other_ids)
    if name != "centered-clipping":  # which starts from the global model
        torch.testing.assert_close(first, other_own)


def test_the_global_model_is_no_member_by_default_and_one_on_request():
    rows = torch.tensor([[3.0], [6.0], [9.0]])

    assert result(as_flower_strategy("average"), rows).tolist() == [6.0]
    assert result(as_flower_strategy("average", anchor="global"), rows).tolist() == [4.5]


def test_nearest_neighbour_mixing_does_as_its_inner_rule():
    rows = torch.tensor([[3.0], [6.0], [9.0]])

    assert result(as_flower_strategy(NearestNeighbourMixing(Average())), rows).tolist() == [6.0]
    clipped = NearestNeighbourMixing(SelfCenteredClipping(tau=np.inf))
    assert result(as_flower_strategy(clipped), rows).tolist() == [4.5]


def test_centred_clipping_is_the_servers_rule_of_its_paper():
    rows = torch.tensor([[1.0], [100.0]])

    # From 0 with radius 2: (1 + 2) / 2.
    assert result(as_flower_strategy(CenteredClipping(tau=2.0)), rows).tolist() == [1.5]


def test_rules_that_start_from_the_own_model_start_from_the_global_one():
    rows = torch.tensor([[13.0], [10.0], [40.0]])

    clipping = result(as_flower_strategy(SelfCenteredClipping(tau=2.0)), rows, base=[10.0])
    balance = result(as_flower_strategy(Balance(gamma=0.5, kappa=0.0)), rows, base=[10.0])

    assert clipping.tolist() == [11.0]  # 10 + (2 + 0 + 2) / 4
    assert balance.tolist() == [10.75]  # (10 + mean(13, 10)) / 2


class Answers:
    """A grid of two clients that always answer the same."""

    def get_node_ids(self):
        return [1, 2]

    def send_and_receive(self, messages, timeout):
        return [reply(message.metadata.dst_node_id, [1.0]) for message in messages]


def test_a_rule_whose_bound_shrinks_is_told_how_many_rounds_there_are():
    seen = {}

    @dataclass(frozen=True)
    class Watches(PeerStrategy[None]):
        def aggregate(self, inbox, state, ctx):
            seen[ctx.round] = (ctx.num_rounds, len(inbox.received), ctx.budget, [u.base for u in inbox.members])
            return Aggregate(inbox.own.vector.clone(), state, {})

    strategy = as_flower_strategy(Watches(), budget=1, anchor="none", fraction_evaluate=0.0)
    strategy.start(Answers(), record([0.0]), num_rounds=4)

    assert seen == {t: (4, 1, 1, [None, None]) for t in (1, 2, 3, 4)}


def test_a_server_with_root_data_has_a_half_step():
    def train_root(arrays, server_round):
        return record(vector_of(arrays) + server_round)

    strategy = as_flower_strategy(
        "dfl-trust", params={"include_root": False}, train_root=train_root, fraction_evaluate=0.0
    )

    arrays, metrics = play(strategy, [10.0], replies([[13.0], [9.0]]), server_round=2)

    assert vector_of(arrays).tolist() == [12.0]  # 13 points the same way, and is shortened to the server's 2
    assert metrics["flower-dfl-kept"] == 1


def test_rule_state_is_kept_between_rounds():
    @dataclass(frozen=True)
    class Counts(PeerStrategy[int]):
        def init(self, own):
            return 0

        def aggregate(self, inbox, state, ctx):
            return Aggregate(torch.full_like(inbox.own.vector, state + 1.0), state + 1, {})

    strategy = as_flower_strategy(Counts(), anchor="none")

    assert [result(strategy, torch.zeros(2, 1)).item() for _ in range(3)] == [1.0, 2.0, 3.0]
    strategy.start(Answers(), record([0.0]), num_rounds=2)
    assert strategy.state == 2  # a run of its own


# What clients may send


def metrics_of(answers, base=(0.0, 0.0), **options):
    return play(as_flower_strategy("average", **options), list(base), answers)


def saved(array, **changes):
    fields = {"dtype": "float32", "shape": (2,), "stype": "numpy.ndarray"} | changes
    return ArrayRecord({"weight": Array(data=array, **fields)})


def lying_header():
    stream = BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)})
    return stream.getvalue()


def bytes_of(values):
    return Array(np.array(values, dtype=np.float32)).data


MALFORMED = {
    "nan": record([np.nan, 0.0]),
    "infinite": record([np.inf, 0.0]),
    "wrong shape": record([1.0]),
    "one row too many dimensions": record([[1.0, 2.0]]),
    "double": ArrayRecord({"weight": Array(np.zeros(2))}),
    "integers": ArrayRecord({"weight": Array(np.zeros(2, dtype=np.int64))}),
    "other byte order": ArrayRecord({"weight": Array(np.zeros(2, dtype=">f4"))}),
    "missing key": ArrayRecord({}),
    "other key": ArrayRecord({"bias": Array(np.zeros(2, dtype=np.float32))}),
    "additional key": record([0.0, 0.0], more=np.zeros(1, dtype=np.float32)),
    "no bytes": saved(b""),
    "not an array": saved(b"PK\x03\x04 something else entirely"),
    "a pickle": saved(b"\x80\x04\x95\x00\x00"),
    "cut off": saved(bytes_of([1, 2])[:-1]),
    "something behind it": saved(bytes_of([1, 2]) + b"0"),
    "a header that lies": saved(lying_header(), shape=(2**40,)),
    "a label that lies": saved(Array(np.zeros(2)).data),
    "other serialisation": saved(bytes_of([1, 2]), stype="pickle"),
    "no record": RecordDict({"metrics": MetricRecord({"num-examples": 1})}),
    "two records": RecordDict({"a": record([1.0, 1.0]), "b": record([1.0, 1.0])}),
    "nothing": RecordDict(),
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_reply_is_dropped_and_counted(content):
    arrays, metrics = metrics_of([reply(1, [1.0, 3.0]), reply(2, content), reply(3, [3.0, 5.0])])

    assert vector_of(arrays).tolist() == [2.0, 4.0]
    assert metrics["flower-dfl-rejected"] == 1
    assert metrics["flower-dfl-kept"] == 2


def test_errors_silence_and_double_votes_are_counted_too():
    strategy = as_flower_strategy("average")
    assert ask(strategy, [0.0, 0.0], range(1, 7)) == [1, 2, 3, 4, 5, 6]

    answers = [reply(1, [2.0, 4.0]), failure(2), reply(3, [9.0, 9.0]), reply(3, [9.0, 9.0]), reply(4, [2.0, 4.0])]
    arrays, metrics = strategy.aggregate_train(1, answers)

    assert vector_of(arrays).tolist() == [2.0, 4.0]
    assert metrics["flower-dfl-rejected"] == 4  # one error, one that votes twice, two that are silent


def test_without_a_good_reply_the_model_stays():
    for answers in ([], [failure(1)], [reply(1, [np.nan, 0.0])]):
        arrays, metrics = metrics_of(answers)

        assert arrays is None
        assert metrics["flower-dfl-rejected"] == len(answers)


@pytest.mark.parametrize("claim", [0, -1, 2**60, 1.5, [1, 2], None])
def test_a_claim_is_read_only_where_it_weighs(claim):
    claims = {} if claim is None else {"num-examples": claim}
    liar = RecordDict({"arrays": record([4.0, 4.0]), "metrics": MetricRecord(claims)})
    answers = [reply(1, [1.0, 1.0]), reply(2, [1.0, 1.0]), reply(3, liar)]

    ignored, _ = metrics_of(answers)
    weighed, metrics = metrics_of(answers, weighted_by_examples=True)

    assert vector_of(ignored).tolist() == [2.0, 2.0]
    assert vector_of(weighed).tolist() == [1.0, 1.0]
    assert metrics["flower-dfl-rejected"] == 1


def test_integer_arrays_keep_the_servers_values_and_keys_their_order():
    def model(weight, steps, flag):
        return ArrayRecord(
            {
                "z": Array(np.array([[weight, weight + 1]], dtype=np.float32)),
                "steps": Array(np.array(steps)),
                "flag": Array(np.array([flag])),
                "a": Array(np.array(-weight, dtype=np.float32)),
            }
        )

    strategy = as_flower_strategy("average")
    arrays, _ = play(
        strategy, model(0, 7, flag=True), [reply(1, model(1, 8, flag=False)), reply(2, model(3, 9, flag=False))]
    )

    assert list(arrays) == ["z", "steps", "flag", "a"]
    assert arrays["z"].numpy().tolist() == [[2.0, 3.0]]
    assert arrays["a"].numpy().tolist() == -2.0
    assert arrays["a"].shape == ()
    assert arrays["steps"].numpy().tolist() == 7
    assert arrays["flag"].numpy().tolist() == [True]


def test_the_vector_is_in_the_order_of_sorted_keys_whatever_the_order_of_the_clients():
    server = record([5.0], bias=np.array([[1, 2]], dtype=np.float32), count=np.array([7]))
    client = ArrayRecord({key: server[key] for key in ("count", "bias", "weight")})

    assert Layout(server).read(client).tolist() == [1.0, 2.0, 5.0]
    assert Layout(client).read(server).tolist() == [1.0, 2.0, 5.0]


def test_metrics_are_medians_that_one_client_cannot_move():
    answers = [
        reply(1, [0.0, 0.0], loss=1.0, accuracy=0.5),
        reply(2, [0.0, 0.0], loss=2.0, accuracy=0.7),
        reply(3, [0.0, 0.0], loss=1e30, accuracy=np.nan, invented=1.0),
    ]

    _, metrics = metrics_of(answers)

    assert metrics["loss"] == 2.0
    assert metrics["accuracy"] == pytest.approx(0.6)
    assert "invented" not in metrics
    assert "num-examples" not in metrics


def test_no_client_can_stop_the_evaluation():
    contents = [{"eval-metrics": MetricRecord({"loss": loss})} for loss in (1.0, 2.0, 1e30)]
    odd = [{"other": MetricRecord({"invented": [1.0, 2.0]})}, {}]
    answers = [reply(node, RecordDict(content)) for node, content in enumerate([*contents, *odd], 1)]

    metrics = as_flower_strategy("median").aggregate_evaluate(1, [*answers, failure(9)])

    assert dict(metrics) == {"loss": 2.0}
    assert as_flower_strategy("median").aggregate_evaluate(1, []) is None


def test_a_metrics_function_of_the_users_own_is_kept():
    _, metrics = metrics_of(
        [reply(1, [0.0, 0.0])], train_metrics_aggr_fn=lambda contents, key: MetricRecord({key: len(contents)})
    )

    assert metrics["num-examples"] == 1


def test_a_huge_liar_does_not_blur_the_others():
    rows = 1 + 1e-5 * stack(7, d=50)
    rows[0] = 3e38  # the lowest id; from so far away all others would look alike

    chosen = result(as_flower_strategy("krum", budget=1), rows, base=torch.ones(50))

    assert torch.equal(
        chosen, result(as_flower_strategy("krum", budget=1), torch.cat([rows[1:], rows[:1]]), base=torch.ones(50))
    )
    assert torch.equal(chosen, rows[1 + int(_krum_by_hand(rows[1:].double(), 7 - 1 - 2))])


def _krum_by_hand(rows, neighbours):
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()
    return distances.sort(dim=1).values[:, 1 : neighbours + 1].sum(dim=1).argmin()


# The budget


def test_a_malformed_reply_uses_up_budget_so_that_it_cannot_stop_the_run():
    answers = [*replies([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0]]), reply(9, [np.nan, 0.0])]

    arrays, metrics = play(as_flower_strategy("krum", budget=1), [0.0, 0.0], answers)  # 5 = 2f + 3; 4 would be too few

    assert vector_of(arrays).tolist() in ([2.0, 0.0], [3.0, 0.0])
    assert metrics["flower-dfl-skipped"] == 0


def test_where_honest_replies_are_lost_the_round_is_skipped():
    answers = [*replies([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0]]), failure(9)]

    arrays, metrics = play(as_flower_strategy("krum", budget=1), [0.0, 0.0], answers)

    assert arrays is None
    assert metrics["flower-dfl-skipped"] == 1


def test_a_budget_that_can_never_hold_is_an_error():
    with pytest.raises(ByzantineBudgetError, match=r"n >= 2f \+ 3, got n=4, f=1"):
        play(as_flower_strategy(Krum(), budget=1), [0.0], replies([[1.0], [2.0], [3.0], [4.0]]))


# Settings


def test_called_without_configuration_it_takes_the_layout_of_most_replies():
    answers = [reply(1, [1.0, 1.0, 1.0]), reply(2, [1.0, 2.0]), reply(3, [3.0, 4.0])]

    arrays, metrics = as_flower_strategy("average").aggregate_train(1, answers)

    assert vector_of(arrays).tolist() == [2.0, 3.0]
    assert metrics["flower-dfl-rejected"] == 1
    with pytest.raises(ConfigurationError, match="call start or configure_train first"):
        as_flower_strategy("balance").aggregate_train(1, answers)


def test_it_is_a_flower_strategy_with_its_options():
    strategy = as_flower_strategy("median", fraction_train=0.5, min_available_nodes=4)

    assert isinstance(strategy, Strategy)
    assert strategy.fraction_train == 0.5
    assert strategy.min_available_nodes == 4


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rule": "crum"}, UnknownComponentError, "Did you mean 'krum'"),
        ({"rule": "krum", "budget": -1}, ConfigurationError, "budget must not be negative, got -1"),
        ({"rule": "krum", "anchor": "median"}, ConfigurationError, "anchor must be 'auto', 'none' or 'global'"),
        ({"rule": "krum", "anchor": "none", "train_root": record}, ConfigurationError, "'auto' with train_root"),
        ({"rule": Krum(), "params": {"m": 1}}, ConfigurationError, "an object has its own"),
        ({"rule": "ubar"}, ConfigurationError, "Ubar needs LEARNER, OWN_DATA"),
        ({"rule": "oracle"}, ConfigurationError, "Oracle needs HONEST_NODES"),
        ({"rule": "dfl-trust"}, ConfigurationError, "give train_root"),
        (
            {"rule": "bucketing", "params": {"rule": "dfl-trust"}},
            ConfigurationError,
            "DflTrust compares with an update",
        ),
        (
            {"rule": Bucketing(NearestNeighbourMixing(ClipFirst(Average())))},
            ConfigurationError,
            "ClipFirst compares with",
        ),
    ],
)
def test_impossible_settings_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        as_flower_strategy(arguments.pop("rule"), **arguments)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.complex64])
def test_a_model_that_is_not_float32_is_the_servers_own_fault(dtype):
    model = ArrayRecord({"weight": Array(np.zeros(2, dtype=dtype))})

    with pytest.raises(ConfigurationError, match="arrays must be float32, integer or boolean"):
        play(as_flower_strategy("average"), model, [reply(1, model)])


def test_a_model_without_float_arrays_is_refused():
    model = ArrayRecord({"steps": Array(np.zeros(2, dtype=np.int64))})

    with pytest.raises(ConfigurationError, match="must have float32 arrays"):
        play(as_flower_strategy("average"), model, [reply(1, model)])


REFUSED = {"bristle", "dfl-dual", "loss-weighted", "oracle", "trust-anchored", "ubar"}
"""Rules that need data, a local model, or to be told who is honest."""

WRAPPERS = {"bucketing", "clip-first", "nnm"}


@pytest.mark.parametrize("name", sorted(set(registry.names("strategy")) - REFUSED))
def test_every_other_registered_rule_aggregates_replies(name):
    rows = 1 + 0.1 * stack(9, d=12)
    rows[8] = -50.0
    params = {"rule": "median"} if name in WRAPPERS else {}

    def train_root(arrays, server_round):
        return record(rows[0])

    root = train_root if name in {"clip-first", "dfl-detector", "dfl-trust"} else None
    strategy = as_flower_strategy(name, params=params, budget=1, train_root=root)
    arrays, metrics = play(strategy, torch.ones(12), [*replies(rows), reply(20, [np.nan] * 12)])

    assert metrics["flower-dfl-rejected"] == 1
    assert bool(vector_of(arrays).isfinite().all())
    assert 0 <= metrics["flower-dfl-kept"] <= 9


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_rules_that_need_what_a_server_does_not_have_are_refused(name):
    with pytest.raises(ConfigurationError, match="which a server does not have"):
        as_flower_strategy(name)
