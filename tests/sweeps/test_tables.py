import csv
import json
from dataclasses import replace

import pyarrow.parquet
import pytest

from flower_dfl.errors import ConfigurationError, DflError
from flower_dfl.sweeps.formats import to_latex, to_markdown, to_text, write_csv, write_parquet
from flower_dfl.sweeps.tables import (
    METRICS,
    Entry,
    aggregate,
    differing_keys,
    measure,
    notes,
    read_cells,
    tidy,
    unfinished_cells,
)
from tests.sweeps.conftest import write_run

# Accuracies by rule, attack and seed. By hand, for krum against ipm: mean (0.2 + 0.4 + 0.9) / 3 = 0.5; squared
# distances from it 0.09 + 0.01 + 0.16 = 0.26, over 3 - 1 is 0.13, root 0.360555...; worst 0.2 of seed 0.
ACCURACIES = {
    ("krum", "ipm"): (0.2, 0.4, 0.9),
    ("krum", "alie"): (0.5, 0.3, 0.7),  # mean 0.5, squares 0 + 0.04 + 0.04, spread 0.2, worst 0.3 of seed 1
    ("krum", "none"): (0.1, 0.1, 0.1),  # the lowest, but no attack
    ("median", "ipm"): (0.6, 0.6, 0.6),
    ("median", "alie"): (0.6, 0.9, 0.9),
    ("median", "none"): (0.9, 0.9, 0.9),
}
RATES = {("krum", "ipm"): (0.1, 0.2, 0.3), ("krum", "alie"): (0.4, 0.0, 0.2)}


def write_cells(folder, accuracies=ACCURACIES, **extra):
    for (strategy, attack), values in accuracies.items():
        for seed, accuracy in enumerate(values):
            rates = RATES.get((strategy, attack), (None,) * 3)
            write_run(
                folder / f"{strategy}-{attack}-{seed}",
                {"strategy.name": strategy, "attack.name": attack, "seed": seed, **extra},
                {"honest_accuracy_mean": accuracy, "attack_success_rate_max": rates[seed], "seconds_total": 2.0},
            )
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_cells(tmp_path)


def test_the_numbers_of_an_entry_are_those_worked_by_hand(folder):
    table = aggregate(read_cells(folder), "honest_accuracy_mean")

    entry = table.entries[("krum",), ("ipm",)]
    assert (entry.mean, entry.spread) == pytest.approx((0.5, 0.3605551275463989))
    assert (entry.worst, entry.worst_seed, entry.seeds) == (0.2, 0, 3)
    entry = table.entries[("krum",), ("alie",)]
    assert (entry.mean, entry.spread) == pytest.approx((0.5, 0.2))
    assert (entry.worst, entry.worst_seed, entry.seeds) == (0.3, 1, 3)


def test_of_an_attack_success_rate_the_highest_is_the_worst(folder):
    table = aggregate(read_cells(folder), "attack_success_rate_max")

    assert table.entries[("krum",), ("ipm",)] == Entry(pytest.approx(0.2), pytest.approx(0.1), 0.3, 2, 3)
    assert table.entries[("krum",), ("alie",)] == Entry(pytest.approx(0.2), pytest.approx(0.2), 0.4, 0, 3)
    assert table.worst_attacks == {(("krum",), ("alie",))}
    assert (("median",), ("ipm",)) not in table.entries


def test_the_worst_attack_on_a_rule_has_the_lowest_worst_seed_and_is_an_attack(folder):
    worst = aggregate(read_cells(folder), "honest_accuracy_mean").worst_attacks

    assert worst == {(("krum",), ("ipm",)), (("median",), ("ipm",)), (("median",), ("alie",))}


def test_attacks_are_compared_on_the_same_rule_wherever_they_stand(folder):
    table = aggregate(read_cells(folder), "honest_accuracy_mean", rows=["attack.name", "strategy.name"], columns=[])

    assert table.rows[0] == ("alie", "krum")
    assert {row for row, _ in table.worst_attacks} == {("ipm", "krum"), ("ipm", "median"), ("alie", "median")}


def test_a_single_seed_has_no_spread(tmp_path):
    write_cells(tmp_path, {("krum", "ipm"): (0.25,)})

    assert aggregate(read_cells(tmp_path), "honest_accuracy_mean").entries[("krum",), ("ipm",)] == Entry(
        0.25, None, 0.25, 0, 1
    )


def test_cells_that_differ_in_more_than_the_seed_are_not_averaged(folder):
    write_run(folder / "other", {"strategy.name": "krum", "attack.name": "ipm", "seed": 3, "train.lr": 0.5}, {})

    with pytest.raises(ConfigurationError, match=r"krum / ipm cannot be averaged.*: train.lr = 0.05, 0.5; add it to"):
        aggregate(read_cells(folder), "honest_accuracy_mean")


