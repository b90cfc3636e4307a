import builtins
import re
import shlex
from pathlib import Path

import pytest

from flower_dfl.cli.plot import MetricName
from flower_dfl.figures.series import METRICS
from flower_dfl.sweeps.definition import load_sweep
from tests.figures.recorded import write_run

ROOT = Path(__file__).parents[2]

pytest.importorskip("matplotlib", reason="needs the extra flower-dfl[report]")


@pytest.fixture
def sweep(tmp_path):
    """Two rules against 1 and 2 Byzantine nodes, two seeds."""
    folder = tmp_path / "sweep"
    for rule in ("average", "krum"):
        for number in (1, 2):
            for seed in (0, 1):
                settings = {"strategy.name": rule, "num-byzantine": number, "seed": seed}
                write_run(folder / f"{rule}-{number}-{seed}", settings, 0.5 + seed / 10, 0.1 * number)
    return folder


def test_the_metrics_offered_are_those_there_are():
    assert [str(name) for name in MetricName] == list(METRICS)


def test_without_a_kind_the_figures_are_drawn_over_what_the_runs_differ_in(command, sweep):
    code, output, errors = command("plot", sweep)

    assert (code, errors) == (0, "")
    expected = [
        sweep / "figures" / f"{metric}-by-byzantine-share.{suffix}"
        for metric in ("accuracy", "asr")
        for suffix in ("pdf", "svg", "png")
    ]
    assert output.splitlines() == list(map(str, expected))
    assert expected[0].read_bytes().startswith(b"%PDF")
    assert b"<svg" in expected[1].read_bytes()
    assert expected[2].read_bytes().startswith(b"\x89PNG")


def test_kinds_axes_metrics_and_the_folder_can_be_chosen(command, sweep, tmp_path):
    code, output, _ = command(
        "plot", sweep, "--kind", "rounds", "--kind", "frontier", "--where", "num-byzantine=2", "--metric", "worst-asr",
        "--out", "pictures",
    )  # fmt: skip

    assert code == 0
    names = {line for line in output.splitlines() if line.endswith(".pdf")}
    assert names == {str(tmp_path / "pictures" / name) for name in ("worst-asr-by-round.pdf", "frontier.pdf")}


def test_every_rule_against_every_attack_is_a_matrix_for_each_metric(command, tmp_path):
    for rule in ("average", "krum"):
        for attack, rate in (("label-flip", None), ("scaling", 0.5)):
            write_run(tmp_path / "runs" / f"{rule}-{attack}", {"strategy.name": rule, "attack.name": attack}, 0.5, rate)

    code, output, errors = command("plot", "runs", "--kind", "matrix")

    assert code == 0
    assert errors == "no attack success rate under label-flip: 2 runs\n"
    expected = [
        tmp_path / "runs" / "figures" / f"{metric}-matrix.{suffix}"
        for metric in ("accuracy", "asr")
        for suffix in ("pdf", "svg", "png")
    ]
    assert output.splitlines() == list(map(str, expected))
    assert all(path.stat().st_size for path in expected)


def test_a_parameter_can_be_the_axis_and_a_setting_the_panel(command, tmp_path):
    for beta in (0.0, 1.0):
        for share in (0.1, 0.8):
            settings = {"attack.name": "adaptive", "attack.params": {"beta": beta}, "data.params": {"p": share}}
            write_run(tmp_path / "runs" / f"{beta}-{share}", settings, 0.5, 0.5)

    code, output, _ = command("plot", "runs", "--x", "attack.params.beta", "--panels", "data.params.p")

    assert code == 0
    assert str(tmp_path / "runs" / "figures" / "asr-by-attack.params.beta.svg") in output.splitlines()


def test_runs_that_are_not_comparable_are_refused(command, sweep):
    code, output, errors = command("plot", sweep, "--kind", "rounds")

    assert code == 2
    assert output == ""
    assert errors.startswith("error: the runs also differ in num-byzantine, ")


def test_unfinished_runs_are_left_out_with_a_warning(command, sweep):
    write_run(sweep / "late", {"strategy.name": "ios"}, 0.1, 0.1, status="running")

    code, _, errors = command("plot", sweep)

    assert code == 0
    assert errors == "warning: left out 1 runs that are not complete: late\n"


def test_runs_without_a_trigger_are_left_out_of_the_attack_success_rate(command, tmp_path):
    write_run(tmp_path / "runs" / "a", {"attack.name": "label-flip"}, 0.5, None)

    code, output, errors = command("plot", "runs")

    assert code == 0
    assert {line.rpartition("/")[2].partition(".")[0] for line in output.splitlines()} == {"accuracy-by-round"}
    assert errors == "no attack success rate under label-flip: 1 runs\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "error: expected a sweep or a folder with runs"),
        (["sweep", "--where", "num-byzantine=7"], "error: no run has num-byzantine = 7; recorded are 1, 2"),
        (["sweep", "--x", "strategy.nam"], "error: unknown setting 'strategy.nam'"),
        (["sweep", "--lines", "nobody"], "error: unknown setting 'nobody'"),
        (["sweep", "--x", "attack.params.beta"], "error: unknown setting 'attack.params.beta'"),
        (["sweep", "--x", "placement.name", "--where", "num-byzantine=1"], "error: placement.name cannot be on the"),
    ],
)
def test_what_cannot_be_drawn_is_an_error_of_one_line(command, sweep, arguments, message):
    code, output, errors = command("plot", *arguments)

    assert (code, output) == (2, "")
    assert errors.startswith(message)
    assert len(errors.splitlines()) == 1


def test_a_folder_with_nothing_complete_is_an_error(command, tmp_path):
    write_run(tmp_path / "runs" / "a", {}, 0.5, 0.5, status="failed")

    code, _, errors = command("plot", "runs")

    assert code == 2
    assert errors == "error: none of the 1 runs in runs is complete\n"


def test_the_readmes_figures_of_the_example_are_drawn(command, tmp_path):
    for cell in load_sweep(ROOT / "experiments" / "sweep_example" / "sweep.toml").cells:
        rate = None if cell.settings["attack.name"] != "scaling" else 0.1
        write_run(tmp_path / "runs" / "sweep" / cell.folder, dict(cell.settings), 0.5, rate)
    (line,) = re.findall(r"^flower-dfl plot .*", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)

    code, output, errors = command(*shlex.split(line, comments=True)[1:])

    assert code == 0, errors
    assert "accuracy-by-round.png" in output


def test_without_matplotlib_the_error_names_the_extra(command, sweep, monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.startswith("flower_dfl.figures.lines"):
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)

    code, _, errors = command("plot", sweep)

    assert code == 2
    assert re.fullmatch(r"error: this needs the package 'matplotlib': pip install 'flower-dfl\[report\]'\n", errors)
