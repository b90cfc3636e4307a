import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.errors import ConfigurationError
from flower_dfl.strategies import dfl_dual
from flower_dfl.strategies.dfl_dual import DflDual, dual_decision, select_trusted
from flower_dfl.strategies.inversion import Inversion
from flower_dfl.testing import aggregate, linear_learner
from flower_dfl.training import one_thread
from flower_dfl.types import DigestContext, Inbox, Need, RoundContext, Update

INF, NAN = float("inf"), float("nan")

# Specification F.2: the node 0, two friends 1 and 2, three colluders 3, 4 and 5; D is their distance in the plane.
POINTS = torch.tensor([[0, 0], [0.3, 0.1], [0.1, 0.4], [4, 4], [4.1, 4], [4, 4.2]], dtype=torch.float64)
DISTANCE = torch.cdist(POINTS, POINTS)
TRUST = torch.tensor([1, 0.96, 0.95, 0.55, 0.56, 0.54])


@pytest.fixture(autouse=True)
def alone():
    with one_thread():
        yield


def members_of(row):
    return set(row.nonzero().flatten().tolist())


def square(*pairs):
    """A symmetric 3x3 matrix from its entries 01, 02, 12."""
    first, second, third = pairs
    return torch.tensor([[0, first, second], [first, 0, third], [second, third, 0]], dtype=torch.float64)


@pytest.fixture
def spied(monkeypatch):
    """Every call of the inversion; the dummy set stays at its start."""
    calls = []

    def spy(learner, base, target, start, labels, **options):
        calls.append({"base": base, "target": target, "start": start, "labels": labels} | options)
        return Inversion(start, 0.0)

    monkeypatch.setattr(dfl_dual, "invert", spy)
    return calls


def shared_context(round=1, **changes):
    return replace(DigestContext(round, 10, lr=0.1, num_steps=4.0, seed=3, learner=linear_learner(12)), **changes)


def message(sender=1, value=2.0, **changes):
    fields = {"base": torch.full((12,), 1.0), "num_examples": 20, "epochs": 1, "batch_size": 10} | changes
    return Update(sender, 1, torch.full((12,), value), **fields)


def neighbourhood(num_byzantine=4, boost=10.0):
    """Three honest neighbours and colluders that push a backdoor, boosted; own (d,), received (m, d), base (d,)."""
    draw = torch.Generator().manual_seed(4)
    base, descent, backdoor = torch.randn(3, 12, generator=draw)
    honest = base + 0.1 * descent + 0.02 * torch.randn(4, 12, generator=draw)
    colluders = base + boost * (0.1 * backdoor + 0.01 * torch.randn(num_byzantine, 12, generator=draw))
    return honest[0], torch.cat([honest[1:], colluders]), base


@pytest.mark.parametrize("c2", [10.0, 3.0])
def test_the_worked_example_of_the_specification(c2):
    decision = select_trusted(DISTANCE, TRUST, 0, c2=c2, q="sum", include_own=False)

    assert [members_of(row) for row in decision.groups] == [{1, 2}, {0, 2}, {0, 1}, {0, 1, 2}, {0, 1, 2}, {0, 1, 2}]
    assert decision.q.tolist() == pytest.approx([0.728, 0.677, 0.773, 16.341, 16.554, 16.768], abs=1e-3)
    assert decision.divergence.tolist() == pytest.approx([1, 0.93, 1.06, c2, c2, c2], abs=5e-3)
    assert decision.clusters.tolist() == [0, 0, 0, 1, 1, 1]
    assert decision.selected.tolist() == [True, True, True, False, False, False]
    assert decision.flags == ()


def test_the_worked_example_with_the_mean_in_equation_13():
    # the sums above over 2, 2, 2, 3, 3 and 3 members
    decision = select_trusted(DISTANCE, TRUST, 0, c2=10.0, q="mean")

    assert decision.q.tolist() == pytest.approx([0.3640, 0.3385, 0.3865, 5.447, 5.518, 5.589], abs=1e-3)
    assert members_of(decision.selected) == {0, 1, 2}


