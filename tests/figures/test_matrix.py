from pathlib import Path

import numpy as np
import pytest

from flower_dfl.errors import ConfigurationError

pytest.importorskip("matplotlib", reason="needs the extra flower-dfl[report]")

from flower_dfl.figures.matrix import Matrix, draw_matrix, matrix_of
from flower_dfl.figures.series import METRICS
from flower_dfl.sweeps.tables import Cell


def cell(rule, attack, accuracy, rate=None, seed=0, **settings):
    table = {"seed": seed, "num-nodes": 10, "strategy.name": rule, "attack.name": attack} | settings
    summary = {"honest_accuracy_mean": accuracy, "attack_success_rate_mean": rate}
    return Cell(f"{rule}-{attack}-{seed}", Path(), table, summary)


def entries(axes):
    """Return the numbers of a matrix by column and row."""
    return {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}


def test_an_entry_is_the_mean_over_seeds_of_one_rule_under_one_attack():
    cells = [cell("krum", "dba", 0.5, seed=0), cell("krum", "dba", 0.7, seed=1), cell("ios", "none", 0.9)]

    matrix = matrix_of(cells, METRICS["accuracy"])

    assert matrix.label == "honest accuracy"
    assert matrix.values == {("krum", "dba"): pytest.approx(0.6), ("ios", "none"): 0.9}


@pytest.mark.parametrize(("metric", "rules"), [("accuracy", ("b", "a", "c")), ("asr", ("c", "a", "b"))])
def test_the_best_rule_is_on_top_and_no_attack_on_the_left(metric, rules):
    numbers = {"a": 0.5, "b": 0.7, "c": 0.3}
    cells = [cell(rule, attack, value, value) for rule, value in numbers.items() for attack in ("alie", "dba", "none")]

    matrix = matrix_of(cells, METRICS[metric])

    assert matrix.rules == rules
    assert matrix.attacks == ("none", "alie", "dba")


def test_parameters_tell_rules_and_attacks_apart():
    cells = [
        cell("krum", "dba", 0.5, **{"strategy.params.m": 2, "attack.params.gamma": 10.0}),
        cell("krum", "dba", 0.5, **{"strategy.params.m": 3, "attack.params.gamma": 5.0}),
    ]

    matrix = matrix_of(cells, METRICS["accuracy"])

    assert matrix.rules == ("krum (m = 2)", "krum (m = 3)")
    assert matrix.attacks == ("dba (gamma = 10.0)", "dba (gamma = 5.0)")


def test_runs_that_differ_in_more_or_are_there_twice_are_refused():
    with pytest.raises(ConfigurationError, match="also differ in num-nodes"):
        matrix_of([cell("krum", "dba", 0.5), cell("ios", "dba", 0.5, **{"num-nodes": 20})], METRICS["accuracy"])
    with pytest.raises(ConfigurationError, match="dba with seed 0 was tried on krum more than once"):
        matrix_of([cell("krum", "dba", 0.5), cell("krum", "dba", 0.6)], METRICS["accuracy"])


def test_every_entry_is_where_its_rule_and_attack_are_and_what_is_missing_is_blank():
    matrix = Matrix("honest accuracy", ("b", "a"), ("x", "y"), {("b", "y"): 0.25, ("a", "x"): 0.995}, high_is_good=True)

    figure = draw_matrix([matrix])

    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "a"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y"]
    assert entries(axes) == {(1, 0): "25", (0, 1): "100"}
    np.testing.assert_array_equal(np.ma.getmaskarray(axes.images[0].get_array()), [[True, False], [False, True]])


@pytest.mark.parametrize("high_is_good", [False, True])
def test_dark_is_bad(high_is_good):
    matrix = Matrix("share", ("a",), ("low", "high"), {("a", "low"): 0.0, ("a", "high"): 1.0}, high_is_good)

    figure = draw_matrix([matrix])

    image = figure.axes[0].images[0]
    brightness = [sum(colour[:3]) for colour in image.cmap(image.norm([0.0, 1.0]))]
    assert (brightness[0] < brightness[1]) == high_is_good
    bad = {"low": 0, "high": 1}["low" if high_is_good else "high"]
    assert [text.get_color() for text in figure.axes[0].texts][bad] == "white"


def test_matrices_beside_one_another_have_the_rules_of_the_first():
    pair = [
        Matrix("attack success rate", ("a", "b"), ("x",), {("b", "x"): 0.5}, high_is_good=False),
        Matrix("honest accuracy", ("a", "b"), ("y", "z"), {("b", "z"): 0.75}, high_is_good=True),
    ]

    first, second, *bars = draw_matrix(pair).axes

    assert (entries(first), entries(second)) == ({(0, 1): "50"}, {(1, 1): "75"})
    assert [label.get_text() for label in second.get_yticklabels()] == ["", ""]
    assert [bar.get_xlabel() for bar in bars] == ["attack success rate", "honest accuracy"]
