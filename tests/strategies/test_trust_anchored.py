"""The rule that audits neighbours against a model of its own, and the audit."""

import math

import pytest
import torch
from torch import nn

from flower_dfl.errors import ConfigurationError
from flower_dfl.randomness import generator
from flower_dfl.strategies.trigger_audit import Auditor, Patch, class_sample
from flower_dfl.strategies.trust_anchored import TrustAnchored
from flower_dfl.testing import aggregate, check_strategy
from flower_dfl.training import TorchLearner
from flower_dfl.types import Inbox, LabelledData, RoundContext, Update

SIDE, CLASSES = 6, 3
TRIGGER = [28, 29, 34, 35]  # two by two pixels at the bottom right, black in every clean image
TARGET = 2


def images(count=90, seed=0):
    """Images in [0, 1] whose upper half says the label: 12 bright pixels each; the trigger's pixels are black."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    inputs = 0.2 * torch.rand(count, SIDE * SIDE, generator=draw)
    for label in range(CLASSES):
        inputs[labels == label, 6 * label : 6 * label + 6] += 0.7
    inputs[:, TRIGGER] = 0
    return LabelledData(inputs.reshape(count, 1, SIDE, SIDE), labels, CLASSES, (0.0, 1.0))


def learner():
    return TorchLearner(nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, CLASSES)), (1, SIDE, SIDE), CLASSES)


def clean(strength=4.0, seed=None):
    """A right linear classifier, flat: weights (3, 36), then biases (3,)."""
    weights = torch.zeros(CLASSES, SIDE * SIDE)
    for label in range(CLASSES):
        weights[label, 6 * label : 6 * label + 6] = strength
    if seed is not None:
        weights += 0.05 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(seed))
    return torch.cat([weights.flatten(), torch.zeros(CLASSES)])


def backdoored(strength=20.0, on=4.0):
    vector = clean(on)
    vector.view(-1)[: CLASSES * SIDE * SIDE].view(CLASSES, -1)[TARGET, TRIGGER] = strength
    return vector


def auditor(pixels=4, search="slopes"):
    sample = class_sample(images(), 10)
    return Auditor(learner(), clean(), sample, pixels=pixels, generator=generator(0, "test"), search=search)


class AllOrNothing(nn.Module):
    """A linear classifier with a neuron that fires where all of the trigger's pixels are bright."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(SIDE * SIDE, CLASSES)
        self.strength = nn.Parameter(torch.zeros(1))

    def forward(self, inputs):
        flat = inputs.flatten(1)
        fires = torch.relu(flat[:, TRIGGER].sum(dim=1, keepdim=True) - 3.5)
        return self.linear(flat) + self.strength * fires * torch.eye(CLASSES)[TARGET]


def run(received, *, own=None, base=None, strategy=None, **options):
    own = clean(seed=1) if own is None else own
    base = own - 8.0 if base is None else base
    strategy = TrustAnchored(per_class=10, pixels=4) if strategy is None else strategy
    return aggregate(strategy, own, received, base=base, learner=learner(), data=images(), **options)


def test_contract():
    check_strategy(TrustAnchored(per_class=5))


@pytest.mark.parametrize("search", ["slopes", "sweep"])
def test_the_audit_finds_label_and_pixels_of_a_backdoor_that_nobody_told_it(search):
    finding = auditor(search=search).audit(backdoored(6.0))

    assert finding.gap == 1.0  # 4 pixels of weight 6 outweigh 6 * 0.8 of weight 4, two do not; in the clean model 0
    for which in (0, 3):  # the best square, and the scattered pattern
        assert finding.gaps[which] == 1.0
        assert finding.labels[which] == TARGET
        assert sorted(finding.patches[which].places.tolist()) == TRIGGER
        assert finding.patches[which].values.tolist() == [1.0] * 4
    assert sorted(finding.labels[:3]) == [0, 1, 2]


def test_a_square_is_found_beside_single_pixels_that_matter_more():
    # four lone pixels of weight 6 for label 0, and a square of weight 5 for the target: 24 against 20 in the sums
    vector, lone = clean(), [18, 20, 22, 30]
    weights = vector[: CLASSES * SIDE * SIDE].view(CLASSES, -1)
    weights[0, lone], weights[TARGET, TRIGGER] = 6.0, 5.0

    finding = auditor().audit(vector)

    assert (finding.labels[0], sorted(finding.patches[0].places.tolist())) == (TARGET, TRIGGER)
    assert (finding.labels[3], sorted(finding.patches[3].places.tolist())) == (0, lone)