def test_without_trust_bootstrapping_colluders_vouch_for_one_another():
    # w/o TB the near cluster of 3 is {4, 5}: q_3 = 0.1 + 0.2; q_4 = 0.1 + sqrt(0.05), q_5 = 0.2 + sqrt(0.05); over
    # q_0 = 0.728 these are 0.41, 0.44 and 0.58: the colluders fit their surroundings best, and win
    decision = select_trusted(DISTANCE, TRUST, 0, c2=10.0, q="sum", trust_bootstrapping=False, include_own=False)

    assert decision.q[3:].tolist() == pytest.approx([0.3, 0.1 + math.sqrt(0.05), 0.2 + math.sqrt(0.05)], abs=1e-6)
    assert members_of(decision.selected) == {3, 4, 5}
    assert decision.flags == ("own-not-selected",)


def test_the_own_model_is_added_where_it_was_not_selected_and_the_flag_says_so():
    decision = select_trusted(DISTANCE, TRUST, 0, c2=10.0, q="sum", trust_bootstrapping=False, include_own=True)

    assert members_of(decision.selected) == {0, 3, 4, 5}
    assert decision.flags == ("own-not-selected",)


def test_clusters_of_equal_trust_are_decided_for_the_nearer_one():
    decision = select_trusted(DISTANCE, torch.full((6,), 0.5), 0, q="sum", include_own=False)

    assert [members_of(row) for row in decision.groups[3:]] == [{4, 5}, {3, 5}, {3, 4}]
    assert members_of(decision.selected) == {3, 4, 5}


def test_a_node_that_trusts_nobody_is_alone():
    # D01 = 1, D02 = 3, D12 = 1, sums. 0: near {1}, far {2}, trust takes {1}: q = 1. 1: no split: q = 2.
    # 2: near {1}, far {0} with trust 1: q = 3. Ratios 1, 2, 3 are cut at c2 = 2: {0} and {1, 2}.
    decision = select_trusted(square(1, 3, 1), torch.tensor([1, 0.9, 0.1]), 0, c2=2.0, q="sum")

    assert decision.q.tolist() == [1, 2, 3]
    assert decision.divergence.tolist() == [1, 2, 2]
    assert members_of(decision.selected) == {0}
    assert decision.flags == ("alone",)


def test_beside_perfect_agreement_anything_else_is_as_far_as_can_be():
    # 0 and 1 are identical, so q_0 = q_1 = 0; q_2 = 5 (mean of 5 and 5)
    decision = select_trusted(square(0, 5, 5), torch.tensor([1, 1, 0.5]), 0, c2=1.5)

    assert decision.divergence.tolist() == [1, 1, 1.5]
    assert members_of(decision.selected) == {0, 1}


@given(st.permutations(range(6)))
def test_the_order_of_members_does_not_matter(order):
    own = order.index(0)

    decision = select_trusted(DISTANCE[order][:, order], TRUST[order], own, q="sum", c2=3.0)

    assert {order[k] for k in members_of(decision.selected)} == {0, 1, 2}
    assert decision.q.tolist() == pytest.approx(
        [[0.728, 0.677, 0.773, 16.341, 16.554, 16.768][k] for k in order], abs=1e-3
    )


@given(st.floats(1e-6, 1e6))
def test_the_unit_of_the_distance_does_not_matter(scale):
    decision = select_trusted(DISTANCE * scale, TRUST, 0)

    assert members_of(decision.selected) == {0, 1, 2}


def test_distance_is_balanced_combined_and_clipped_worked_by_hand():
    # E: 3, 4, 5 with median 4; W: 1, 2, 6 with median 2; alpha = 2/4. W + E/2 = 2.5, 4, 8.5; C1 = 1.5 * 4 = 6
    models = torch.tensor([[1.0, 0], [4, 0], [1, 4]])

    decision = dual_decision(models, square(1, 2, 6), 0)

    assert torch.allclose(decision.euclidean, square(3, 4, 5))
    assert torch.allclose(decision.distance, square(2.5, 4, 6))
    assert decision.trust.tolist() == pytest.approx([1, 1, 1 / math.sqrt(17)])
    assert decision.flags == ()


