"""The page of a sweep."""

import re
from pathlib import Path

import pytest

from flower_dfl.errors import DflError
from flower_dfl.report import write_report
from flower_dfl.report.sweep_page import sweep_page

from .conftest import GRID


def test_a_table_has_mean_and_worst_seed_and_marks_the_worst_attack(make_sweep):
    words, _ = sweep_page(make_sweep(GRID), Path())

    accuracy = words["tables"][0]
    assert (accuracy["title"], accuracy["attacks"]) == ("Honest accuracy", ["none", "scaling", "alie"])
    rows = dict(accuracy["rows"])
    assert [entry["mean"] for entry in rows["average"]] == ["85.0\u202f%", "40.0\u202f%", "65.0\u202f%"]
    assert rows["average"][1]["worst"] == "worst of 2 seeds 30.0\u202f%"
    assert [entry["is_worst_attack"] for entry in rows["average"]] == [False, True, False]
    assert rows["krum"] == [None, {"mean": "60.0\u202f%", "worst": "1 seed", "is_worst_attack": False}, None]


def test_the_worst_seed_of_an_attack_success_rate_is_the_largest(make_sweep):
    words, _ = sweep_page(make_sweep(GRID), Path())

    (_, (entry,)), _ = words["tables"][1]["rows"]
    assert words["tables"][1]["attacks"] == ["scaling"]
    assert (entry["mean"], entry["worst"]) == ("95.0\u202f%", "worst of 2 seeds 100.0\u202f%")


def test_curves_hold_the_mean_and_the_range_over_seeds(make_sweep):
    _, data = sweep_page(make_sweep(GRID), Path())

    (curve,) = [each for each in data["curves"] if (each["strategy"], each["attack"]) == ("average", "scaling")]
    assert data["rounds"] == [1, 2]
    assert curve["honest_accuracy_mean"]["mean"] == pytest.approx([0.2, 0.4])
    assert curve["honest_accuracy_mean"]["low"] == pytest.approx([0.15, 0.3])
    assert curve["honest_accuracy_mean"]["high"] == pytest.approx([0.25, 0.5])


def test_cells_that_are_not_complete_are_named_with_their_error(make_sweep):
    page = write_report(make_sweep(GRID)).read_text(encoding="utf-8")

    missing = page[page.index("Missing and failed cells") :]
    assert re.search(r"krum-scaling-seed1</th><td[^>]*>failed</td><td>it &lt;b&gt;broke&lt;/b&gt;", missing)
    assert "1 cell is not complete" in page


def test_links_lead_to_reports_that_exist(make_sweep, tmp_path):
    folder = make_sweep(GRID)
    (folder / "cells" / "average-none-seed0" / "run" / "report.html").write_text("")

    at_home = write_report(folder).read_text(encoding="utf-8")
    elsewhere = write_report(folder, tmp_path / "out" / "r.html").read_text(encoding="utf-8")

    links = [re.findall(r'href="([^#d"][^"]*)"', page) for page in (at_home, elsewhere)]
    assert links == [
        ["cells/average-none-seed0/run/report.html"],
        ["../sweep/cells/average-none-seed0/run/report.html"],
    ]


def test_settings_that_differ_otherwise_get_tables_of_their_own(make_sweep):
    cells = [("average", "scaling", 0, 0.5, None), ("average", "scaling", 1, 0.7, None)]

    words, data = sweep_page(make_sweep(cells, **{"average-scaling-seed1": {"train__lr": 0.2}}), Path())

    titles = [table["title"] for table in words["tables"] if table["rows"]]
    assert titles == ["Honest accuracy, train.lr = 0.05", "Honest accuracy, train.lr = 0.2"]
    assert [curve["setting"] for curve in data["curves"]] == ["train.lr = 0.05", "train.lr = 0.2"]


def test_parameters_are_named_where_they_tell_rules_apart(make_sweep):
    cells = [("multi-krum", "alie", 0, 0.5, None), ("multi-krum", "alie", 1, 0.7, None), ("krum", "alie", 0, 0.6, None)]

    words, data = sweep_page(make_sweep(cells, **{"multi-krum-alie-seed1": {"strategy__params": "m = 2"}}), Path())

    assert [row for row, _ in words["tables"][0]["rows"]] == ["multi-krum", "multi-krum, m = 2", "krum"]
    assert words["strategies"] == [row for row, _ in words["tables"][0]["rows"]]
    assert [curve["strategy"] for curve in data["curves"]] == words["strategies"]


def test_a_sweep_without_a_complete_cell_says_so(make_sweep):
    page = write_report(make_sweep([("krum", "alie", 0, None, None)])).read_text(encoding="utf-8")

    assert "No cell is complete." in page


def test_a_cell_with_a_broken_record_is_named(make_sweep):
    folder = make_sweep([("krum", "alie", 0, 0.5, None)])
    (folder / "cells" / "krum-alie-seed0" / "run" / "rounds.jsonl").write_text('{"round": 1}\n')

    with pytest.raises(DflError, match=r"krum-alie-seed0.run holds a record that lacks something"):
        write_report(folder)