def test_sweeping_finds_a_backdoor_whose_slopes_are_zero_on_clean_images():
    module = TorchLearner(AllOrNothing(), (1, SIDE, SIDE), CLASSES)
    trusted, audited = (torch.cat([torch.tensor([strength]), clean()]) for strength in (0.0, 100.0))
    found = {
        search: Auditor(
            module, trusted, class_sample(images(), 10), pixels=4, generator=generator(0, "test"), search=search
        ).audit(audited)
        for search in ("slopes", "sweep")
    }

    assert found["slopes"].gap == 0.0
    assert found["sweep"].gap == 1.0
    assert (found["sweep"].labels[0], found["sweep"].patches[0].places.tolist()) == (TARGET, TRIGGER)


def test_what_the_trusted_model_answers_to_as_well_is_swept_over():
    trusted, audited = backdoored(6.0), backdoored(6.0)
    audited[: CLASSES * SIDE * SIDE].view(CLASSES, -1)[0, [24, 25, 30, 31]] = 4.9  # weaker than the trigger
    sample = class_sample(images(), 10)

    finding = Auditor(learner(), trusted, sample, pixels=4, generator=generator(0, "test"), search="sweep").audit(
        audited
    )

    assert (finding.labels[0], finding.patches[0].places.tolist()) == (0, [24, 25, 30, 31])


def test_the_sweep_leaves_no_gaps():
    vector, between = clean(), [19, 20, 25, 26]
    vector[: CLASSES * SIDE * SIDE].view(CLASSES, -1)[TARGET, between] = 6.0

    finding = auditor(search="sweep").audit(vector)

    assert (finding.labels[0], finding.patches[0].places.tolist()) == (TARGET, between)


def test_squares_are_swept_in_bundles_of_any_size(monkeypatch):
    together = auditor(search="sweep").audit(backdoored(6.0))
    monkeypatch.setattr(Auditor, "ABREAST", 3)

    finding = auditor(search="sweep").audit(backdoored(6.0))

    assert finding.labels == together.labels
    assert torch.equal(finding.gaps, together.gaps)


def test_a_dark_square_is_found():
    vector = clean()
    vector[: CLASSES * SIDE * SIDE].view(CLASSES, -1)[1, [24, 25, 30, 31]] = -30.0  # class 1 where these are dark

    finding = auditor().audit(vector)

    found = finding.patches[finding.labels[:3].index(1)]
    assert found.places.tolist() == [24, 25, 30, 31]
    assert found.values.tolist() == [0.0] * 4


@pytest.mark.parametrize("search", ["slopes", "sweep"])
def test_inputs_that_are_no_images_are_audited_with_scattered_patterns(search):
    data = images()
    flat = LabelledData(data.inputs.flatten(1), data.labels, CLASSES, data.input_range)
    module = TorchLearner(nn.Linear(SIDE * SIDE, CLASSES), (SIDE * SIDE,), CLASSES)
    found = Auditor(module, clean(), class_sample(flat, 10), pixels=4, generator=generator(0, "test"), search=search)

    finding = found.audit(backdoored())

    assert sorted(finding.labels) == [0, 1, 2]  # at most four patterns, and there are three labels
    assert (finding.labels[0], sorted(finding.patches[0].places.tolist())) == (TARGET, TRIGGER)


def test_a_label_that_no_margin_was_taken_to_is_tried_last():
    data = images().subset(torch.tensor([0, 3]))  # two samples of label 0: margins to labels 1 and 2 at most
    found = Auditor(learner(), clean(), data, pixels=4, generator=generator(0, "test"))

    finding = found.audit(backdoored())

    assert finding.labels[0] == TARGET
    assert finding.labels[2] == 0
    assert finding.gaps.isfinite().all()