@pytest.mark.parametrize(
    ("options", "distance"),
    [
        ({"alpha": 2.0, "c1": INF}, (7, 10, 16)),
        ({"alpha": 0.0, "c1": INF}, (1, 2, 6)),
        ({"alpha": 2.0, "c1": 9.0}, (7, 9, 9)),
        ({"alpha": 2.0, "c1": "1 median"}, (7, 10, 10)),
        ({"alpha": 2.0, "c1": "1.2 nearest"}, (7, 8.4, 8.4)),
        ({"alpha": "auto", "c1": "100 median"}, (2.5, 4, 8.5)),
        ({"euclidean": False, "c1": INF}, (1, 2, 6)),
        ({"euclidean": False, "c1": "1.5 median"}, (1, 2, 3)),
    ],
)
def test_weights_bounds_and_the_ablation_without_the_model_domain(options, distance):
    models = torch.tensor([[1.0, 0], [4, 0], [1, 4]])

    decision = dual_decision(models, square(1, 2, 6), 0, **options)

    assert torch.allclose(decision.distance, square(*distance))


@pytest.mark.parametrize(
    ("options", "distance"),
    [({"c1": INF}, (3, 4, 5)), ({"alpha": 2.0, "c1": INF}, (6, 8, 10)), ({"c1": "1 median"}, (3, 4, 4))],
)
def test_the_ablation_without_the_data_domain(options, distance):
    decision = dual_decision(torch.tensor([[1.0, 0], [4, 0], [1, 4]]), None, 0, **options)

    assert torch.allclose(decision.distance, square(*distance))


@pytest.mark.parametrize(
    ("spread", "c1", "kept"),
    [(0, "1.5 median", 2), (0.01, "10 nearest", 2), (0.01, INF, 2), (0.01, "1.5 median", 10)],
)
def test_colluders_that_are_most_pairs_move_the_median_and_not_the_nearest(spread, c1, kept):
    # 8 of 10, so 28 of 45 pairs: where they differ a little, C1 is that little, and all others are clipped to the same;
    # where they do not differ at all, there is no bound
    draw = torch.Generator().manual_seed(0)
    own = torch.randn(200, generator=draw)
    honest = own + 0.3 * torch.randn(200, generator=draw)
    colluders = -own + spread * torch.randn(8, 200, generator=draw)

    decision = dual_decision(torch.cat([own[None], honest[None], colluders]), None, 0, c1=c1)

    assert members_of(decision.selected) == set(range(kept))


def test_two_copies_of_the_own_model_stop_nobody():
    own = torch.tensor([1.0, 2, 3])

    weights = aggregate(DflDual(variant="without-wd", c2=1e6), own, torch.stack([own, own, own + 1, own + 2])).weights

    assert [weight > 0 for weight in weights.values()] == [True, True, True, False, False]


def test_without_both_domains_there_is_nothing_to_decide_by():
    with pytest.raises(ConfigurationError, match=r"^at least one of the two domains must be used, got neither$"):
        dual_decision(torch.ones(3, 2), None, 0, euclidean=False)


def test_trust_compares_models_or_updates():
    # models (1, 1), (2, 2), (1, 0); relative to (1, 0) the updates are (0, 1), (1, 2), (0, 0)
    models = torch.tensor([[1.0, 1], [2, 2], [1, 0]])

    by_model = dual_decision(models, None, 0)
    by_update = dual_decision(models, None, 0, base=torch.tensor([1.0, 0]))

    assert by_model.trust.tolist() == pytest.approx([1, 1, 1 / math.sqrt(2)])
    assert by_update.trust[:2].tolist() == pytest.approx([1, 2 / math.sqrt(5)])
    assert by_update.trust[2] <= 0


def test_a_node_alone_keeps_itself():
    decision = dual_decision(torch.ones(1, 3), None, 0)

    assert decision.selected.tolist() == [True]
    assert decision.flags == ()


def test_a_single_neighbour_is_always_accepted_and_the_flag_says_so():
    decision = dual_decision(torch.tensor([[1.0, 0], [-900.0, 5]]), None, 0, include_own=False)

    assert decision.selected.tolist() == [True, True]
    assert decision.divergence.tolist() == [1, 1]
    assert decision.flags == ("one-neighbour",)


