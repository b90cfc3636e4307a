"""Entries of the DFL-Dual study's tables: pooling seeds, and reading back what was written."""

import importlib.util
import sys
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

FOLDER = Path(__file__).parents[2] / "experiments" / "dfl_dual"

_spec = importlib.util.spec_from_file_location("dfl_dual_entries", FOLDER / "entries.py")
entries = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = entries
_spec.loader.exec_module(entries)

HEAD = "| data | model | attack | rule | accuracy | ASR | kept | seeds | seconds a run | paper |\n"
HEAD += "|---|---|---|---|---|---|---|---|---|---|\n"


def entry(runs):
    """Return the entry of accuracies and rates in per cent by seed."""
    accuracies, rates = [a for a, _ in runs.values()], [r for _, r in runs.values()]
    spreads = (entries.spread_of(accuracies, min), entries.spread_of(rates, max))
    return entries.Entry(frozenset(runs), *spreads, (fmean(rates) / 100, None), fmean(runs))


@given(
    runs=st.dictionaries(st.integers(0, 30), st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=7),
    data=st.data(),
)
def test_pooling_two_parts_of_the_seeds_gives_the_entry_of_all(runs, data):
    size = data.draw(st.integers(1, len(runs) - 1))
    parts = [dict(list(runs.items())[:size]), dict(list(runs.items())[size:])]

    got, whole = entries.pooled(*map(entry, parts)), entry(runs)

    assert got.seeds == whole.seeds
    for one, other in ((got.accuracy, whole.accuracy), (got.rate, whole.rate)):
        assert (one.mean, one.worst) == pytest.approx((other.mean, other.worst))
        assert one.deviation == pytest.approx(other.deviation, abs=1e-5)
    assert got.kept == (pytest.approx(whole.kept[0]), None)
    assert got.seconds == pytest.approx(whole.seconds)


def test_pooling_by_hand():
    # 80 and 82 have the mean 81 and s² = 2; with 90 the mean is 84 and s² = (16 + 4 + 36) / 2 = 28
    got = entries.pooled(entry({0: (80, 1), 1: (82, 3)}), entry({4: (90, 2)}))

    assert got.seeds == {0, 1, 4}
    assert got.accuracy == entries.Spread(84, pytest.approx(28**0.5), 80)
    assert got.rate == entries.Spread(2, pytest.approx(1), 3)


def test_a_seed_is_not_pooled_twice():
    with pytest.raises(ValueError, match="both have seed 3"):
        entries.pooled(entry({2: (80, 1), 3: (80, 1)}), entry({3: (80, 1)}))


@pytest.mark.parametrize(
    ("seeds", "text"),
    [((0,), "0"), ((0, 1), "0, 1"), ((0, 1, 2, 3, 4), "0 to 4"), ((0, 2, 3), "0, 2, 3"), ((20, 21, 22), "20 to 22")],
)
@pytest.mark.parametrize("rate", [None, "12.5"])
@pytest.mark.parametrize("kept", [(0.25, 1.0), (0.5,), (None, 0.75), (None,)])
def test_what_is_written_is_read_back(tmp_path, seeds, text, rate, kept):
    spread = entries.Spread(81.5, 1.5 if len(seeds) > 1 else 0.0, 79.0)
    one = entries.Entry(frozenset(seeds), spread, rate and spread, kept, 20.0)
    columns = entries.columns_of(one)
    (tmp_path / "table.md").write_text(f"# title\n\n{HEAD}| mnist | lr | none | dfl | {' | '.join(columns)} |  |\n")

    found = entries.read_entries(tmp_path / "table.md")

    assert columns[3] == text
    assert found == {("mnist", "lr", "", "none", "dfl"): one}


def test_other_tables_in_the_file_are_passed_over(tmp_path):
    columns = " | ".join(entries.columns_of(entry({0: (80, 1)})))
    text = f"| rule | highest ASR |\n|---|---|\n| dfl | high |\n\n{HEAD}| mnist | lr | none | dfl | {columns} |  |\n"
    (tmp_path / "table.md").write_text(text)

    assert [key[3:] for key in entries.read_entries(tmp_path / "table.md")] == [("none", "dfl")]
    assert entries.read_entries(tmp_path / "nothing.md") == {}


@pytest.mark.parametrize(
    "row", ["80.0 (80.0) | - | 1.00 | five | 3 |  |", "80,0 (80,0) | - | 1.00 | 5 | 3 |  |", "80.0 (80.0) | - |"]
)
def test_a_row_that_cannot_be_read_is_named(tmp_path, row):
    (tmp_path / "table.md").write_text(f"{HEAD}| mnist | lr | none | dfl | {row}\n")

    with pytest.raises(ValueError, match=r"table\.md, line 3: expected a row of data, model.*; got \| mnist"):
        entries.read_entries(tmp_path / "table.md")


def test_the_tables_that_come_with_the_study_can_be_added_to():
    tables = [path for path in (FOLDER / "results" / "standard").glob("*.md") if path.name != "figure3.md"]

    found = {table.stem: entries.read_entries(table) for table in tables}

    assert all(found.values())
    assert {20, 21} == set().union(*(one.seeds for one in found["held-out"].values()))