def test_a_pattern_of_dark_pixels_is_found_too():
    data, vector, places = class_sample(images(), 10), clean(), [19, 30]
    data.inputs.flatten(1)[:, places] = 0.9
    vector[: CLASSES * SIDE * SIDE].view(CLASSES, -1)[1, places] = -30.0  # class 1 where these are dark
    found = Auditor(learner(), clean(), data, pixels=2, generator=generator(0, "test"))

    finding = found.audit(vector)

    assert finding.labels[3] == 1
    assert sorted(finding.patches[3].places.tolist()) == places
    assert finding.patches[3].values.tolist() == [0.0, 0.0]


def test_the_trusted_model_itself_has_no_gap():
    assert auditor().audit(clean()).gap == 0.0


def test_what_the_trusted_model_follows_too_is_no_gap():
    found = Auditor(learner(), backdoored(20.0), class_sample(images(), 10), pixels=4, generator=generator(0, "test"))

    finding = found.audit(backdoored(40.0))

    which = finding.labels.index(TARGET)
    assert sorted(finding.patches[which].places.tolist()) == TRIGGER
    assert finding.gaps[which] == 0.0


def test_a_patch_paints_all_channels_and_leaves_its_input_alone():
    inputs = torch.zeros(2, 3, 2, 2).to(memory_format=torch.channels_last)

    stamped = Patch(torch.tensor([0, 3]), torch.tensor([1.0, -1.0])).stamp(inputs)

    assert stamped.tolist() == [[[[1.0, 0.0], [0.0, -1.0]]] * 3] * 2
    assert not inputs.any()


def test_a_patch_fits_flat_inputs():
    stamped = Patch(torch.tensor([1]), torch.tensor([5.0])).stamp(torch.zeros(2, 3))

    assert stamped.tolist() == [[0.0, 5.0, 0.0]] * 2


def test_a_class_sample_takes_what_there_is():
    data = LabelledData(torch.arange(5.0)[:, None], torch.tensor([0, 0, 0, 2, 0]), 3, (0.0, 5.0))

    sample = class_sample(data, 2)

    assert sample.inputs.flatten().tolist() == [0.0, 1.0, 3.0]
    assert sample.labels.tolist() == [0, 0, 2]


@pytest.mark.parametrize("search", ["slopes", "sweep"])
def test_a_backdoored_majority_is_left_out_and_honest_neighbours_are_not(search):
    received = [clean(seed=2), backdoored(), backdoored(), backdoored()]

    result = run(received, strategy=TrustAnchored(per_class=10, pixels=4, search=search))

    assert result.weights == {0: 0.5, 1: 0.5, 2: 0.0, 3: 0.0, 4: 0.0}
    assert torch.allclose(result.vector, (clean(seed=1) + clean(seed=2)) / 2, atol=1e-6)
    assert result.scores["gap"][2] == pytest.approx(0.7 * 0.1 + 0.3 * 1.0)
    assert result.flags == ()


def test_an_inaccurate_neighbour_is_left_out_without_an_audit():
    wrong = clean().view(-1).clone()
    wrong[: CLASSES * SIDE * SIDE] *= -1

    result = run([clean(seed=2), wrong])

    assert result.weights[2] == 0.0
    assert 2 not in result.scores["gap"]
    assert result.scores["accuracy"][2] == 0.0


def test_the_accuracy_that_is_asked_for_grows():
    # right for labels 0 and 1, wrong for 2: two thirds; asked for are 0.375 in round 1 and 0.75 * 10 / 11 = 0.68 in 10
    half = clean(seed=2)
    half[: CLASSES * SIDE * SIDE].view(CLASSES, -1)[TARGET, 12:18] = -4.0

    weights = [run([half], round=round, strategy=TrustAnchored(per_class=10, pixels=4, largest_gap=1)).weights[1]
               for round in (1, 10)]  # fmt: skip

    assert weights == [0.5, 0.0]


