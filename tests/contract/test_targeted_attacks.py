"""The public contract check, on the targeted attacks and on back-gradient poisoning."""

import pytest

from flower_dfl.attacks.adaptive import Adaptive
from flower_dfl.attacks.alie_backdoor import AlieBackdoor
from flower_dfl.attacks.back_gradient import BackGradient
from flower_dfl.attacks.backdoor import Backdoor
from flower_dfl.attacks.dba import Dba
from flower_dfl.attacks.rule_in_the_loop import RuleInTheLoop
from flower_dfl.attacks.scaling import Scaling
from flower_dfl.strategies.dfl_dual import DflDual
from flower_dfl.strategies.krum import Krum
from flower_dfl.testing import check_attack
from flower_dfl.training import one_thread

BARS = {"length": 3, "gap": 1}
"""Bars that fit the contract's images."""


@pytest.fixture(autouse=True)
def alone():
    with one_thread():
        yield


@pytest.mark.parametrize(
    "attack",
    [
        Backdoor(),
        Backdoor(poison_share=0.05, drip=0.2, size=2, row=1, column=3),
        Dba(**BARS),
        Dba(gamma="auto", **BARS),
        AlieBackdoor(),
        AlieBackdoor(z=100.0, boost=1.0, alpha=0.0, lr=0.01),
        BackGradient(),
        BackGradient(gamma="auto", share=1.0, steps=1, outer_steps=2),
        Adaptive(),
        Adaptive(attack=Scaling(), beta=1.0),
        Adaptive(attack=AlieBackdoor(epochs=1), beta=0.0, similarity="literal", normalised=False),
        Adaptive(attack=Dba(**BARS)),
        Adaptive(attack=BackGradient(outer_steps=1), steps=5),
        RuleInTheLoop(Krum()),
        RuleInTheLoop(DflDual(iterations=2, per_class=1), Scaling(), steps=4),
        RuleInTheLoop(Krum(), Adaptive(attack=Backdoor(), steps=5), steps=4),
    ],
    ids=lambda attack: repr(attack)[:60],
)
def test_targeted_attacks_keep_the_contract(attack):
    check_attack(attack)
