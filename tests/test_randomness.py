import itertools
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from flower_dfl.randomness import generator, integer, scoped_global_seed


def test_the_numbers_of_a_key_never_change():
    # Frozen: recorded runs can be repeated only while these hold. integer() is the first four bytes, little endian, of
    # blake2b("SEED/PURPOSE/ROUND/NODE", digest_size=4).
    assert integer(0, "partition") == 672_699_117
    assert integer(7, "init", 3, 2) == 3_544_314_631
    assert torch.randint(1000, (4,), generator=generator(0, "batches", 1, 0)).tolist() == [938, 663, 220, 651]
    assert torch.randint(1000, (4,), generator=generator(5, "x")).tolist() == [81, 194, 735, 595]


@given(seed=st.integers(-(2**70), 2**70), purpose=st.text(), round=st.integers(0, 10**6), node=st.integers(-1, 10**6))
def test_any_key_gives_a_32_bit_integer_and_the_same_one_again(seed, purpose, round, node):
    value = integer(seed, purpose, round, node)

    assert 0 <= value < 2**32
    assert value == integer(seed, purpose, round, node)


def test_every_part_of_the_key_matters():
    keys = list(itertools.product((0, 1), ("a", "b"), (0, 1), (-1, 0, 1)))

    integers = {integer(*key) for key in keys}
    draws = {float(torch.rand(1, dtype=torch.float64, generator=generator(*key))) for key in keys}

    assert len(integers) == len(draws) == len(keys)


def test_streams_of_neighbouring_keys_are_independent():
    # 200 nodes, 500 draws each: the correlation of two independent streams has a standard deviation of 1/sqrt(500);
    # over 19,900 pairs none is beyond 6 of them (probability 4e-5).
    streams = np.stack([torch.randn(500, generator=generator(0, "batches", 1, node)).numpy() for node in range(200)])

    correlations = np.corrcoef(streams)[np.triu_indices(200, 1)]

    assert abs(correlations).max() < 6 / np.sqrt(500)


def test_integers_of_consecutive_seeds_are_spread_evenly():
    counts = np.bincount([integer(seed, "topology") % 10 for seed in range(5_000)], minlength=10)

    assert chisquare(counts).pvalue > 1e-4


def test_each_call_returns_a_fresh_generator():
    first = generator(3, "poison", 1, 2)
    torch.rand(5, generator=first)

    again = torch.rand(2, generator=generator(3, "poison", 1, 2))

    assert not torch.equal(again, torch.rand(2, generator=first))


def test_no_generator_touches_the_global_state():
    before = torch.get_rng_state()

    torch.rand(5, generator=generator(3, "poison", 1, 2))

    assert torch.equal(torch.get_rng_state(), before)


def test_a_scoped_seed_decides_the_draws_inside_and_restores_the_state_outside():
    before = torch.get_rng_state()

    with scoped_global_seed(0, "init"):
        first = torch.randint(1000, (3,)).tolist()
    after = torch.get_rng_state()
    torch.rand(7)
    with scoped_global_seed(0, "init"):
        second = torch.randint(1000, (3,)).tolist()

    assert first == second == [977, 293, 49]  # frozen, like the keys above: it decides the initial weights
    assert torch.equal(after, before)


def test_a_scoped_seed_restores_the_state_after_an_error_too():
    before = torch.get_rng_state()

    with pytest.raises(ZeroDivisionError), scoped_global_seed(0, "init"):
        torch.rand(1 // 0)

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("in_use", "forked"), [(True, [0, 1]), (False, [])])
def test_a_scoped_seed_restores_the_gpus_in_use_too(monkeypatch, in_use, forked):
    asked = []

    def fork(devices):
        asked.append(list(devices))
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: in_use)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.random, "fork_rng", fork)
    monkeypatch.setattr(torch, "manual_seed", lambda seed: None)

    with scoped_global_seed(0, "train", 1, 2):
        pass

    assert asked == [forked]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_scoped_seed_decides_the_draws_of_a_gpu_and_restores_its_state():
    torch.rand(1, device="cuda")
    before = torch.cuda.get_rng_state()
    draws = []
    for key in ((1, 2), (1, 2), (1, 3)):
        with scoped_global_seed(0, "train", *key):
            draws.append(torch.rand(4, device="cuda"))

    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_scoped_seed_follows_every_part_of_its_key():
    draws = set()
    for key in itertools.product((0, 1), ("a", "b"), (0, 1), (-1, 0)):
        with scoped_global_seed(*key):
            draws.add(torch.rand(1, dtype=torch.float64).item())

    assert len(draws) == 16
