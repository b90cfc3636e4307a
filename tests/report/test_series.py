"""Curves over the rounds."""

import base64

import numpy as np
import pytest

from flower_dfl.report.reading import read_run
from flower_dfl.report.series import charts_of, nodes_on_demand, spread_out

from .conftest import edge_line, four_nodes, node_line


def _charts(folder):
    run = read_run(folder)
    return {chart.id: chart for chart in charts_of(run, list(run.rounds))}


def _values(chart):
    return {line.name: line.values for line in chart.lines}


def test_accuracy_has_mean_and_worst_and_an_area_for_all_honest_nodes(make_run):
    chart = _charts(make_run(*four_nodes(2)))["accuracy"]

    assert _values(chart)["mean"] == pytest.approx([0.15, 0.3])
    assert _values(chart)["worst"] == pytest.approx([0.1, 0.2])
    ((low, high),) = chart.bands
    assert low == pytest.approx([0.1, 0.2])
    assert high == pytest.approx([0.2, 0.4])


def test_detection_is_that_of_every_round(make_run):
    # Odd rounds: of four messages from Byzantine nodes one is trusted, and no honest one is rejected.
    values = _values(_charts(make_run(*four_nodes()))["detection"])

    assert values == {"recall": [0.75, 1.0, 0.75], "precision": [1.0] * 3, "honest rejected": [0.0] * 3}


def test_without_an_attack_there_is_no_detection_but_the_share_of_honest_messages_rejected(make_run):
    charts = _charts(make_run(*four_nodes(), attack__name="none"))

    assert list(_values(charts["detection"])) == ["honest rejected"]
    assert "Nobody attacks" in charts["detection"].note


def test_rounds_that_were_not_evaluated_have_no_value(make_run):
    nodes = [node_line(1, 0, None), node_line(1, 1, None), node_line(2, 0, 0.4), node_line(2, 1, 0.6)]

    chart = _charts(make_run(nodes))["accuracy"]

    assert _values(chart)["mean"] == [None, 0.5]
    assert chart.bands[0][0][0] is None


def test_a_chart_without_any_value_is_left_out(make_run):
    nodes = [node_line(1, 0, None), node_line(1, 1, None)]

    assert set(_charts(make_run(nodes))) == {"bytes"}


def test_missing_messages_are_counted_by_reason(make_run):
    nodes = [node_line(1, 0, missing={"late": 2}), node_line(1, 1, missing={"late": 1, "dropped": 1})]
    edges = [edge_line(1, 0, 1, 0.0, rejected="shape")]

    values = _values(_charts(make_run(nodes, edges))["lost"])

    assert values == {"by ingress": [1], "dropped": [1], "late": [3]}


def test_many_honest_nodes_get_quantiles_instead_of_extremes(make_run):
    nodes = [node_line(1, node, node / 100, byzantine=False) for node in range(101)]

    chart = _charts(make_run(nodes, num_nodes=101))["accuracy"]

    assert chart.bands == [([0.05], [0.95]), ([0.25], [0.75])]


def test_single_nodes_are_packed_without_losing_what_can_be_seen(make_run):
    nodes = [node_line(1, 0, 0.123456), node_line(1, 1, None), node_line(2, 0, 1.0), node_line(2, 1, 0.0)]

    curves = _charts(make_run(nodes))["accuracy"].nodes

    assert curves.nodes == [0, 1]
    values = np.frombuffer(base64.b64decode(curves.packed), dtype="<u2").reshape(2, 2)
    assert values[0] / 65534 == pytest.approx([0.123456, 1.0], abs=1e-5)
    assert values[1].tolist() == [65535, 0]


def test_of_very_many_nodes_the_worst_at_the_end_get_a_curve(make_run):
    n = 200
    nodes = [node_line(1, node, (node * 7 % n) / n, byzantine=False) for node in range(n)]

    run = read_run(make_run(nodes, num_nodes=n))

    assert nodes_on_demand(run) == sorted(node for node in range(n) if node * 7 % n < 20)


def test_thinning_out_keeps_first_and_last():
    rounds = list(range(1, 1001))

    assert spread_out(rounds, 600)[0] == 1
    assert spread_out(rounds, 600)[-1] == 1000
    assert len(set(spread_out(rounds, 600))) == 600
    assert spread_out([5], 2) == [5]
