import re

import pytest

from flower_dfl.cli.table import table
from flower_dfl.errors import ConfigurationError
from tests.sweeps.conftest import write_run


@pytest.fixture
def folder(tmp_path):
    """Two rules, two learning rates, three seeds; one run was interrupted."""
    for strategy in ("krum", "median"):
        for lr in (0.05, 1.0):
            for seed in range(3):
                write_run(
                    tmp_path / f"{strategy}-{lr}-{seed}",
                    {"strategy.name": strategy, "train.lr": lr, "seed": seed},
                    {"honest_accuracy_mean": lr / 2, "honest_accuracy_min": 0.0, "attack_success_rate_mean": 1.0},
                    status="interrupted" if (strategy, lr, seed) == ("median", 0.05, 2) else "completed",
                )
    return tmp_path


def test_a_filter_chooses_cells_and_the_rest_is_not_called_missing(folder, capsys):
    table(folder, where=["train.lr=1"])

    output = capsys.readouterr().out
    assert output.count("strategy / attack") == 3
    assert re.search(r"^median +50\.0 ± 0\.0 \(50\.0; 3\)$", output, re.MULTILINE)
    assert output.count("6 of 6 cells complete, seeds 0 to 2") == 1


def test_what_is_missing_is_told_by_name(folder, capsys):
    table(folder, metric=["honest_accuracy_mean"], columns=["train.lr"])

    output = capsys.readouterr().out
    assert "11 of 12 cells complete, seeds 0 to 2\nnot complete: median-0.05-2 (interrupted)\n" in output
    assert re.search(r"^median +2\.5 ± 0\.0 \(2\.5; 2\)", output, re.MULTILINE)


def test_without_a_filter_learning_rates_are_not_averaged(folder, capsys):
    with pytest.raises(ConfigurationError, match=r"train\.lr = 0\.05, 1\.0; add it to the rows or columns"):
        table(folder)

    assert capsys.readouterr().out == ""


def test_files_are_written_beside_the_table(folder, tmp_path, capsys):
    table(folder, where=["train.lr=1.0"], csv=tmp_path / "t.csv", parquet=tmp_path / "t.parquet")

    assert len((tmp_path / "t.csv").read_text(encoding="utf-8").splitlines()) == 7
    assert (tmp_path / "t.parquet").stat().st_size > 0


def test_a_filter_may_not_fit_the_defaults(tmp_path, capsys):
    for count in (3, 4):
        settings = {"num-nodes": count, "num-byzantine": 1}
        write_run(tmp_path / f"n{count}", settings, {"honest_accuracy_mean": count / 10})

    table(tmp_path, metric=["honest_accuracy_mean"], where=["num-nodes=4"])  # by default six are Byzantine

    assert "40.0 ± - (40.0; 1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("where", "message"),
    [("train.rate=1", "unknown configuration key 'train.rate'"), ("train.lr=x", "train.lr must be float, got 'x'"),
     ("train.lr=3", "nothing to tabulate in .*: 0 of 0 cells complete")],
)  # fmt: skip
def test_a_wrong_filter_is_an_error(folder, where, message):
    with pytest.raises(ConfigurationError, match=message):
        table(folder, where=[where])
