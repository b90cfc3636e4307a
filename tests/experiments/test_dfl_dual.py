"""The DFL-Dual study: what its tables consist of, and that one command makes one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w
import torch

from flower_dfl.config import nest, parse
from flower_dfl.experiment import build_rules
from flower_dfl.figures.lines import draw_lines

HERE = Path(__file__).resolve().parents[2] / "experiments" / "dfl_dual"


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    names = ("study", "published", "entries", "reporting", "running", "dummies", "features", "patches")
    before = {name: sys.modules.pop(name, None) for name in names}
    import study

    yield study
    for name in names:
        sys.modules.pop(name, None)
        if before[name] is not None:
            sys.modules[name] = before[name]


def all_cells(study, profile):
    return [cell for one in study.STUDIES.values() for cell in study.cells_of(one, profile, seeds=(0,))]


@pytest.mark.parametrize("profile", ["smoke", "standard", "paper"])
def test_every_cell_can_be_built(study, profile):
    cells = all_cells(study, profile)

    for settings in {str(sorted(cell.plan.settings.items())): cell.plan.settings for cell in cells}.values():
        build_rules(parse(settings))
    assert cells


def test_a_name_stands_for_one_run_in_all_studies(study):
    cells = all_cells(study, "standard")

    by_name = {cell.plan.name: cell.plan.hash for cell in cells}
    assert all(by_name[cell.plan.name] == cell.plan.hash for cell in cells)
    assert len(by_name) < len(cells)  # some occur twice, and are run once


def test_every_published_number_has_a_cell_beside_it(study):
    from published import PUBLISHED, SUSPICIOUS

    attacks = {"alie": "alie, z = 4"}
    planned = {
        (cell.data, cell.model, cell.attack, cell.rule)
        for one in study.STUDIES.values()
        for cell in study.cells_of(one, "paper", seeds=(0,))
    }
    wanted = {(data, model, attacks.get(attack, attack), rule) for data, model, attack, rule in PUBLISHED}
    assert wanted <= planned
    assert set(SUSPICIOUS) <= set(PUBLISHED)


def test_paper_numbers_are_where_the_paper_has_them(study):
    from published import PUBLISHED

    assert PUBLISHED["mnist", "lr", "label-flip", "dfl"] == "15.40"
    assert PUBLISHED["fashion-mnist", "fc", "back-gradient", "dfl-dual"] == "81.99"
    assert PUBLISHED["fashion-mnist", "cnn", "scaling", "multi-krum"] == "98.44 / 2.55"
    assert PUBLISHED["cifar10", "resnet18", "dba", "dfl-dual, without TB"] == "47.78 / 4.42"
    assert len(PUBLISHED) == 21 * 5 + 5 + 21 * 3 + 9 * 3


def test_attackers_that_adapt_know_the_rule_that_they_meet(study):
    cells = [cell for cell in study.cells_of(study.STUDIES["anchored"], "standard", seeds=(0,))
             if cell.attack == "rule-in-the-loop"]  # fmt: skip

    for cell in cells:
        strategy, attack = build_rules(parse(cell.plan.settings))
        assert attack.rule == strategy
    assert {cell.rule for cell in cells} == {"dfl", "dfl-dual", "trust-anchored", "trust-anchored, swept"}


def test_only_a_cnn_meets_a_lighter_back_gradient(study):
    cells = study.cells_of(study.STUDIES["table1"], "standard", attacks=("back-gradient",), rules=("dfl",), seeds=(0,))

    steps = {cell.model: parse(cell.plan.settings).attack.params["outer_steps"] for cell in cells}
    assert steps == {"lr": 3, "fc": 3, "cnn": 1}


def test_a_study_is_restricted_to_what_is_named(study):
    cells = list(
        study.cells_of(
            study.STUDIES["table2"],
            "standard",
            models=("fc",),
            data=("fashion-mnist",),
            attacks=("dba",),
            rules=("dfl", "oracle"),
            seeds=(7,),
        )
    )

    assert [cell.plan.name for cell in cells] == [
        "fashion-mnist, fc, dba, dfl, seed 7",
        "fashion-mnist, fc, dba, oracle, seed 7",
    ]


def complete(folder, cell, *, edges=(), byzantine=(), **summary):
    """Write down a run of a cell."""
    run = folder / "cells" / cell.plan.folder / "20260101-000000"
    run.mkdir(parents=True)
    for path in (run.parent / "settings.toml", run / "config.toml"):
        path.write_text(tomli_w.dumps(nest(cell.plan.settings)), encoding="utf-8")
    (run / "summary.json").write_text(json.dumps({"status": "completed", "seconds_total": 20.0, **summary}))
    nodes = {node for edge in edges for node in (edge["sender"], edge["receiver"])}
    rounds = [{"round": 1, "node": node, "byzantine": node in byzantine, "accuracy": None} for node in nodes]
    for name, lines in (("rounds", rounds), ("edges", edges)):
        (run / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_table_has_mean_spread_and_worst_seed_and_the_papers_numbers(study, tmp_path):
    import reporting

    cells = [
        cell
        for cell in study.cells_of(study.STUDIES["table2"], "standard", models=("cnn",), data=("fashion-mnist",))
        if cell.attack == "scaling" and cell.rule == "multi-krum"
    ]
    for cell, accuracy, rate in zip(cells, (0.80, 0.82), (0.02, 0.04), strict=False):
        complete(
            tmp_path,
            cell,
            honest_accuracy_mean=accuracy,
            attack_success_rate_mean=rate,
            honest_kept=0.95,
            byzantine_kept=0.1,
        )

    (path,) = reporting.write_study("table2", cells, tmp_path, tmp_path / "out")

    text = path.read_text(encoding="utf-8")
    assert "2 of 5 runs complete, 1 minutes" in text
    row = next(line for line in text.splitlines() if "multi-krum" in line)
    # sample deviation of 80 and 82: sqrt(2)
    assert "| 81.0 ± 1.4 (80.0) | 3.0 ± 1.4 (4.0) | 0.95 / 0.10 | 0, 1 | 20 | 98.44 / 2.55 ? |" in row


def test_seeds_are_added_to_the_table_that_is_there(study, tmp_path):
    import reporting

    chosen = {"data": ("fashion-mnist",), "models": ("fc",), "rules": ("dfl",), "attacks": ("scaling",)}
    cells = [cell for cell in study.cells_of(study.STUDIES["figure4"], "standard", **chosen) if cell.seed < 3]
    shares = sorted({cell.variation for cell in cells})[:2]
    accuracies = {(shares[0], 0): 0.80, (shares[0], 1): 0.82, (shares[0], 2): 0.90, (shares[1], 2): 0.70}
    runs = {(cell.variation, cell.seed): cell for cell in cells}

    def run(where, *keys):
        for key in keys:
            complete(tmp_path / where, runs[key], honest_accuracy_mean=accuracies[key], attack_success_rate_mean=0.5)
        table = reporting.write_study("figure4", cells, tmp_path / where, tmp_path / "out", add=True)[0]
        rows = [line for line in table.read_text(encoding="utf-8").splitlines() if "| dfl |" in line]
        return [row.split(" | ")[5:9:3] for row in rows]

    one, two = (shares[0], 0), (shares[0], 1)
    assert run("first", one, two) == [["81.0 ± 1.4 (80.0)", "0, 1"]]
    # a seed that the table has does not count twice, others are added
    added = [["84.0 ± 5.3 (80.0)", "0 to 2"], ["70.0 (70.0)", "2"]]
    assert run("second", two, (shares[0], 2), (shares[1], 2)) == added
    assert run("none") == added
    # all its seeds are at hand
    accuracies[one] = 0.84
    assert run("second", one)[0] == ["85.3 ± 4.2 (82.0)", "0 to 2"]


def test_a_figure_shows_the_seeds_of_the_table_not_only_those_at_hand(study, tmp_path, monkeypatch):
    import reporting

    drawn = []
    monkeypatch.setattr(reporting, "draw_lines", lambda *args: drawn.append(args) or draw_lines(*args))
    chosen = {"data": ("fashion-mnist",), "models": ("fc",), "rules": ("dfl",), "seeds": (0, 1)}
    cells = list(study.cells_of(study.STUDIES["figure4"], "standard", **chosen))
    for cell in cells:
        rate = {"40 % Byzantine": 0.5}.get(cell.variation, 0.25) + 0.25 * cell.seed
        metrics = {"honest_accuracy_mean": 0.9, "attack_success_rate_mean": rate}
        complete(tmp_path / str(cell.seed), cell, **metrics)

    for seed in "01":
        written = reporting.write_study("figure4", cells, tmp_path / seed, tmp_path / "out", add=True)

    assert [path.name for path in written] == ["figure4.md", "figure4.png"]
    panels, x, *_, band = drawn[-1]
    assert (x, band) == ("byzantine-share", "deviation")
    ((line,),) = (panel.lines for panel in panels)
    assert [point.x for point in line.points] == [0.2, 0.4, 0.6, 0.8]
    point, deviation = line.points[1], 0.125 * 2**0.5  # of 0.5 and 0.75
    assert (point.mean, point.count) == pytest.approx((0.625, 2))
    assert (point.low, point.high) == pytest.approx((0.625 - deviation, 0.625 + deviation))


def test_curves_over_rounds_are_drawn_when_all_runs_are_at_hand(study, tmp_path):
    import reporting

    chosen = {"data": ("mnist",), "models": ("lr",), "rules": ("dfl",), "seeds": (0, 1)}
    cells = list(study.cells_of(study.STUDIES["figure2"], "standard", **chosen))
    for cell in cells:
        complete(tmp_path / str(cell.seed), cell, honest_accuracy_mean=0.9)
        (rounds,) = (tmp_path / str(cell.seed)).rglob("rounds.jsonl")
        rounds.write_text(json.dumps({"round": 3, "node": 0, "byzantine": False, "accuracy": 0.9}) + "\n")

    first = reporting.write_study("figure2", cells, tmp_path / "0", tmp_path / "out", add=True)
    second = reporting.write_study("figure2", cells, tmp_path / "1", tmp_path / "out", add=True)

    assert [path.name for path in first] == ["figure2.md", "figure2.png"]
    assert [path.name for path in second] == ["figure2.md"]


def test_one_place_is_no_curve(study, tmp_path):
    import reporting

    chosen = {"data": ("fashion-mnist",), "models": ("fc",), "rules": ("dfl",), "seeds": (0,)}
    first, second, *_ = study.cells_of(study.STUDIES["figure4"], "standard", **chosen)
    metrics = {"honest_accuracy_mean": 0.9, "attack_success_rate_mean": 0.5}

    complete(tmp_path, first, **metrics)
    one = reporting.write_study("figure4", [first, second], tmp_path, tmp_path / "out")
    complete(tmp_path, second, **metrics)
    two = reporting.write_study("figure4", [first, second], tmp_path, tmp_path / "out")

    assert [path.name for path in one] == ["figure4.md"]
    assert [path.name for path in two] == ["figure4.md", "figure4.png"]


def test_without_an_attack_all_neighbours_are_honest(study, tmp_path):
    import reporting

    chosen = {"data": ("fashion-mnist",), "models": ("fc",), "rules": ("dfl",), "seeds": (0,)}
    (cell,) = study.cells_of(study.STUDIES["anchored"], "standard", attacks=("none",), **chosen)
    kept = [(0, 1, 0.5), (0, 2, 0.5), (0, 0, 0.0), (1, 0, 0.5), (1, 2, 0.0), (2, 0, 0.0), (2, 1, 0.0)]
    edges = [{"round": 1, "receiver": r, "sender": s, "weight": w, "scores": {}} for r, s, w in kept]
    complete(tmp_path, cell, edges=edges, byzantine=[2], honest_accuracy_mean=0.9, honest_kept=1.0, byzantine_kept=0.5)

    path = reporting.write_study("anchored", [cell], tmp_path, tmp_path / "out")[0]

    # into nodes 0 and 1 from others: three of four; node 2 would be Byzantine under attack
    assert "| none | dfl | 90.0 (90.0) | - | 0.75 | 0 |" in path.read_text(encoding="utf-8")


def test_the_worst_of_all_attacks_stands_above_the_table(study, tmp_path):
    import reporting

    attacks = {"none": (0.9, None), "backdoor": (0.7, 0.1), "label-flip": (0.6, None), "drip 0.4": (0.8, 0.3)}
    cells = list(
        study.cells_of(
            study.STUDIES["frontier"], "standard", attacks=tuple(attacks), rules=("trust-anchored",), seeds=(0, 1)
        )
    )
    for cell in cells:
        if cell.seed == 1 and cell.attack != "none":
            continue
        accuracy, rate = attacks[cell.attack]
        complete(tmp_path, cell, honest_accuracy_mean=accuracy, attack_success_rate_mean=rate)

    path = reporting.write_study("frontier", cells, tmp_path, tmp_path / "out")[0]

    worst = "90.0 ± 0.0 (90.0) | 60.0 (60.0), label-flip | 30.0 (30.0), drip 0.4 |"
    assert f"| fashion-mnist | fc |  | trust-anchored | 1 to 2 | {worst}" in path.read_text(encoding="utf-8")


def test_the_frontier_is_drawn_from_its_table_and_is_about_attacks(study, tmp_path):
    import reporting
    from entries import Entry, Key, Spread

    found = {  # accuracy and attack success rate, in per cent
        ("none", "krum"): (10, None),  # no attack is no worst case
        ("none", "ios"): (90, None),
        ("label-flip", "krum"): (60, None),
        ("label-flip", "ios"): (70, None),
        ("backdoor", "krum"): (80, 20),
        ("backdoor", "ios"): (65, 40),
        ("backdoor", "oracle"): (85, 1),
        ("drip 0.4", "krum"): (1, 99),  # ios has met other seeds
        ("drip 0.4", "ios"): (1, 99),
        ("scaling", "krum"): (2, 98),  # and this attack not at all
    }
    entries = {}
    for (attack, rule), (accuracy, rate) in found.items():
        seeds = frozenset({0} if (attack, rule) == ("drip 0.4", "ios") else {0, 1})
        spreads = [None if value is None else Spread(value, 0.0, value) for value in (accuracy, rate)]
        entries[Key("fashion-mnist", "fc", "", attack, rule)] = Entry(seeds, *spreads, (), 1.0)

    figure = reporting._frontier(entries)

    (axes,) = figure.axes
    points = {tuple(map(float, point)) for group in axes.collections for point in group.get_offsets()}
    assert points == {(0.2, 0.6), (0.4, 0.65), (0.01, 0.85)}
    assert axes.get_xlabel() == "attack success rate, worst of 2 attacks"
    assert reporting._frontier({key: e for key, e in entries.items() if key.attack == "label-flip"}) is None


def test_a_study_without_backdoors_has_no_worst_attack_success(study, tmp_path):
    import reporting

    cells = list(study.cells_of(study.STUDIES["untargeted"], "standard", rules=("dfl",), attacks=("ipm",), seeds=(0,)))
    complete(tmp_path, cells[0], honest_accuracy_mean=0.5, attack_success_rate_mean=None)

    (table,) = reporting.write_study("untargeted", cells, tmp_path, tmp_path / "out")

    assert "| fashion-mnist | fc |  | dfl | 1 | - | 50.0 (50.0), ipm | - |" in table.read_text()


def test_the_two_halves_of_what_a_rule_is_judged_by_share_only_what_everybody_meets(study):
    halves = [set(study.STUDIES[name].attacks) for name in ("anchored", "untargeted")]

    assert halves[0] & halves[1] == {"label-flip"}


def test_rules_are_compared_on_attacks_and_seeds_that_all_of_them_have_met(study, tmp_path):
    import reporting

    wanted = study.cells_of(study.STUDIES["frontier"], "standard", rules=("krum", "median"), seeds=(0, 1, 2))
    cells = {(cell.rule, cell.attack, cell.seed): cell for cell in wanted}
    both = [(rule, attack, 0) for rule in ("krum", "median") for attack in ("none", "backdoor")]
    alone = [("krum", "drip 0.4", 0), ("krum", "none", 1), ("krum", "backdoor", 1), ("median", "none", 1)]
    only_none = [("krum", "none", 2), ("median", "none", 2)]
    run = [cells[key] for key in (*both, *alone, *only_none)]

    fair = reporting.comparable([reporting.Result(cell, tmp_path, {}) for cell in run])

    assert [(r.cell.rule, r.cell.attack, r.cell.seed) for r in fair] == both
    assert reporting.comparable([]) == []


def test_the_matrix_holds_what_all_rules_have_met_but_for_those_that_nobody_can_influence(study, tmp_path):
    import reporting

    cells = {
        (cell.rule, cell.attack, cell.seed): cell
        for cell in study.cells_of(study.STUDIES["matrix"], "standard", rules=("krum", "ios", "oracle"), seeds=(0, 1))
    }
    met = {  # accuracy and attack success rate of krum and ios
        "scaling": ((0.8, 0.9), (0.7, 0.2)),
        "ipm": ((0.4, None), (0.6, None)),
    }
    for attack, pair in met.items():
        for rule, (accuracy, rate) in zip(("krum", "ios"), pair, strict=True):
            complete(tmp_path, cells[rule, attack, 0], honest_accuracy_mean=accuracy, attack_success_rate_mean=rate)
    complete(tmp_path, cells["oracle", "scaling", 0], honest_accuracy_mean=0.9, attack_success_rate_mean=0.0)
    for alone in (("krum", "dba", 0), ("krum", "scaling", 1)):
        complete(tmp_path, cells[alone], honest_accuracy_mean=0.1, attack_success_rate_mean=0.1)

    table, picture = reporting.write_study("matrix", list(cells.values()), tmp_path, tmp_path / "out")

    text = table.read_text(encoding="utf-8")
    assert f"5 of {len(cells)} runs complete" in text
    assert "| fashion-mnist | fc |  | krum | 1 | - | 40.0 (40.0), ipm | 90.0 (90.0), scaling |" in text
    assert "dba" not in text
    assert picture.name == "matrix.png"
    rates, accuracies = reporting._matrices(reporting.earlier_entries("matrix", list(cells.values()), table.parent))
    assert rates.rules == accuracies.rules == ("oracle", "ios", "krum")  # on average 1, 0.7 and 0.25 good
    assert rates.values == {("krum", "scaling"): 0.9, ("ios", "scaling"): 0.2, ("oracle", "scaling"): 0.0}
    assert accuracies.values == {("krum", "ipm"): 0.4, ("ios", "ipm"): 0.6}


@pytest.mark.parametrize(("honest", "byzantine", "separated"), [(0.9, 0.1, 1.0), (0.1, 0.9, 0.0), (0.5, 0.5, 0.5)])
def test_a_feature_separates_who_looks_worse(study, tmp_path, honest, byzantine, separated):
    import features
    import reporting

    (cell,) = study.cells_of(
        study.STUDIES["frontier"], "standard", attacks=("backdoor",), rules=("dfl-dual",), seeds=(0,)
    )
    edges = [
        {"round": 1, "receiver": 0, "sender": sender, "scores": {"trust": trust}}
        for sender, trust in ((0, 1.0), (1, honest), (2, byzantine))
    ]
    complete(tmp_path, cell, edges=edges, byzantine={2})

    results = reporting.read_results([cell], tmp_path)

    assert features.separation(results, "trust", features.FEATURES["trust"], 1) == separated
    assert features.separation(results, "trust", features.FEATURES["trust"], 2) is None


def test_a_study_whose_runs_fail_says_so(tmp_path):
    command = [sys.executable, str(HERE / "reproduce.py"), "figure2", "--models", "lr", "--data", "mnist"]
    command += ["--seeds", "0", "--jobs", "1", "--rules", "dfl"]
    command += ["--results-dir", str(tmp_path / "runs"), "--output-dir", str(tmp_path / "out")]
    (tmp_path / "no data").mkdir()

    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "FLOWER_DFL_DATA": str(tmp_path / "no data")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 1
    nothing = f"figure2: no run is complete in {tmp_path / 'runs' / 'standard'}; nothing is written"
    assert nothing in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--attacks", "krum-attack"],
            "--attacks: 'krum-attack' is in none of these studies; there are ['back-gradient', '",
        ),
        (
            ["--data", "fashionmnist"],
            "--data: 'fashionmnist' is in none of these studies; there are ['fashion-mnist', 'mnist']",
        ),
        (["--models", "lr", "--data", "fashion-mnist"], "the studies have no run in which all of these meet"),
    ],
)
def test_a_name_that_no_study_has_is_an_error(tmp_path, options, message):
    command = [sys.executable, str(HERE / "reproduce.py"), "table1", *options, "--only-write"]

    done = subprocess.run(
        [*command, "--output-dir", str(tmp_path / "out")],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip

    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_table_that_cannot_be_added_to_is_an_error_before_anything_runs(tmp_path):
    command = [sys.executable, str(HERE / "reproduce.py"), "figure2", "--profile", "smoke", "--add"]
    command += ["--results-dir", str(tmp_path / "runs"), "--output-dir", str(tmp_path / "out")]
    table = tmp_path / "out" / "smoke" / "figure2.md"
    table.parent.mkdir(parents=True)
    head = "| data | model | attack | rule | accuracy | ASR | kept | seeds | seconds a run | paper |\n|---|\n"
    for row, message in (
        ("| mnist | lr | none | dfl | 80.0 (80.0) | - | 1.00 | 0 | 3 |  |", "got mnist, lr, none, dfl, which figure2"),
        ("| fashion-mnist-mini | lr | none | dfl | 80.0 | - | 1.00 | 0 | 3 |  |", "line 3: expected a row of data"),
    ):
        table.write_text(head + row + "\n")

        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)

        assert done.returncode == 2
        assert "--add: " in done.stderr
        assert message in done.stderr
        assert table.read_text() == head + row + "\n"
        assert not (tmp_path / "runs").exists()


def test_only_writing_runs_nothing(tmp_path):
    command = [sys.executable, str(HERE / "reproduce.py"), "table1", "--profile", "smoke", "--only-write"]
    command += ["--results-dir", str(tmp_path / "runs"), "--output-dir", str(tmp_path / "out")]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)

    assert done.returncode == 1
    assert not (tmp_path / "runs").exists()


def test_nearest_is_one_for_an_image_that_was_trained_on(study):
    from dummies import nearest

    real = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [5.0, 5.0, 1.0, 1.0]])
    labels = torch.tensor([0, 0, 1])

    assert nearest(2 * real[:1] + 3, torch.tensor([0]), real, labels) == pytest.approx(1.0)
    assert nearest(-real[:1], torch.tensor([0]), real, labels) == pytest.approx(1 / 3)  # the other image of label 0
    assert nearest(real[2:], torch.tensor([0]), real, labels) == pytest.approx(1 / 3**0.5)  # not the one of label 1


def test_both_searches_find_a_backdoor_and_nothing_in_the_trusted_model_itself(study, tmp_path, monkeypatch, capsys):
    import patches

    def found(attack, rule):
        options = ["--profile", "smoke", "--data", "fashion-mnist-mini", "--model", "lr", "--jobs", "1"]
        which = ["--attack", attack, "--rule", rule, "--results-dir", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["patches.py", *options, *which])
        patches.main()
        head, _, *lines = capsys.readouterr().out.splitlines()
        assert head == "| node | trigger works on | largest gap, slopes | largest gap, sweep |"
        cells = [line.strip("| ").split(" | ") for line in lines]
        assert [node for node, *_ in cells] == ["0", "1", "2", "3"]  # the honest ones
        return [shares for _, *shares in cells]

    for shares in found("scaling", "dfl"):
        assert min(float(share.removesuffix("%")) for share in shares) > 40
    assert found("none", "local-only") == [["-", "0.0%", "0.0%"]] * 4


def test_one_command_makes_a_table_and_its_figure(tmp_path):
    command = [sys.executable, str(HERE / "reproduce.py"), "figure2", "--profile", "smoke", "--models", "lr"]
    command += ["--jobs", "1", "--results-dir", str(tmp_path / "runs"), "--output-dir", str(tmp_path / "out")]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "out" / "smoke" / name) for name in ("figure2.md", "figure2.png")]
    table = (tmp_path / "out" / "smoke" / "figure2.md").read_text(encoding="utf-8")
    assert "3 of 9 runs complete" in table
    assert "| fashion-mnist-mini | lr | none | dfl-dual |" in table
    again = subprocess.run(
        [*command, "--models", "fc", "--only-write"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert again.returncode == 0
    assert (tmp_path / "out" / "smoke" / "figure2.md").read_text(encoding="utf-8") == table