def test_what_is_in_the_columns_may_differ(folder):
    write_run(
        folder / "other", {"strategy.name": "krum", "attack.name": "ipm", "seed": 3, "train.lr": 0.5},
        {"honest_accuracy_mean": 1.0},
    )  # fmt: skip

    table = aggregate(read_cells(folder), "honest_accuracy_mean", columns=["attack", "train.lr"])

    assert table.entries[("krum",), ("ipm", "0.5")].mean == 1.0
    assert table.unexplained == ()


def test_parameters_belong_to_their_component_in_rows(tmp_path):
    for m in (2, 3):
        settings = {"strategy.name": "multi-krum", "strategy.params": {"m": m}, "attack.name": "ipm"}
        write_run(tmp_path / f"m{m}", settings, {"honest_accuracy_mean": m / 10})

    table = aggregate(read_cells(tmp_path), "honest_accuracy_mean")

    assert table.rows == (("multi-krum, m = 2",), ("multi-krum, m = 3",))
    with pytest.raises(ConfigurationError, match=r"strategy\.params = m = 2, m = 3"):
        aggregate(read_cells(tmp_path), "honest_accuracy_mean", rows=["strategy.name"])


def test_a_group_of_settings_in_a_row_shows_those_that_differ(tmp_path):
    for lr in (0.1, 0.2):
        write_run(tmp_path / f"{lr}", {"train.lr": lr}, {"honest_accuracy_mean": 0.5})

    assert aggregate(read_cells(tmp_path), "honest_accuracy_mean", rows=["train"]).rows == (
        ("lr = 0.1",),
        ("lr = 0.2",),
    )


def test_entries_that_differ_in_something_that_is_not_shown_are_told(tmp_path):
    write_cells(tmp_path, {("krum", "ipm"): (0.5,)})
    write_cells(tmp_path, {("median", "ipm"): (0.5,)}, **{"train.lr": 0.5})

    table = aggregate(read_cells(tmp_path), "honest_accuracy_mean")

    assert table.unexplained == ("train.lr",)
    assert "entries also differ in train.lr" in to_text(table)


def test_the_same_cell_does_not_count_twice(folder):
    write_run(folder / "x" / "again", {"strategy.name": "krum", "attack.name": "ipm", "seed": 1}, {})

    with pytest.raises(ConfigurationError, match="krum-ipm-1 and x/again are the same cell; it would count twice"):
        aggregate(read_cells(folder), "honest_accuracy_mean")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "accuracy"}, "unknown metric 'accuracy'.* Valid: .*honest_accuracy_mean"),
        ({"metric": "seconds_total", "rows": ["stratgy"]}, "unknown row or column 'stratgy'. Did you mean 'strategy'"),
        ({"metric": "seconds_total", "columns": ["sed"]}, "unknown row or column 'sed'. Did you mean 'seed'"),
    ],
)
def test_unknown_names_are_errors_that_list_the_valid_ones(folder, arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        aggregate(read_cells(folder), **arguments)


def test_runs_that_are_not_complete_are_not_averaged_but_told(folder):
    write_run(folder / "late", {"seed": 7}, {"honest_accuracy_mean": 0.0}, status="interrupted")

    complete, unfinished = read_cells(folder), unfinished_cells(folder)

    assert len(complete) == 18
    assert [cell.name for cell in unfinished] == ["late"]
    assert notes(complete, unfinished) == [
        "18 of 19 cells complete, seeds 0 to 2", "not complete: late (interrupted)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seeds", "said"),
    [([0, 1, 2], "seeds 0 to 2"), ([3, 4], "seeds 3 to 4"), ([0, 7], "seeds 0, 7"), ([5], "seed 5")],
)
def test_only_seeds_that_follow_one_another_are_a_range(tmp_path, seeds, said):
    for seed in seeds:
        write_run(tmp_path / str(seed), {"seed": seed}, {"honest_accuracy_mean": 0.0})

    assert notes(read_cells(tmp_path), [])[0] == f"{len(seeds)} of {len(seeds)} cells complete, {said}"


def test_cells_of_different_code_are_told(folder):
    for name, code in (("krum-ipm-0", "0.1.0+aa"), ("krum-ipm-1", "0.1.0+bb")):
        (folder / name / "environment.json").write_text(json.dumps({"code_version": code}))

    assert "made by different versions of the code: 0.1.0+aa, 0.1.0+bb, unknown" in notes(read_cells(folder), [])


def test_a_folder_without_runs_is_an_error(tmp_path):
    with pytest.raises(ConfigurationError, match=r"expected a sweep or a folder with runs, but .* holds neither"):
        read_cells(tmp_path)


def test_differing_keys_come_in_the_order_of_the_configuration(folder):
    assert differing_keys(read_cells(folder)) == ["seed", "strategy.name", "attack.name"]
    assert differing_keys([]) == []


