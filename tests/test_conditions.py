from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.conditions import Conditions
from flower_dfl.config import NetworkConfig

MANY = 2_000


def conditions(num_nodes=10, seed=0, **changes):
    return Conditions(NetworkConfig(**changes), num_nodes, seed)


def test_without_troubles_everybody_is_there_and_every_message_arrives():
    quiet = conditions()

    assert all(quiet.is_present(node, round) for node in range(10) for round in range(1, 20))
    assert {quiet.fate(i, j, 1) for i in range(10) for j in range(10)} == {"delivered"}


@pytest.mark.parametrize(("setting", "fate"), [("drop_rate", "dropped"), ("late_rate", "late"), ("churn", "absent")])
def test_rates_are_met(setting, fate):
    troubled = conditions(absence=1, **{setting: 0.2})

    fates = Counter(troubled.fate(0, 1, round) for round in range(1, MANY + 1))

    # a binomial share: four standard deviations are 4 * sqrt(0.2 * 0.8 / 2000) = 0.036
    assert fates[fate] / MANY == pytest.approx(0.2, abs=0.036)
    assert set(fates) == {fate, "delivered"}


def test_losses_are_drawn_for_each_direction_and_lateness_for_each_sender():
    lossy, late = conditions(drop_rate=0.5), conditions(late_rate=0.5)
    rounds = range(1, 200)

    assert [lossy.fate(0, 1, t) for t in rounds] != [lossy.fate(1, 0, t) for t in rounds]
    assert [lossy.fate(0, 1, t) for t in rounds] != [lossy.fate(0, 2, t) for t in rounds]
    assert [late.fate(0, 1, t) for t in rounds] == [late.fate(0, 2, t) for t in rounds]


def test_a_node_that_leaves_stays_away_for_as_long_as_it_says():
    once, long = conditions(churn=0.05, absence=1), conditions(churn=0.05, absence=4)
    left = {t for t in range(1, 500) if not once.is_present(3, t)}

    away = {t for t in range(1, 500) if not long.is_present(3, t)}

    assert left
    assert away == {t + k for t in left for k in range(4)} & set(range(1, 500))


def test_a_split_cuts_messages_between_parts_of_equal_size_until_it_heals():
    split = conditions(split_start=3, split_stop=5, split_parts=2)
    others = [{j for j in range(10) if split.fate(0, j, t) == "split"} for t in range(1, 8)]

    assert [len(lost) for lost in others] == [0, 0, 5, 5, 5, 0, 0]
    assert others[2] == others[3] == others[4]
    (mine,) = {frozenset(range(10)) - lost for lost in others[2:5]}
    assert all(split.fate(i, j, 4) == "delivered" for i in mine for j in mine)


def test_who_is_away_is_absent_before_anything_else_can_happen_to_its_message():
    everything = conditions(churn=1.0, drop_rate=1.0, late_rate=1.0, split_start=1, split_stop=9)

    assert {everything.fate(0, j, 5) for j in range(1, 10)} == {"absent"}


def test_a_lost_message_is_not_late():
    assert conditions(drop_rate=1.0, late_rate=1.0).fate(0, 1, 1) == "dropped"


@given(st.integers(0, 2**31), st.integers(1, 100), st.integers(0, 9), st.integers(0, 9))
def test_fates_depend_on_the_key_and_on_nothing_else(seed, round, sender, receiver):
    troubled = conditions(seed=seed, drop_rate=0.3, late_rate=0.3, churn=0.1)

    later = conditions(seed=seed, drop_rate=0.3, late_rate=0.3, churn=0.1)
    assert troubled.fate(sender, receiver, round) == later.fate(sender, receiver, round)


def test_another_seed_brings_other_troubles():
    fates = [[conditions(seed=s, drop_rate=0.5).fate(0, 1, t) for t in range(1, 100)] for s in (0, 1)]

    assert fates[0] != fates[1]