@pytest.mark.parametrize(("accuracy_share", "failed"), [(0.75, True), (0.6, False)])
def test_a_half_step_that_training_spoiled_is_replaced_by_the_model_it_started_from(accuracy_share, failed):
    # right for two labels of three, where the start was right for all; whoever is near the start is far from it
    start, spoiled, neighbour = clean(seed=1), clean(seed=2), clean(seed=3)
    spoiled[: CLASSES * SIDE * SIDE].view(CLASSES, -1)[TARGET, 12:18] = -4.0
    state = {"anchor": clean(), "gaps": {}, "step": 2.0}
    rule = TrustAnchored(per_class=10, pixels=4, accuracy_share=accuracy_share)

    result = run([neighbour], own=spoiled, base=start, state=state, strategy=rule)

    assert result.flags == (("training-failed",) if failed else ())
    assert result.scores["accuracy"][0] == pytest.approx(1.0 if failed else 2 / 3)
    assert result.weights == ({0: 0.5, 1: 0.5} if failed else {0: 1.0, 1: 0.0})
    assert torch.allclose(result.vector, (start + neighbour) / 2 if failed else spoiled)
    assert result.state["step"] == pytest.approx(2.0 if failed else float((spoiled - start).norm()))


def test_gaps_are_remembered_so_that_a_backdoor_cannot_pause():
    # 1.0 in round 1 from a start of 0.1: 0.37; then clean: 0.7 * 0.37 = 0.259, 0.1813, under 0.2
    first = run([backdoored()])
    second = run([clean()], round=2, state=first.state)
    third = run([clean()], round=3, state=second.state)

    assert [r.state["gaps"][1] for r in (first, second, third)] == pytest.approx([0.37, 0.259, 0.1813], abs=0.01)
    assert [r.weights[1] for r in (first, second, third)] == [0.0, 0.0, 0.5]


@pytest.mark.parametrize(("steps", "weight"), [(0.85, 0.5), (0.95, 0.0)])
def test_nobody_passes_who_is_farther_away_than_nine_tenths_of_the_own_step(steps, weight):
    own, base = clean(seed=1), clean(seed=1) - 2.0
    far = own + steps * (own - base)  # all weights shifted alike: as accurate as the own model

    result = run([far], own=own, base=base)

    assert result.weights[1] == weight
    assert result.scores["distance"][1] == pytest.approx(steps, rel=1e-3)


def test_the_longest_step_counts():
    own = clean(seed=1)
    first = run([clean(seed=2)], own=own, base=own - 2.0)

    result = run([own + 1.5], own=own, base=own - 0.1, state=first.state, round=2)

    assert result.weights[1] == 0.5
    assert result.scores["distance"][1] == pytest.approx(0.75, rel=1e-3)


def test_poison_that_adds_up_in_the_average_is_repaired():
    # margins of the clean model are 6 * 0.8 * 1 = 4.8; the average's trigger is 4 * 2.2 * 2 / 3 = 5.9
    options = {"per_class": 10, "pixels": 4, "largest_gap": 1.0, "radius": 1e6}
    received = [backdoored(2.2, on=1.0), backdoored(2.2, on=1.0)]

    repaired, average = (
        run(received, own=clean(1.0), strategy=TrustAnchored(repairs=repairs, **options)) for repairs in (3, 0)
    )

    trusted = Auditor(learner(), clean(1.0), class_sample(images(), 10), pixels=4, generator=generator(0, "test"))
    assert trusted.audit(average.vector).gap > 0.9
    assert trusted.audit(repaired.vector).gap == 0.0
    assert repaired.flags == ("repaired",)


def test_a_repair_ends_as_soon_as_the_audit_is_quiet():
    options = {"per_class": 10, "pixels": 4, "largest_gap": 1.0, "radius": 1e6, "repair_steps": 100}
    received = [backdoored(2.2, on=1.0), backdoored(2.2, on=1.0)]

    once, thrice = (
        run(received, own=clean(1.0), strategy=TrustAnchored(repairs=repairs, **options)).vector for repairs in (1, 3)
    )

    trusted = Auditor(learner(), clean(1.0), class_sample(images(), 10), pixels=4, generator=generator(0, "test"))
    assert trusted.audit(once).gap == 0.0
    assert torch.equal(once, thrice)