def test_the_best_round_is_found_in_the_records(folder):
    run = folder / "krum-ipm-0"
    accuracies = {1: (0.25, 0.5, 0.9), 2: (0.75, 0.5, 0.9), 3: (None, None, None), 4: (0.375, 0.5, 1)}
    same = {"attack_success_rate": None, "diverged": False, "distance_to_mean": None, "rejected": 0}
    lines = [
        {"round": number, "node": node, "byzantine": node == 2, "accuracy": accuracy, **same}
        for number, values in accuracies.items()
        for node, accuracy in enumerate(values)
    ]
    (run / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (cell,) = [cell for cell in read_cells(folder) if cell.folder == run]

    metrics = measure(cell)

    assert metrics["honest_accuracy_mean_best"] == 0.625  # round 2, of nodes 0 and 1
    assert metrics["honest_accuracy_min_best"] == 0.5
    for key in ("eval.nodes", "eval.samples"):  # then earlier rounds are measured otherwise than the last
        sampled = measure(replace(cell, settings={**cell.settings, key: 2}))
        assert sampled["honest_accuracy_min_best"] is sampled["honest_accuracy_mean_best"] is None
    assert metrics["honest_accuracy_mean"] == 0.2  # the summary's, after the last round
    assert metrics["honest_kept"] is None
    assert aggregate([cell], "honest_accuracy_mean_best").entries[("krum",), ("ipm",)].mean == 0.625


def test_diverged_nodes_are_counted(tmp_path):
    write_run(tmp_path / "run", {}, {"diverged_nodes": [1, 4]})

    assert measure(read_cells(tmp_path)[0])["diverged_nodes"] == 2


def test_a_text_table_shows_mean_spread_worst_and_number_of_seeds(folder):
    lines = to_text(aggregate(read_cells(folder), "honest_accuracy_mean"), ["a note"]).splitlines()

    assert lines == [
        "strategy / attack  alie                     ipm                      none",
        "krum               50.0 ± 20.0 (30.0; 3)    50.0 ± 36.1 (20.0; 3) *  10.0 ± 0.0 (10.0; 3)",
        "median             80.0 ± 17.3 (60.0; 3) *  60.0 ± 0.0 (60.0; 3) *   90.0 ± 0.0 (90.0; 3)",
        "",
        "honest_accuracy_mean in per cent: mean, sample standard deviation (worst seed; number of seeds)",
        "*: the attack with the lowest worst seed",
        "a note",
    ]  # fmt: skip


def test_a_markdown_table(folder):
    lines = to_markdown(aggregate(read_cells(folder), "attack_success_rate_max"), ["a note"]).splitlines()

    assert lines == [
        "| strategy / attack | alie | ipm | none |",
        "| --- | --- | --- | --- |",
        "| krum | **20.0 ± 20.0 (40.0; 3)** | 20.0 ± 10.0 (30.0; 3) | - |",
        "| median | - | - | - |",
        "",
        "- attack_success_rate_max in per cent: mean, sample standard deviation (worst seed; number of seeds)",
        "- Bold: the attack with the highest worst seed",
        "- a note",
    ]


def test_a_latex_table_escapes_what_latex_would_read(tmp_path):
    settings = {"strategy.name": "my_rules:A&B", "attack.name": "ipm"}
    write_run(tmp_path / "run", settings, {"seconds_total": 1234.5678})

    lines = to_latex(aggregate(read_cells(tmp_path), "seconds_total"), ["a note"]).splitlines()

    assert lines == [
        "% seconds_total: mean, sample standard deviation (worst seed; number of seeds)",
        "% a note",
        "\\begin{tabular}{ll}",
        "\\hline",
        "strategy / attack & ipm \\\\",
        "\\hline",
        "my\\_rules:A\\&B & 1235 $\\pm$ - (1235; 1) \\\\",
        "\\hline",
        "\\end{tabular}",
    ]


def test_a_metric_that_no_cell_has_is_told(folder):
    assert "byzantine_kept is not defined for any of these cells" in to_text(
        aggregate(read_cells(folder), "byzantine_kept")
    )


def test_the_tidy_table_has_a_row_for_every_cell_and_reads_back(folder, tmp_path):
    rows = tidy(read_cells(folder))
    write_csv(rows, tmp_path / "t.csv")
    write_parquet(rows, tmp_path / "t.parquet")

    assert list(rows[0]) == ["name", "folder", "seed", "strategy.name", "attack.name", *METRICS]
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert len(read) == 18
    assert read[0]["name"] == "krum-alie-0"
    assert (read[0]["honest_accuracy_mean"], read[0]["byzantine_kept"]) == ("0.5", "")
    assert pyarrow.parquet.read_table(tmp_path / "t.parquet").to_pylist() == rows


@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_a_file_that_cannot_be_written_is_an_error(folder, tmp_path, write):
    with pytest.raises(DflError, match="cannot write"):
        write(tidy(read_cells(folder)), tmp_path / "nowhere" / "file")