@pytest.mark.parametrize("wasserstein", [None, torch.zeros(5, 5)])
def test_where_all_agree_all_are_kept_without_a_flag(wasserstein):
    decision = dual_decision(torch.ones(5, 3), wasserstein, 2)

    assert decision.selected.all()
    assert decision.flags == ()


def test_where_every_distance_is_clipped_all_are_accepted_and_the_flags_say_so():
    models = torch.cat([torch.eye(3), 100 * torch.eye(3)])

    decision = dual_decision(models, None, 0, c1=0.5)

    assert decision.selected.all()
    assert decision.flags == ("all-distances-clipped", "no-split")


def test_one_absurdly_far_model_changes_nothing_for_the_others():
    models = torch.tensor([[1.0, 0], [1.1, 0], [1.0, 0.1], [8, 8], [8.1, 8], [1e30, 1e30]])

    decision = dual_decision(models, None, 0)

    assert not decision.selected[3:].any()
    assert torch.isfinite(decision.distance).all()


@pytest.mark.parametrize(
    ("preset", "values"),
    [
        ("calibrated", ("descent", 1.05, "nominal", 10, 0.3, "1.5 median", 1.5, "mean", True)),
        ("literal", ("literal", 1.1, "claimed", 40, 0.1, INF, 10.0, "sum", False)),
    ],
)
def test_a_preset_sets_what_is_not_given(preset, values):
    rule = DflDual(preset=preset)

    names = ("target", "s", "steps", "iterations", "inversion_lr", "c1", "c2", "q", "include_own")
    assert tuple(getattr(rule, name) for name in names) == values
    assert (rule.base, rule.optimizer, rule.per_class, rule.alpha) == ("sender", "adam", 10, "auto")
    assert (rule.trust_space, rule.variant) == ("model", "full")


def test_every_option_overrides_its_preset():
    given = {
        "target": "descent", "s": 1.2, "steps": "nominal", "iterations": 7, "inversion_lr": 0.2, "c1": 5.0, "c2": 2.0,
        "q": "mean", "include_own": True,
    }  # fmt: skip

    rule = DflDual(preset="literal", **given)

    assert {name: getattr(rule, name) for name in given} == given


