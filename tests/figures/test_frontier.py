from pathlib import Path

import pytest

from flower_dfl.errors import ConfigurationError

pytest.importorskip("matplotlib", reason="needs the extra flower-dfl[report]")

from flower_dfl.figures.frontier import Standing, count_seeds, draw_frontier, standings
from flower_dfl.figures.meetings import count_attacks
from flower_dfl.sweeps.tables import Cell


def cell(rule, attack, accuracy, rate, seed=0, **settings):
    table = {"seed": seed, "num-nodes": 10, "strategy.name": rule, "attack.name": attack} | settings
    return Cell(
        f"{rule}-{attack}-{seed}",
        Path(),
        table,
        {"honest_accuracy_mean": accuracy, "attack_success_rate_mean": rate},
    )


def test_a_rule_stands_where_its_worst_attacks_put_it():
    cells = [
        cell("krum", "scaling", 0.7, 0.2, seed=0),
        cell("krum", "scaling", 0.5, 0.4, seed=1),  # means 0.6 and 0.3
        cell("krum", "dba", 0.8, 0.9),
        *(cell("krum", attack, *pair, seed=1) for attack, pair in (("dba", (0.8, 0.9)), ("label-flip", (0.4, None)))),
        cell("krum", "label-flip", 0.4, None),
    ]

    (found,) = standings(cells)

    assert found == Standing("krum", pytest.approx(0.4), pytest.approx(0.9), efficient=True)


def test_what_a_rule_does_to_itself_without_an_attack_is_no_attacks_doing():
    (found,) = standings([cell("krum", "none", 0.5, None), cell("krum", "scaling", 0.6, 0.1)])

    assert found == Standing("krum", 0.6, 0.1, efficient=True)


def test_the_front_holds_the_rules_that_no_other_beats():
    # a and b trade accuracy for rate; c equals b; d is worse than b in one; e is worse in both.
    numbers = {"a": (0.9, 0.5), "b": (0.6, 0.1), "c": (0.6, 0.1), "d": (0.6, 0.2), "e": (0.5, 0.6)}

    found = standings([cell(name, "scaling", *pair) for name, pair in numbers.items()])

    assert [standing.name for standing in found if standing.efficient] == ["a", "b", "c"]


def test_a_rule_with_its_defaults_goes_by_its_name_beside_one_that_is_told_otherwise():
    cells = [cell("krum", "scaling", 0.5, 0.5), cell("krum", "scaling", 0.5, 0.5, **{"strategy.params.m": 2})]

    assert [standing.name for standing in standings(cells)] == ["krum", "krum (m = 2)"]


def test_a_rule_with_several_parameters_is_several_rules():
    cells = [cell("krum", "scaling", 0.5, 0.5, **{"strategy.params.m": m}) for m in (2, 3)]

    assert [standing.name for standing in standings(cells)] == ["krum (m = 2)", "krum (m = 3)"]


def test_rules_that_met_different_attacks_are_not_compared():
    cells = [cell("krum", "scaling", 0.5, 0.5), cell("krum", "dba", 0.5, 0.5), cell("ios", "dba", 0.5, 0.5)]

    with pytest.raises(ConfigurationError, match="scaling with seed 0 was tried on krum and not on ios"):
        standings(cells)


def test_rules_that_met_an_attack_with_other_parameters_or_seeds_are_not_compared():
    mild, strong = {"attack.params.gamma": 1.0}, {"attack.params.gamma": 10.0}

    with pytest.raises(
        ConfigurationError, match=r"scaling \(gamma = 10.0\) with seed 0 was tried on ios and not on krum"
    ):
        standings([cell("krum", "scaling", 0.5, 0.5, **mild), cell("ios", "scaling", 0.5, 0.5, **strong)])
    with pytest.raises(ConfigurationError, match="scaling with seed 1 was tried on krum and not on ios"):
        standings(
            [*(cell("krum", "scaling", 0.5, 0.5, seed=seed) for seed in (0, 1)), cell("ios", "scaling", 0.5, 0.5)]
        )


def test_a_run_that_is_there_twice_is_refused():
    with pytest.raises(ConfigurationError, match="scaling with seed 0 was tried on krum more than once"):
        standings([cell("krum", "scaling", 0.5, 0.5), cell("krum", "scaling", 0.5, 0.5)])


def test_an_attack_that_knows_the_rule_it_meets_is_the_same_attack():
    knowing = {rule: {"attack.params.rule": rule, "attack.params.steps": 4} for rule in ("krum", "ios")}

    found = standings([cell(rule, "rule-in-the-loop", 0.5, 0.5, **params) for rule, params in knowing.items()])

    assert [standing.name for standing in found] == ["ios", "krum"]


def test_every_setting_of_an_attack_counts_and_none_is_no_attack():
    cells = [cell("krum", "backdoor", 0.5, 0.5, **{"attack.params.drip": drip}) for drip in (0.2, 0.4)]

    assert count_attacks([*cells, cell("krum", "none", 0.5, None), cell("krum", "dba", 0.5, 0.5)]) == 3


def test_runs_that_differ_in_more_are_not_compared():
    cells = [cell("krum", "scaling", 0.5, 0.5), cell("ios", "scaling", 0.5, 0.5, **{"num-nodes": 20})]

    with pytest.raises(ConfigurationError, match="also differ in num-nodes"):
        standings(cells)


def test_without_a_trigger_there_is_no_frontier():
    with pytest.raises(ConfigurationError, match="none of the attacks on krum has a trigger"):
        standings([cell("krum", "label-flip", 0.5, None)])


def test_names_cover_neither_points_nor_one_another():
    crowd = [Standing(f"rule-{i}", 0.7 + 0.004 * (i % 4), 0.97 + 0.004 * (i // 4), efficient=i == 0) for i in range(16)]

    figure = draw_frontier(crowd, attacks=1, seeds=(3, 3))

    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = [text.get_bbox_patch() or text for text in axes.texts]
    extents = [super(type(box), box).get_window_extent() for box in boxes]  # the text without its leader
    assert len(extents) == 16
    assert not any(a.overlaps(b) for i, a in enumerate(extents) for b in extents[:i])


def test_the_axes_say_over_how_many_attacks_the_worst_is_taken():
    figure = draw_frontier([Standing("a", 0.5, 0.5, efficient=True)], attacks=4, seeds=(1, 1))

    assert figure.axes[0].get_xlabel() == "attack success rate, worst of 4 attacks"
    assert figure.legends[0].get_title().get_text() == "one seed"


@pytest.mark.parametrize(("most", "said"), [(1, "one seed"), (3, "means of 1 to 3 seeds")])
def test_the_legend_says_over_how_many_seeds_the_means_are_taken(most, said):
    cells = [
        *(cell(rule, "scaling", 0.5, 0.5, seed) for rule in ("krum", "median") for seed in range(most)),
        *(cell(rule, "dba", 0.5, 0.5) for rule in ("krum", "median")),
    ]

    figure = draw_frontier(standings(cells), attacks=count_attacks(cells), seeds=count_seeds(cells))

    assert count_seeds(cells) == (1, most)
    assert figure.legends[0].get_title().get_text() == said


def test_means_over_equally_many_seeds_are_said_to_be():
    figure = draw_frontier([Standing("a", 0.5, 0.5, efficient=True)], attacks=4, seeds=(5, 5))

    assert figure.legends[0].get_title().get_text() == "means of 5 seeds"
