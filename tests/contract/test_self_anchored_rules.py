"""The contract of rules that start from the own model, and of pre-aggregation around other rules."""

import itertools

import pytest
import torch

from flower_dfl import registry, testing
from flower_dfl.errors import ByzantineBudgetError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.testing import aggregate, check_strategy
from flower_dfl.types import Update

ROBUST = [
    ("balance", {}),
    ("cs-plus", {}),
    ("cs-plus", {"boundary": "at"}),
    ("dfl-trust", {}),
    ("dfl-trust", {"include-root": False}),
    ("dfl-trust", {"space": "model"}),
    ("gts", {}),
    ("local-only", {}),
    ("nna", {}),
    ("self-centered-clipping", {}),
    ("self-centered-clipping", {"tau": 1}),
    ("sketchguard", {}),
    ("sketchguard", {"size": 5}),
    ("ubar", {}),
    ("ubar", {"fallback": "own"}),
    ("bucketing", {"rule": "gts"}),
    ("bucketing", {"rule": {"name": "nna"}, "size": 3}),
    ("clip-first", {"rule": "average"}),
    ("clip-first", {"rule": "average", "tau": 1}),
    ("bucketing", {"rule": "krum"}),
    ("clip-first", {"rule": "median"}),
    ("nnm", {"rule": "krum"}),
    ("nnm", {"rule": "nna"}),
    ("nnm", {"rule": {"name": "clip-first", "params": {"rule": "gts"}}}),
]

NOT_ROBUST = [
    # With two classes, a model that always says the same one has half of a perfect mean F1 score.
    ("bristle", {}),
    # It learns from history, and protects nothing before round 3.
    ("dfl-detector", {}),
    # The checks' liar adds the same to all class scores, which no loss can see.
    ("loss-weighted", {}),
]


def build(name, params) -> PeerStrategy:
    return registry.build("strategy", name, params)


@pytest.mark.parametrize(("name", "params"), ROBUST)
def test_it_keeps_the_contract_and_a_huge_liar_does_not_win(name, params):
    check_strategy(build(name, params))


@pytest.mark.parametrize(("name", "params"), NOT_ROBUST)
def test_it_keeps_the_contract_but_not_against_this_liar(name, params):
    check_strategy(build(name, params), robust=False)


@pytest.mark.parametrize(("name", "params"), ROBUST)
def test_a_huge_liar_gets_through_from_no_position(name, params):
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(12, generator=generator)
    own, *honest = base + 0.1 + 0.02 * torch.randn(8, 12, generator=generator)
    rule, spread = build(name, params), max(float((row - own).norm()) for row in honest)

    for position, size in itertools.product(range(8), (1e4, 1e30)):
        lie = size * torch.randn(12, generator=generator)
        received = [*honest[:position], lie, *honest[position:]]
        moved = float((aggregate(rule, own, received, base=base, f=1).vector - own).norm())
        assert moved <= 10 * spread, f"position {position}, size {size}"


@pytest.mark.parametrize(("name", "params"), ROBUST + NOT_ROBUST)
@pytest.mark.parametrize("neighbours", range(4))
def test_without_a_budget_it_works_for_any_number_of_neighbours(name, params, neighbours):
    own, received = torch.randn(12), torch.randn(neighbours, 12)

    result = aggregate(build(name, params), own, received, f=0)

    assert set(result.weights) == set(range(neighbours + 1))
    assert sum(result.weights.values()) == pytest.approx(1)
    assert min(result.weights.values()) >= 0
    assert bool(result.vector.isfinite().all())


MAJORITY = [("nna", {}), ("nnm", {"rule": "gts"}), ("bucketing", {"rule": "nna"}), ("nnm", {"rule": "krum"})]


@pytest.mark.parametrize(("name", "params"), MAJORITY)
def test_a_rule_that_needs_a_majority_refuses_a_budget_of_all_neighbours(name, params):
    with pytest.raises(ByzantineBudgetError, match=r"needs n > 2f, got n=\d, f=4"):
        aggregate(build(name, params), torch.randn(12), torch.randn(4, 12), f=4)


@pytest.mark.parametrize("name", sorted({name for name, params in ROBUST if not params} - {"nna"}))
def test_the_other_rules_carry_a_budget_of_all_neighbours(name):
    result = aggregate(build(name, {}), torch.randn(12), torch.randn(4, 12), f=4)

    assert bool(result.vector.isfinite().all())


@pytest.mark.parametrize(("name", "params"), ROBUST + NOT_ROBUST)
def test_what_senders_claim_about_themselves_is_ignored(name, params, monkeypatch):
    own, received, rule = torch.randn(12), torch.randn(10, 12), build(name, params)
    honest = aggregate(rule, own, received, f=1).vector
    boasts = itertools.count(1)

    def boastful(*args, **claims):
        return Update(*args, **claims | {"num_examples": 10 ** next(boasts), "batch_size": 1})

    monkeypatch.setattr(testing, "Update", boastful)

    assert torch.equal(aggregate(rule, own, received, f=1).vector, honest)
