"""The public contract checks, on the components of the first slice and on every topology."""

import pytest

from flower_dfl import registry
from flower_dfl.attacks.label_flip import LabelFlip
from flower_dfl.attacks.scaling import Scaling
from flower_dfl.strategies.average import Average
from flower_dfl.strategies.dfl_dual import DflDual
from flower_dfl.strategies.oracle import Oracle
from flower_dfl.testing import check_attack, check_strategy, check_topology
from flower_dfl.training import one_thread


@pytest.fixture(autouse=True)
def alone():
    with one_thread():
        yield


@pytest.mark.parametrize("strategy", [Average(), Average("metropolis")])
def test_plain_averaging_keeps_the_contract_but_is_not_robust(strategy):
    check_strategy(strategy, robust=False)


def test_the_oracle_keeps_the_contract():
    check_strategy(Oracle())


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"preset": "literal"},
        {"preset": "literal", "include_own": True},
        {"base": "receiver"},
        {"preset": "literal", "base": "receiver"},
        {"variant": "without-ed"},
        {"variant": "without-wd"},
        {"variant": "without-tb"},
        {"trust_length": True},
        {"optimizer": "lbfgs", "inversion_lr": 1.0},
        {"steps": "claimed", "q": "sum", "alpha": 100.0, "c1": float("inf")},
    ],
    ids=str,
)
def test_dfl_dual_keeps_the_contract(params):
    check_strategy(DflDual(**params))


def test_dfl_dual_keeps_the_contract_when_it_compares_updates_but_is_not_robust():
    check_strategy(DflDual(trust_space="update"), robust=False)


@pytest.mark.parametrize("attack", [LabelFlip(), Scaling(), Scaling(gamma="auto", poison_share=1.0)], ids=repr)
def test_attacks_keep_the_contract(attack):
    check_attack(attack)


# the grids need a number of nodes that is not a prime, and a file its path: see tests/topologies
@pytest.mark.parametrize("name", sorted({*registry.names("topology")} - {"file", "grid", "torus"}))
@pytest.mark.parametrize(("num_nodes", "num_byzantine"), [(10, 2), (10, 6), (6, 0), (7, 3)])
def test_topologies_keep_the_contract(name, num_nodes, num_byzantine):
    check_topology(registry.build("topology", name), num_nodes=num_nodes, num_byzantine=num_byzantine)
