from dataclasses import replace

import pytest
import torch

from flower_dfl.errors import ConfigurationError
from flower_dfl.strategies.balance import Balance
from flower_dfl.strategies.sketchguard import Sketchguard, count_sketch
from flower_dfl.testing import aggregate
from flower_dfl.types import DigestContext, Inbox, RoundContext, Update

CONTEXT = DigestContext(round=3, num_rounds=10, lr=0.1, num_steps=2.0, seed=5)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_every_coordinate_lands_in_one_bucket_with_its_sign():
    buckets = torch.randint(3, (8,), generator=(generator := seeded(1)))
    signs = torch.randint(2, (8,), generator=generator, dtype=torch.int8) * 2 - 1
    vector = 4.0 ** torch.arange(8)

    sketch = count_sketch(vector, 3, seeded(1))

    by_hand = [0.0, 0.0, 0.0]
    for value, bucket, sign in zip(vector.tolist(), buckets.tolist(), signs.tolist(), strict=True):
        by_hand[bucket] += sign * value
    assert sketch.tolist() == by_hand
    assert set(signs.tolist()) == {-1, 1}


def test_sketches_are_linear_and_keep_norms_on_average():
    first, second = torch.randn(5000, generator=seeded(1)), torch.randn(5000, generator=seeded(2))

    difference = count_sketch(first, 50, seeded()) - count_sketch(second, 50, seeded())
    norms = [float(count_sketch(first, 50, seeded(s)).square().sum()) for s in range(200)]

    torch.testing.assert_close(difference, count_sketch(first.double() - second.double(), 50, seeded()))
    # 200 draws of relative deviation sqrt(2 / 50) = 0.2: their mean is within 4 * 0.2 / sqrt(200) = 0.06.
    assert sum(norms) / 200 == pytest.approx(float(first.square().sum()), rel=0.06)


def test_the_digest_is_a_pure_function_of_message_and_round():
    rule, vector = Sketchguard(size=20), torch.randn(100)

    digest = rule.digest(Update(4, 3, vector), CONTEXT)

    assert torch.equal(digest, rule.digest(Update(8, 3, vector.clone()), CONTEXT))
    assert not torch.equal(digest, rule.digest(Update(4, 3, vector), replace(CONTEXT, round=4)))
    assert digest.shape == (20,)


def test_far_messages_fail_the_test_on_sketches_and_near_ones_pass():
    own = torch.randn(4000, generator=seeded(1))
    noise = torch.randn(4, 4000, generator=seeded(2))
    received = own + torch.tensor([0.05, 2.0, 0.1, 0.6])[:, None] * noise  # bound: 0.3 * exp(-0.1) = 0.27 of the norm

    result = aggregate(Sketchguard(), own, received)

    assert result.weights == {0: 0.5, 1: 0.25, 2: 0.0, 3: 0.25, 4: 0.0}
    assert result.weights == aggregate(Balance(), own, received).weights
    assert result.scores["sketch-distance"][2] == pytest.approx(float((received[1] - own).norm()), rel=0.2)


def test_digests_from_the_engine_give_the_same_bits_as_own_ones():
    own, received = torch.randn(60), torch.randn(60).repeat(3, 1)
    rule = Sketchguard(size=10, gamma=10.0)
    updates = [Update(i, 3, vector) for i, vector in enumerate([own, *received])]
    context = RoundContext(0, 3, 10, torch.zeros(60), 0, 0.1, 2.0, 5)
    plain = Inbox(updates[0], tuple(updates[1:]), torch.full((3,), 0.25, dtype=torch.float64))
    digested = [replace(update, digest=rule.digest(update, CONTEXT)) for update in updates]

    first = rule.aggregate(plain, None, context)
    second = rule.aggregate(replace(plain, own=digested[0], received=tuple(digested[1:])), None, context)
    digested[2] = replace(digested[2], digest=torch.full((10,), 1e9, dtype=torch.float64))
    third = rule.aggregate(replace(plain, own=digested[0], received=tuple(digested[1:])), None, context)

    assert torch.equal(first.vector, second.vector)
    assert first.weights == second.weights
    assert third.weights[2] == 0  # it is the digest that is looked at


def test_parameters_out_of_range_are_refused():
    with pytest.raises(ConfigurationError, match="size must be at least 1, got 0"):
        Sketchguard(size=0)
    with pytest.raises(ConfigurationError, match="gamma must be positive, got -1"):
        Sketchguard(gamma=-1.0)


def test_digests_come_from_whatever_device_they_were_put_on():
    # An engine may keep what was received on an accelerator and the node's own on the CPU. Of "meta" nothing can be
    # read, so that the rule cannot get past asking for it: without asking, torch complains of two devices.
    own = Update(0, 3, torch.ones(4), digest=torch.ones(1000))
    there = Update(1, 3, torch.ones(4), digest=torch.ones(1000, device="meta"))
    inbox = Inbox(own, (there,), torch.ones(1, dtype=torch.float64) / 2)
    context = RoundContext(0, 3, 10, torch.zeros(4), 0, 0.1, 2.0, 5)

    with pytest.raises(NotImplementedError, match="meta"):
        Sketchguard().aggregate(inbox, None, context)
