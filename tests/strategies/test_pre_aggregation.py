"""Mixing, clipping and bucketing before any other rule."""

import math
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl import codec, registry
from flower_dfl.errors import ByzantineBudgetError, ConfigurationError, UnknownComponentError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.average import Average
from flower_dfl.strategies.bucketing import Bucketing
from flower_dfl.strategies.clip_first import ClipFirst
from flower_dfl.strategies.dfl_detector import DflDetector
from flower_dfl.strategies.dfl_dual import DflDual
from flower_dfl.strategies.gts import Gts
from flower_dfl.strategies.local_only import LocalOnly
from flower_dfl.strategies.nna import NearestNeighbourAveraging
from flower_dfl.strategies.nnm import NearestNeighbourMixing
from flower_dfl.strategies.self_centered_clipping import SelfCenteredClipping
from flower_dfl.testing import aggregate
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext, Update


class Recorder(PeerStrategy[None]):
    """Averages, and remembers what it was shown."""

    def __init__(self):
        self.seen = []

    def aggregate(self, inbox, state, ctx):
        self.seen.append((inbox, ctx))
        weights = {update.sender: 1 / len(inbox.members) for update in inbox.members}
        scores = {"position": {update.sender: float(update.vector[0]) for update in inbox.members}}
        vector = torch.stack([update.vector for update in inbox.members]).mean(dim=0)
        return Aggregate(vector, state, weights, scores, ("seen",))