def test_an_option_set_to_false_is_not_taken_for_missing():
    assert DflDual(include_own=False).include_own is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "best"}, r"^preset must be one of calibrated, literal, got 'best'$"),
        ({"s": 0.0}, r"^s must be positive and finite, got 0\.0$"),
        ({"s": INF}, r"^s must be positive and finite, got inf$"),
        ({"s": NAN}, r"^s must be positive and finite, got nan$"),
        ({"iterations": 0}, r"^iterations must be positive and finite, got 0$"),
        ({"inversion_lr": -0.1}, r"^inversion_lr must be positive and finite, got -0\.1$"),
        ({"per_class": 0}, r"^per_class must be positive and finite, got 0$"),
        ({"c1": 0.0}, r"^c1 must be positive, got 0\.0$"),
        ({"c1": NAN}, r"^c1 must be positive, got nan$"),
        ({"c1": "0 median"}, r"^c1 must be positive, got 0 median$"),
        ({"c1": "much"}, r"""^c1 must be a positive number, "x median" or "x nearest", got 'much'$"""),
        ({"c1": "-1 median"}, r"""^c1 must be a positive number, "x median" or "x nearest", got '-1 median'$"""),
        ({"c1": "0 nearest"}, r"^c1 must be positive, got 0 nearest$"),
        ({"c2": INF}, r"^c2 must be above 1 and finite, otherwise everybody is accepted, got inf$"),
        ({"c2": 1.0}, r"^c2 must be above 1 and finite, otherwise everybody is accepted, got 1\.0$"),
        ({"c2": NAN}, r"^c2 must be above 1 and finite, .* got nan$"),
        ({"alpha": -1.0}, r"""^alpha must be "auto" or a non-negative number, got -1\.0$"""),
        ({"alpha": INF}, r"non-negative number, got inf$"),
        ({"alpha": NAN}, r"non-negative number, got nan$"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        DflDual(**options)


@pytest.mark.parametrize(
    ("options", "needs"),
    [
        ({}, {Need.LEARNER, Need.SENDER_BASE}),
        ({"base": "receiver"}, {Need.LEARNER}),
        ({"variant": "without-wd"}, set()),
        ({"variant": "without-wd", "base": "receiver"}, set()),
        ({"variant": "without-ed"}, {Need.LEARNER, Need.SENDER_BASE}),
    ],
)
def test_only_what_is_used_is_asked_for(options, needs):
    assert DflDual(**options).needs == needs


def test_the_dummy_set_has_classes_samples_and_features():
    digest = DflDual(per_class=3, iterations=2).digest(message(), shared_context())

    assert digest.shape == (2, 3, 6)  # two classes, three samples, six features of the linear learner


@pytest.mark.parametrize("options", [{"base": "receiver"}, {"variant": "without-wd"}])
def test_there_is_no_digest_where_it_would_depend_on_the_receiver_or_is_not_used(options):
    assert DflDual(**options).digest(message(), shared_context()) is None


def test_a_digest_depends_on_message_and_round_only():
    rule = DflDual(iterations=2)

    digests = [
        rule.digest(message(sender, value), shared_context(moment))
        for sender, value, moment in ((1, 2.0, 1), (5, 2.0, 1), (1, 3.0, 1), (1, 2.0, 2))
    ]

    assert torch.equal(digests[0], digests[1])
    assert not torch.equal(digests[0], digests[2])
    assert not torch.equal(digests[0], digests[3])


def test_all_members_of_a_round_start_from_the_same_noise_and_balanced_labels(spied):
    DflDual(per_class=3).digest(message(1), shared_context())
    DflDual(per_class=3).digest(message(2, 7.0), shared_context())

    assert torch.equal(spied[0]["start"], spied[1]["start"])
    assert spied[0]["labels"].tolist() == [0, 0, 0, 1, 1, 1]


def test_the_options_of_the_inversion_are_passed_on(spied):
    DflDual(optimizer="lbfgs", iterations=7, inversion_lr=0.9).digest(message(), shared_context())

    assert (spied[0]["optimizer"], spied[0]["iterations"], spied[0]["lr"]) == ("lbfgs", 7, 0.9)


@pytest.mark.parametrize(
    ("options", "round", "target"),
    [
        # update 2 - 1 = 1, lr 0.1, K = 4 steps: -1 / (0.1 * 4) = -2.5, times s^t
        ({"s": 1.0}, 1, -2.5),
        ({"s": 1.0}, 9, -2.5),
        ({"s": 2.0}, 3, -20.0),
        ({}, 2, -2.5 * 1.05**2),
        # the printed form: +1 / 4, without the learning rate
        ({"target": "literal", "s": 1.0}, 1, 0.25),
        ({"target": "literal", "s": 1.1}, 2, 0.25 * 1.21),
        # s^t is at most 10, also where s^t itself would overflow
        ({"s": 2.0}, 4, -25.0),
        ({"s": 2.0}, 100_000, -25.0),
        ({"s": 0.5}, 2, -0.625),
        # claimed: 2 epochs of 20 examples in batches of 10 are 4 steps
        ({"s": 1.0, "steps": "claimed"}, 1, -2.5),
    ],
)
def test_the_target_is_worked_by_hand(spied, options, round, target):
    DflDual(**options).digest(message(epochs=2), shared_context(round))

    assert spied[0]["target"].tolist() == pytest.approx([target] * 12, rel=1e-6)
    assert spied[0]["base"].tolist() == [1.0] * 12


@pytest.mark.parametrize(
    ("claims", "steps"),
    [
        ({"num_examples": 20, "epochs": 3, "batch_size": 10}, 6.0),
        ({"num_examples": 2**53, "epochs": 2**53, "batch_size": 1}, 40.0),  # at most ten times nominal
        ({"num_examples": 1, "epochs": 1, "batch_size": 2**53}, 0.4),  # at least a tenth
        ({"num_examples": 10, "epochs": 1, "batch_size": 8}, 1.25),  # a real number
    ],
)
def test_claimed_steps_are_clipped_around_the_nominal_ones(spied, claims, steps):
    DflDual(steps="claimed", s=1.0).digest(message(**claims), shared_context())

    assert spied[0]["target"].tolist() == pytest.approx([-10 / steps] * 12, rel=1e-6)


def test_nominal_steps_ignore_what_the_sender_claims(spied):
    DflDual(s=1.0).digest(message(num_examples=10**6), shared_context())

    assert spied[0]["target"].tolist() == pytest.approx([-2.5] * 12)


def test_the_receivers_base_serves_all_members_where_it_is_asked_for(spied):
    own, received, base = neighbourhood()
    bases = torch.randn(7, 12, generator=torch.Generator().manual_seed(9))

    aggregate(DflDual(base="receiver"), own, received, base=base, bases=bases)

    assert len(spied) == 8
    assert all(torch.equal(call["base"], base) for call in spied)


def test_the_senders_claimed_base_serves_otherwise(spied):
    own, received, base = neighbourhood()
    bases = torch.randn(7, 12, generator=torch.Generator().manual_seed(9))

    aggregate(DflDual(base="sender"), own, received, base=base, bases=bases)

    assert all(torch.equal(call["base"], b) for call, b in zip(spied, [base, *bases], strict=True))


def test_given_digests_are_used_and_change_no_bit(spied):
    rule, context = DflDual(), RoundContext(0, 1, 10, torch.ones(12), 0, 0.1, 4.0, seed=3, learner=linear_learner(12))
    members = [message(j, 2.0 + 0.1 * j) for j in range(4)]
    digested = [replace(u, digest=rule.digest(u, context.for_digest())) for u in members]
    spied.clear()

    with_digests, without = (
        rule.aggregate(Inbox(inbox[0], tuple(inbox[1:]), torch.full((3,), 0.25)), None, context)
        for inbox in (digested, members)
    )

    assert len(spied) == 4  # for those without only
    assert torch.equal(with_digests.vector, without.vector)
    assert with_digests.scores == without.scores


@pytest.mark.parametrize("options", [{}, {"base": "receiver"}, {"variant": "without-wd"}, {"q": "sum", "c2": 3.0}])
def test_a_majority_of_boosted_colluders_is_left_out(options):
    own, received, base = neighbourhood()

    result = aggregate(DflDual(**options), own, received, base=base)

    kept = {sender for sender, weight in result.weights.items() if weight > 0}
    assert 0 in kept
    assert len(kept) > 1
    assert kept <= {0, 1, 2, 3}


def test_the_result_is_the_uniform_mean_of_those_kept():
    own, received, base = neighbourhood()

    result = aggregate(DflDual(), own, received, base=base)

    kept = [row for row, weight in zip([own, *received], result.weights.values(), strict=True) if weight]
    assert torch.allclose(result.vector, torch.stack(kept).mean(dim=0), atol=1e-6)
    assert set(result.weights.values()) == {0.0, 1 / len(kept)}


def test_the_scores_cover_the_neighbourhood():
    own, received, base = neighbourhood()

    full = aggregate(DflDual(), own, received, base=base).scores
    without = aggregate(DflDual(variant="without-wd"), own, received, base=base).scores

    assert set(full) == {"euclidean", "distance", "trust", "divergence", "wasserstein"}
    assert set(without) == {"euclidean", "distance", "trust", "divergence"}
    assert all(set(values) == set(range(8)) for values in full.values())
    assert full["distance"][0] == full["euclidean"][0] == full["wasserstein"][0] == 0
    assert full["trust"][0] == pytest.approx(1)
    assert full["euclidean"][1] == pytest.approx(float((own - received[0]).norm()), rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"base": "receiver"}])
