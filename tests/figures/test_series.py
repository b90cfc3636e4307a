from dataclasses import replace
from pathlib import Path

import pytest

from flower_dfl.errors import ConfigurationError
from flower_dfl.figures.series import (
    BYZANTINE_SHARE,
    METRICS,
    ROUND,
    Point,
    axis_for,
    curves,
    differing,
    pick,
    with_parameters,
)
from flower_dfl.sweeps.tables import Cell, read_cells
from tests.figures.recorded import write_run

ASR = METRICS["asr"]


def cell(name="run", accuracy=0.5, rate=0.5, **settings):
    """A cell without a folder; keys are written with underscores for dots and dashes."""
    table = {
        "seed": 0,
        "num-nodes": 10,
        "num-byzantine": 2,
        "strategy.name": "average",
        "attack.name": "scaling",
        "node-timeout": 600.0,
    }
    summary = {"honest_accuracy_mean": accuracy, "attack_success_rate_mean": rate}
    return Cell(name, Path(name), table | settings, summary)


def test_a_point_is_the_mean_over_seeds_and_the_band_its_extremes():
    point = Point.of(0.0, [0.2, 0.1, 0.6], "min-max")

    assert point.mean == pytest.approx(0.3)
    assert (point.low, point.high, point.count) == (0.1, 0.6, 3)


def test_the_deviation_is_the_one_of_a_sample():
    point = Point.of(0.0, [0.1, 0.3], "deviation")  # mean 0.2, squared deviations 0.01 + 0.01 over 2 - 1, root 0.1414

    assert (point.low, point.high) == pytest.approx((0.2 - 0.02**0.5, 0.2 + 0.02**0.5))


def test_one_seed_has_no_band():
    assert Point.of(0.0, [0.4], "deviation") == Point(0.0, 0.4, 0.4, 0.4, 1)


def test_every_parameter_becomes_a_setting_of_its_own():
    text = "attack = {name = 'alie', params = {z = 1.5}}, beta = 0.2"

    found = with_parameters(cell(**{"attack.params": text, "data.params": ""})).settings

    assert found["attack.params.beta"] == 0.2
    assert found["attack.params.attack.name"] == "alie"
    assert found["attack.params.attack.params.z"] == 1.5
    assert not {"attack.params", "data.params"} & set(found)


def test_a_curve_goes_over_the_share_of_byzantine_nodes_with_one_line_for_each_rule():
    cells = [
        cell(f"{rule}-{b}-{seed}", rate=b / 10 + seed / 100, seed=seed, **{"strategy.name": rule, "num-byzantine": b})
        for rule in ("krum", "average")
        for b in (4, 2)
        for seed in (0, 1)
    ]

    (panel,) = curves(cells, ASR, BYZANTINE_SHARE, "strategy.name", None)
    (other,) = curves(cells, ASR, BYZANTINE_SHARE, "strategy.name", None, band="deviation")

    assert [line.label for line in panel.lines] == ["average", "krum"]
    assert [point.x for point in panel.lines[0].points] == [0.2, 0.4]
    assert panel.lines[0].points[0] == Point.of(0.2, [0.2, 0.2 + 0.01], "min-max")
    assert other.lines[0].points[0] == Point.of(0.2, [0.2, 0.2 + 0.01], "deviation")


def test_panels_are_in_the_order_of_their_numbers():
    cells = [cell(f"p{p}", **{"data.params.p": p}) for p in (0.8, 0.1, 10.0, 9.0)]

    panels = curves(cells, ASR, BYZANTINE_SHARE, "strategy.name", "data.params.p")

    assert [panel.title for panel in panels] == [f"data.params.p = {p}" for p in ("0.1", "0.8", "9", "10")]


def test_a_panel_of_a_component_is_called_by_its_name():
    (panel,) = curves([cell()], ASR, BYZANTINE_SHARE, "strategy.name", "attack.name")

    assert panel.title == "scaling"


def test_rounds_come_from_the_records(tmp_path):
    write_run(tmp_path / "a", {}, 0.8, 0.3)
    write_run(tmp_path / "b", {"seed": 1}, 0.6, 0.3)
    cells = [with_parameters(each) for each in read_cells(tmp_path)]

    (panel,) = curves(cells, METRICS["accuracy"], ROUND, "strategy.name", None)
    (worst,) = curves(cells, METRICS["worst-accuracy"], ROUND, "strategy.name", None, band="deviation")

    assert [point.x for point in panel.lines[0].points] == [1, 2]
    assert [point.mean for point in panel.lines[0].points] == pytest.approx([0.35, 0.7])
    assert worst.lines[0].points[1].mean == pytest.approx(0.6)  # of 0.7 and 0.5
    assert worst.lines[0].points[1].high == pytest.approx(0.6 + 0.02**0.5)