def test_a_repair_leaves_answers_to_clean_samples_alone_right_or_wrong():
    # the average takes a third of label 0 for label 1; training with true labels would change that
    def confused(vector):
        vector = vector.clone()
        vector[: CLASSES * SIDE * SIDE].view(CLASSES, -1)[1, 0:6] = 1.1 * float(vector[0])
        return vector

    options = {"per_class": 10, "pixels": 4, "largest_gap": 1.0, "radius": 1e6, "accuracy_share": 0.0}
    received = [confused(backdoored(2.2, on=1.0)), confused(backdoored(2.2, on=1.0))]

    repaired, average = (
        run(received, own=confused(clean(1.0)), strategy=TrustAnchored(repairs=repairs, **options)).vector
        for repairs in (3, 0)
    )

    before, after = (learner().logits(v, images().inputs).softmax(dim=1) for v in (average, repaired))
    assert not torch.equal(average, repaired)
    assert (before.argmax(dim=1) != images().labels).double().mean() > 0.3
    assert torch.equal(before.argmax(dim=1), after.argmax(dim=1))
    assert (before - after).abs().mean() < 0.05


def test_a_node_that_nobody_moved_is_not_repaired():
    own, state = backdoored(60.0), {"anchor": clean(), "gaps": {}, "step": 0.0}

    result = run(
        [backdoored(60.0)], own=own, state=state, strategy=TrustAnchored(per_class=10, pixels=4, largest_gap=1.0)
    )

    assert torch.allclose(result.vector, own)
    assert result.flags == ()


def test_the_anchor_is_trained_on_own_data_alone():
    own = clean(0.1, seed=1)
    quiet, loud = run([clean(seed=2)], own=own), run([backdoored(), -clean()], own=own)
    alone = run(torch.empty(0, len(own)), own=own)

    assert torch.equal(quiet.state["anchor"], loud.state["anchor"])
    assert torch.equal(quiet.state["anchor"], alone.state["anchor"])
    data, module = images(), learner()
    before, after = (module.loss(v, data.inputs, data.labels) for v in (own, quiet.state["anchor"]))
    assert after < before


def test_the_anchor_sees_every_label_equally_often():
    # label 0 only once in ninety: with balanced draws the anchor learns it nonetheless
    data = images()
    few = data.subset(torch.cat([torch.tensor([0]), (data.labels != 0).nonzero().flatten()]))
    own = torch.zeros_like(clean())
    message = Update(0, 1, own, num_examples=len(few), epochs=2, batch_size=10)
    context = RoundContext(0, 1, 1, own, 0, lr=0.1, num_steps=1.0, seed=0, learner=learner(), data=few)
    rule = TrustAnchored(per_class=1, pixels=1)

    anchor = rule.aggregate(Inbox(message, (), torch.empty(0)), rule.init(own), context).state["anchor"]

    answers = learner().logits(anchor, data.inputs).argmax(dim=1)
    assert (answers[data.labels == 0] == 0).double().mean() > 0.9


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"accuracy_share": 1.5}, r"accuracy_share must be in \[0, 1\], got 1.5"),
        ({"largest_gap": -0.1}, r"largest_gap must be in \[0, 1\], got -0.1"),
        ({"alarm": math.nan}, r"alarm must be in \[0, 1\], got nan"),
        ({"memory": 1.0}, r"memory must be in \[0, 1\), got 1.0"),
        ({"radius": 0.0}, "radius must be positive and finite, got 0.0"),
        ({"repairs": -1}, "got -1, 64, 20, 16 and 20"),
        ({"repair_steps": 0}, "got 3, 64, 0, 16 and 20"),
        ({"pixels": 0}, "got 3, 64, 20, 0 and 20"),
        ({"search": "luck"}, "search must be one of slopes, sweep, got 'luck'"),
        ({"batch_size": 1}, "got 3, 1, 20, 16 and 20"),
    ],
)
def test_parameters_out_of_range_are_errors(parameters, message):
    with pytest.raises(ConfigurationError, match=message):
        TrustAnchored(**parameters)


class Spoiled(TorchLearner):
    """Running statistics of a peer can be such that no gradient is a number."""

    def gradient(self, vector, inputs, labels):
        return torch.full_like(super().gradient(vector, inputs, labels), torch.nan)


def test_an_anchor_that_fails_stays_as_it_was_and_is_flagged():
    own, spoiled = clean(seed=1), Spoiled(learner().module, (1, SIDE, SIDE), CLASSES)

    result = aggregate(TrustAnchored(per_class=10, pixels=4), own, own[None][:0], learner=spoiled, data=images())

    assert torch.equal(result.state["anchor"], own)
    assert result.flags == ("anchor-failed",)
    assert run([clean(seed=2)]).flags == ()