def test_residuals_of_all_members_are_recorded_on_demand_and_decide_nothing(options):
    own, received, base = neighbourhood()

    plain = aggregate(DflDual(**options), own, received, base=base)
    result = aggregate(DflDual(residuals=True, **options), own, received, base=base)

    assert set(result.scores) == set(plain.scores) | {"residual"}
    assert set(result.scores["residual"]) == set(range(8))
    assert torch.equal(result.vector, plain.vector)
    assert result.weights == plain.weights


def test_the_residual_is_that_of_the_dummy_set_at_the_senders_base():
    rule, context = DflDual(residuals=True), RoundContext(0, 1, 10, torch.zeros(12), 0, 0.1, 4.0, 3, linear_learner(12))
    members = [message(j, 2.0 + 0.1 * j, base=torch.full((12,), 1.0 + 0.1 * j)) for j in range(3)]
    digested = [replace(u, digest=rule.digest(u, context.for_digest())) for u in members]

    given, computed = (
        rule.aggregate(Inbox(inbox[0], tuple(inbox[1:]), torch.full((2,), 0.3)), None, context).scores["residual"]
        for inbox in (digested, members)
    )

    assert given == computed
    for update in digested:
        # by hand: every target is -1 / (0.1 * 4) * 1.05
        dummies, labels = update.digest.reshape(20, 6), torch.arange(2).repeat_interleave(10)
        gradient = linear_learner(12).gradient(update.base, dummies, labels)
        error = (gradient + 2.5 * 1.05).square().sum() / (12 * (2.5 * 1.05) ** 2)
        assert given[update.sender] == pytest.approx(float(error), rel=1e-4)