class RecorderOfBases(Recorder):
    """Likewise, with the senders' bases."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.SENDER_BASE})


def column(*values):
    return torch.tensor(values)[:, None]


def test_mixing_replaces_every_model_by_the_mean_of_the_nearest():
    rule = Recorder()

    result = aggregate(NearestNeighbourMixing(rule), torch.tensor([0.0]), column(1.0, 4.0, 10.0), f=1)

    # n - f = 3 nearest of 0, 1, 4, 10: {0,1,4}, {1,0,4}, {4,1,0}, {10,4,1}.
    ((inbox, ctx),) = rule.seen
    assert [float(u.vector) for u in inbox.members] == pytest.approx([5 / 3, 5 / 3, 5 / 3, 5])
    assert [u.sender for u in inbox.members] == [0, 1, 2, 3]
    assert ctx.budget == 1
    assert float(result.vector) == pytest.approx(2.5)
    # Everybody counts a quarter: 0 and 1 and 4 are in three or four of the means, 10 in its own only.
    assert result.weights == pytest.approx({0: 1 / 4, 1: 1 / 3, 2: 1 / 3, 3: 1 / 12})
    assert float(result.vector) == pytest.approx(1 / 3 + 4 / 3 + 10 / 12)


def test_mixing_keeps_every_model_in_its_own_mean_even_among_equal_ones():
    result = aggregate(NearestNeighbourMixing(Average()), torch.ones(1), column(1.0, 1.0, 1.0), f=1)

    # {0,1,2}, {1,0,2}, {2,0,1}, {3,0,1}, of which everybody counts a twelfth each time.
    assert result.weights == pytest.approx({0: 4 / 12, 1: 4 / 12, 2: 3 / 12, 3: 1 / 12})


def test_without_a_budget_mixing_gives_everybody_the_plain_mean():
    own, received = torch.randn(4), torch.randn(5, 4)

    result = aggregate(NearestNeighbourMixing(LocalOnly()), own, received)

    torch.testing.assert_close(result.vector, torch.cat([own[None], received]).mean(dim=0))


def test_mixing_needs_an_honest_majority():
    with pytest.raises(ByzantineBudgetError, match="NNM needs n > 2f, got n=4, f=2"):
        aggregate(NearestNeighbourMixing(Average()), torch.zeros(1), torch.ones(3, 1), f=2)


def test_clipping_before_averaging_is_self_centred_clipping():
    own, received, weights = torch.randn(6), 3 * torch.randn(4, 6), [0.1, 0.2, 0.3, 0.1]

    first = aggregate(ClipFirst(Average("metropolis"), tau=1.5), own, received, weights=weights)
    second = aggregate(SelfCenteredClipping(tau=1.5), own, received, weights=weights)

    torch.testing.assert_close(first.vector, second.vector)
    assert first.weights == pytest.approx(second.weights)


def test_the_radius_of_the_own_update_bounds_what_the_rule_is_shown():
    rule, own, base = Recorder(), torch.tensor([3.0, 4.0]), torch.tensor([3.0, 2.0])  # an update of length 2

    aggregate(ClipFirst(rule), own, own + torch.tensor([[0.0, 1.0], [-50.0, 0.0]]), base=base)

    ((inbox, _),) = rule.seen
    assert [update.vector.tolist() for update in inbox.received] == [[3.0, 5.0], [1.0, 4.0]]
    assert torch.equal(inbox.own.vector, own)


@given(seed=st.integers(0, 2**20), scale=st.floats(0.1, 1e6), tau=st.floats(0.01, 5))
def test_whatever_averages_after_clipping_stays_within_the_radius(seed, scale, tau):
    generator = torch.Generator().manual_seed(seed)
    own, received = torch.randn(3, generator=generator), scale * torch.randn(5, 3, generator=generator)

    moved = aggregate(ClipFirst(Average(), tau=tau), own, received).vector - own

    assert float(moved.norm()) <= tau * (1 + 1e-5) + 1e-5


def test_an_unlimited_radius_is_the_rule_itself_and_a_vanishing_one_the_own_model():
    own, received = torch.randn(3), torch.randn(4, 3)
    rule = NearestNeighbourAveraging()

    unlimited = aggregate(ClipFirst(rule, tau=math.inf), own, received, f=1)
    vanishing = aggregate(ClipFirst(Average(), tau=1e-9), own, received)

    assert torch.equal(unlimited.vector, aggregate(rule, own, received, f=1).vector)
    assert unlimited.weights == pytest.approx(aggregate(rule, own, received, f=1).weights)
    torch.testing.assert_close(vanishing.vector, own)


def test_a_bucket_is_the_mean_of_its_members_and_shares_its_weight_among_them():
    rule, values = Recorder(), [1.0, 2.0, 4.0, 8.0, 16.0]

    result = aggregate(Bucketing(rule, size=2), torch.tensor([0.0]), column(*values), weights=[0.1] * 5, f=2)

    ((inbox, ctx),) = rule.seen
    assert [update.sender for update in inbox.received] == sorted(update.sender for update in inbox.received)
    assert len(inbox.received) == 3
    assert sorted(inbox.mixing_weights.tolist()) == pytest.approx([0.1, 0.2, 0.2])
    assert float(inbox.own.vector) == 0
    assert ctx.budget == 2
    assert sorted(result.weights.values()) == pytest.approx([1 / 8] * 4 + [1 / 4] * 2)
    assert result.weights[0] == 1 / 4
    assert float(result.vector) == pytest.approx(sum(result.weights[j] * v for j, v in enumerate(values, 1)))
    assert set(result.scores["position"]) == set(range(6))
    assert len(set(result.scores["position"].values())) == 4
    assert result.flags == ("seen",)


def test_buckets_change_from_round_to_round():
    rule, received = Recorder(), torch.randn(8, 1)

    for turn in range(1, 5):
        aggregate(Bucketing(rule), torch.zeros(1), received, round=turn)

    assert len({tuple(float(u.vector) for u in inbox.received) for inbox, _ in rule.seen}) > 1


@pytest.mark.parametrize("rule", [Gts(), NearestNeighbourAveraging(), Average("metropolis")])
def test_buckets_of_one_are_the_rule_itself(rule):
    own, received, weights = torch.randn(3), torch.randn(5, 3), [0.1, 0.2, 0.1, 0.05, 0.3]

    first = aggregate(Bucketing(rule, size=1), own, received, weights=weights, f=2)
    second = aggregate(rule, own, received, weights=weights, f=2)

    assert torch.equal(first.vector, second.vector)
    assert first.weights == second.weights
    assert first.scores == second.scores


def test_too_few_buckets_are_the_inner_rules_error():
    with pytest.raises(ByzantineBudgetError, match="NNA needs n > 2f, got n=3, f=2"):
        aggregate(Bucketing(NearestNeighbourAveraging()), torch.zeros(1), torch.ones(4, 1), f=2)


WRAPPERS = [NearestNeighbourMixing, ClipFirst, Bucketing]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_inner_rules_needs_and_state_pass_through(wrapper):
    rule = wrapper(DflDetector(window=2))
    own, received, state = torch.randn(4), torch.randn(5, 4), None

    for turn in range(1, 5):
        state = aggregate(rule, own, received, round=turn, state=state).state
    stored = codec.unpack(codec.pack(state))
    first = aggregate(rule, own, received, round=5, state=state)
    second = aggregate(rule, own, received, round=5, state=stored)

    assert wrapper(DflDual()).needs == DflDual().needs
    assert len(state["points"]) == 3
    assert torch.equal(first.vector, second.vector)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_rule_with_digests_computes_them_for_what_it_is_shown(wrapper):
    rule = wrapper(DflDual(iterations=2, per_class=2))
    own = torch.randn(12)

    result = aggregate(rule, own, own + 0.01 * torch.randn(4, 12), base=own - 0.1)

    assert rule.digest(None, None) is None
    assert bool(result.vector.isfinite().all())


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_no_digest_of_a_message_is_passed_on_with_another_vector(wrapper):
    rule = Recorder()
    updates = [Update(j, 1, torch.tensor([float(j)]), digest=torch.tensor([float(j)])) for j in range(5)]
    inbox = Inbox(updates[0], tuple(updates[1:]), torch.full((4,), 0.2, dtype=torch.float64))

    wrapper(rule).aggregate(inbox, None, RoundContext(0, 1, 10, torch.tensor([-1.5]), 1, 0.1, 2.0, 0))

    ((seen, _),) = rule.seen
    assert any(update.digest is None for update in seen.received)
    assert all(update.digest is None or torch.equal(update.digest, update.vector) for update in seen.members)


@pytest.mark.parametrize("name", ["nnm", "clip-first", "bucketing"])
@pytest.mark.parametrize("inner", ["gts", {"name": "gts"}, {"name": "gts", "params": {}}])
def test_an_inner_rule_is_given_by_name_or_table(name, inner):
    rule = registry.build("strategy", name, {"rule": inner})

    assert rule.rule == Gts()


def test_tables_nest_and_carry_parameters():
    table = {"name": "clip-first", "params": {"tau": 2, "rule": {"name": "balance", "params": {"gamma": 0.5}}}}

    rule = registry.build("strategy", "nnm", {"rule": table})

    assert rule.rule.tau == 2.0
    assert rule.rule.rule.gamma == 0.5


@pytest.mark.parametrize(
    ("inner", "error", "message"),
    [
        ("gst", UnknownComponentError, r"unknown strategy 'gst'\. Did you mean 'gts'\?"),
        ({"name": "balance", "params": {"gama": 1}}, ConfigurationError, r"Did you mean 'gamma'\?"),
        ({"name": "balance", "params": {"gamma": -1.0}}, ConfigurationError, r"gamma must be positive, got -1\.0"),
        ({"nam": "gts"}, ConfigurationError, r"unknown key of strategy 'nnm': rule 'nam'\. Did you mean 'name'\?"),
        (
            {"params": {}},
            ConfigurationError,
            r"must look like \{name = \"krum\", params = \{\}\}, got \{'params': \{\}\}",
        ),
        ({"name": "gts", "params": 3}, ConfigurationError, "must look like"),
        (3, ConfigurationError, r"strategy 'nnm': rule must be PeerStrategy, got 3 \(int\)"),
    ],
)
def test_a_wrong_inner_rule_is_refused_with_its_cause(inner, error, message):
    with pytest.raises(error, match=message):
        registry.build("strategy", "nnm", {"rule": inner})


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_something_that_is_no_rule_is_refused(wrapper):
    with pytest.raises(ConfigurationError, match="rule must be a strategy, got 'gts'"):
        wrapper("gts")


def test_parameters_out_of_range_are_refused():
    with pytest.raises(ConfigurationError, match="tau must be positive, got 0"):
        ClipFirst(Average(), tau=0.0)
    with pytest.raises(ConfigurationError, match="size must be at least 1, got 0"):
        Bucketing(Average(), size=0)


# Own at 0 from base 0, neighbours at 2 from 1 and at 8 from 4: updates 0, 1, 4.
@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # n - f = 2 nearest of 0, 2, 8: {0,2}, {2,0}, {8,2}
        (NearestNeighbourMixing, [(1.0, 0.5), (1.0, 0.5), (5.0, 2.5)]),
        # radius 4: 8 is halved on the way to 0
        (lambda inner: ClipFirst(inner, tau=4.0), [(0.0, 0.0), (2.0, 1.0), (4.0, 2.0)]),
        (lambda inner: Bucketing(inner, size=2), [(0.0, 0.0), (5.0, 2.5)]),
    ],
)
def test_a_mixed_model_goes_with_the_base_mixed_alike(rule, expected):
    inner = RecorderOfBases()

    aggregate(rule(inner), torch.zeros(1), column(2.0, 8.0), bases=column(1.0, 4.0), f=1)

    ((inbox, _),) = inner.seen
    assert [(float(u.vector), float(u.base)) for u in inbox.members] == expected