@pytest.mark.parametrize("x", [ROUND, "attack.params.beta"])
def test_runs_that_differ_in_something_else_are_no_curve(x):
    cells = [cell("a", **{"attack.params.beta": 0.0}), cell("b", **{"attack.params.beta": 1.0, "num-byzantine": 3})]

    with pytest.raises(ConfigurationError, match=r"the runs also differ in .*num-byzantine.*--where KEY=VALUE"):
        curves(cells, ASR, x, "strategy.name", None)


def test_lines_that_differ_in_something_else_are_no_panel():
    cells = [cell("a", **{"num-rounds": 8}), cell("b", **{"num-rounds": 15, "strategy.name": "krum"})]

    with pytest.raises(ConfigurationError, match="differ in num-rounds"):
        curves(cells, ASR, BYZANTINE_SHARE, "strategy.name", None)


def test_a_line_may_have_parameters_of_its_own():
    cells = [cell("a"), cell("b", **{"strategy.name": "krum", "strategy.params.m": 3})]

    (panel,) = curves(cells, ASR, BYZANTINE_SHARE, "strategy.name", None)

    assert len(panel.lines) == 2


def test_a_line_with_two_values_of_a_parameter_is_none():
    cells = [cell("a", **{"strategy.params.m": 2}), cell("b", **{"strategy.params.m": 3})]

    with pytest.raises(ConfigurationError, match=r"the line 'average' also differ in strategy.params.m"):
        curves(cells, ASR, BYZANTINE_SHARE, "strategy.name", None)


def test_the_same_run_twice_is_not_two_seeds():
    with pytest.raises(ConfigurationError, match="first and second have the same settings and seed"):
        curves([cell("first"), cell("second")], ASR, BYZANTINE_SHARE, "strategy.name", None)


def test_what_decides_no_result_keeps_no_runs_apart():
    cells = [cell("a"), cell("b", seed=1, **{"node-timeout": 5.0})]

    (panel,) = curves(cells, ASR, BYZANTINE_SHARE, "strategy.name", None)

    assert differing(cells) == ["seed"]
    assert panel.lines[0].points[0].count == 2


@pytest.mark.parametrize("value", ["much", True, float("inf")])
def test_an_axis_needs_numbers(value):
    with pytest.raises(ConfigurationError, match=r"attack.params.z cannot be on the axis: run has"):
        curves([cell(**{"attack.params.z": value})], ASR, "attack.params.z", "strategy.name", None)


def test_a_run_without_the_metric_is_an_error_that_names_its_attack():
    bare = replace(cell(), summary={"attack_success_rate_mean": None})

    with pytest.raises(ConfigurationError, match="run has no attack success rate, under attack 'scaling'"):
        curves([bare], ASR, BYZANTINE_SHARE, "strategy.name", None)


@pytest.mark.parametrize(("x", "lines"), [(ROUND, "strategy.nam"), ("strategy.nam", "strategy.name")])
def test_an_unknown_setting_is_an_error(x, lines):
    with pytest.raises(ConfigurationError, match=r"unknown setting 'strategy.nam'. Did you mean 'strategy.name'"):
        curves([cell()], ASR, x, lines, None)


def test_cells_are_chosen_by_their_settings():
    cells = [cell("a"), cell("b", **{"num-byzantine": 4})]

    assert [each.name for each in pick(cells, {"num-byzantine": 4})] == ["b"]
    with pytest.raises(ConfigurationError, match="no run has num-byzantine = 5; recorded are 2, 4"):
        pick(cells, {"num-byzantine": 5})
    with pytest.raises(ConfigurationError, match="unknown setting 'number'"):
        pick(cells, {"number": 5})


@pytest.mark.parametrize(
    ("changes", "panels", "axis"),
    [
        ({"seed": 1}, None, ROUND),
        ({"strategy.name": "krum", "strategy.params.m": 3}, None, ROUND),
        ({"num-byzantine": 4}, None, BYZANTINE_SHARE),
        ({"data.params.p": 0.1}, None, "data.params.p"),
        ({"attack.name": "alie", "attack.params.z": 1.0, "num-byzantine": 4}, "attack.name", BYZANTINE_SHARE),
        ({"num-byzantine": 4, "data.params.p": 0.1}, None, ROUND),
    ],
)
def test_the_axis_is_what_the_runs_differ_in(changes, panels, axis):
    assert (
        axis_for(
            [cell("a", **{"data.params.p": 0.8}), cell("b", **{"data.params.p": 0.8} | changes)],
            "strategy.name",
            panels,
        )
        == axis
    )