def test_without_the_data_domain_there_is_no_residual():
    own, received, base = neighbourhood()

    assert "residual" not in aggregate(DflDual(variant="without-wd", residuals=True), own, received, base=base).scores


def test_the_variant_without_trust_believes_the_colluders():
    own, received, base = neighbourhood(num_byzantine=6, boost=1.0)
    received[3:] = received[3]  # six copies of one lie

    result = aggregate(DflDual(variant="without-tb", c1=INF), own, received, base=base)

    assert all(result.weights[j] > 0 for j in range(4, 10))


@pytest.mark.parametrize("include_own", [True, False])
def test_protecting_the_own_model_is_an_option(include_own):
    own, received, base = neighbourhood(num_byzantine=6, boost=1.0)
    received[3:] = received[3]

    result = aggregate(DflDual(variant="without-tb", c1=INF, include_own=include_own), own, received, base=base)

    assert "own-not-selected" in result.flags
    assert (result.weights[0] > 0) is include_own


def test_comparing_updates_is_an_option():
    own, received, base = neighbourhood()

    by_model = aggregate(DflDual(), own, received, base=base).scores["trust"]
    by_update = aggregate(DflDual(trust_space="update"), own, received, base=base).scores["trust"]

    cosine = torch.nn.functional.cosine_similarity
    assert by_model[1] == pytest.approx(float(cosine(own, received[0], dim=0)), abs=1e-6)
    assert by_update[1] == pytest.approx(float(cosine(own - base, received[0] - base, dim=0)), abs=1e-5)


def test_the_literal_preset_runs_through():
    own, received, base = neighbourhood()

    result = aggregate(DflDual(preset="literal"), own, received, base=base)

    assert torch.isfinite(result.vector).all()


def test_the_data_domain_needs_a_learner():
    with pytest.raises(ConfigurationError, match=r"^the data domain needs a learner, got ctx\.learner = None$"):
        DflDual().digest(message(), shared_context(learner=None))


def test_the_senders_base_must_come_with_the_message():
    with pytest.raises(ConfigurationError, match=r"^base = 'sender' needs messages that carry"):
        DflDual().digest(message(base=None), shared_context())


def test_absurd_but_finite_messages_give_a_finite_digest():
    digest = DflDual(iterations=3).digest(message(value=3e38, base=torch.full((12,), -3e38)), shared_context())

    assert torch.isfinite(digest).all()


def test_trust_may_ask_for_the_same_length_as_well():
    own, received = (
        torch.tensor([3.0, 4.0]),
        torch.tensor([[30.0, 40.0], [1.5, 2.0], [-6.0, -8.0], [4.0, -3.0], [0.0, 0.0]]),
    )

    trust = aggregate(DflDual(variant="without-wd", trust_length=True), own, received).scores["trust"]

    # cosines 1, 1, -1, 0, 0 and lengths 50, 2.5, 10, 5, 0 against 5
    assert trust == pytest.approx({0: 1.0, 1: 0.1, 2: 0.5, 3: -0.5, 4: 0.0, 5: 0.0})
