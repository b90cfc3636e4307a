import json
import re
import signal
import sys

import pytest

from flower_dfl import registry
from flower_dfl.cli import app
from flower_dfl.config import RunConfig, config_keys
from flower_dfl.errors import ConfigurationError, TransportError
from flower_dfl.experiment import experiment_for

TINY = [
    "num-nodes=3", "num-byzantine=1", "num-rounds=2", "model.name=lr", "strategy.name=average", "data.num-train=60",
    "data.num-test=50", "train.device=cpu",
]  # fmt: skip


def settings(*extra):
    return [part for assignment in [*TINY, *extra] for part in ("--set", assignment)]


def run_folder(output):
    return re.search(r"^run folder: (.*)$", output, re.MULTILINE)[1]


def test_list_shows_every_component_with_its_first_line(command):
    code, output, _ = command("list")

    assert code == 0
    for kind in registry.COMPONENTS:
        for name in registry.names(kind):
            assert re.search(
                rf"^  {re.escape(name)} +{re.escape(registry.describe(kind, name))}$", output, re.MULTILINE
            )


def test_keys_shows_every_setting_with_its_default(command):
    code, output, _ = command("keys")

    assert code == 0
    assert [line.partition(" = ")[0] for line in output.splitlines()] == config_keys()
    assert "train.lr = 0.05" in output.splitlines()
    assert "data.params = 'p = 0.8'" in output.splitlines()


def test_topology_prints_diagnostics_of_the_configured_graph(command):
    code, output, _ = command(
        "topology", "--set", "topology.name=ring", "--set", "num-nodes=5", "-s", "num-byzantine=1"
    )

    assert code == 0
    assert "ring" in output
    assert re.search(r"byzantine nodes\W+4\b", output)


CUT = """
import networkx as nx

def hub_is_byzantine(num_nodes):
    return nx.star_graph(range(num_nodes - 1, -1, -1))

def apart(num_nodes):
    return nx.empty_graph(num_nodes)
"""


def test_topology_warns_of_a_graph_that_cuts_honest_nodes_off(command, tmp_path, monkeypatch):
    (tmp_path / "cli_test_graphs.py").write_text(CUT, encoding="utf-8")

    code, output, _ = command(
        "topology", "-s", "topology.name=cli_test_graphs:hub_is_byzantine", "-s", "num-nodes=4", "-s", "num-byzantine=1"
    )

    assert code == 0
    assert "warning: the honest nodes are cut off from one another: they form 3 components\n" in output
    monkeypatch.delitem(sys.modules, "cli_test_graphs")


@pytest.mark.parametrize("arguments", [["topology"], ["run", "--engine", "local", *settings()]])
def test_a_graph_that_is_not_connected_is_refused_before_anything_starts(command, tmp_path, monkeypatch, arguments):
    (tmp_path / "cli_test_graphs.py").write_text(CUT, encoding="utf-8")

    code, _, errors = command(*arguments, "-s", "topology.name=cli_test_graphs:apart")

    assert code == 2
    assert errors.startswith("error: the graph must be connected, got ")
    assert not (tmp_path / "runs").exists()
    monkeypatch.delitem(sys.modules, "cli_test_graphs")


def test_run_writes_a_folder_and_prints_its_absolute_path_first_and_last(command, tmp_path):
    code, output, _ = command("run", "--engine", "local", *settings())

    assert code == 0
    folder = run_folder(output)
    assert folder.startswith(str(tmp_path / "runs"))
    assert output.splitlines()[0] == f"run folder: {folder}"
    assert output.splitlines()[-1] == f"results: {folder}"
    summary = json.loads((tmp_path / folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["status"] == "completed"


def test_run_shows_a_line_a_round_and_the_summary(command, tmp_path):
    _, output, _ = command("run", "--engine", "local", *settings())

    assert re.search(
        r"^round 1: accuracy \d+\.\d % \(worst \d+\.\d %\), ASR \d+\.\d %, consensus \S+, rejected 0$", output, re.M
    )
    assert re.search(r"^round 2: ", output, re.MULTILINE)
    assert "average against scaling (local)" in output
    summary = json.loads((tmp_path / run_folder(output) / "summary.json").read_text(encoding="utf-8"))
    assert f"round 2: accuracy {100 * summary['honest_accuracy_mean']:.1f} % (worst " in output
    assert summary["honest_accuracy_mean"] > 0
    assert re.search(r"diverged nodes\W+none", output)


def test_a_file_is_read_and_assignments_override_it(command, tmp_path):
    (tmp_path / "run.toml").write_text('seed = 3\n[train]\nlr = 0.2\nepochs = 2\n[strategy]\nname = "oracle"\n')

    config = app.read_config(tmp_path / "run.toml", ["train.lr=0.1", "strategy.name=average"], None)

    assert (config.seed, config.train.lr, config.train.epochs, config.strategy.name) == (3, 0.1, 2, "average")


@pytest.mark.parametrize(
    "content", ["[strategy.params]\nc2 = 3.0\nq = 'sum'\n", "strategy = {params = {c2 = 3.0, q = 'sum'}}\n"]
)
def test_one_parameter_of_a_file_can_be_overridden(tmp_path, content):
    (tmp_path / "run.toml").write_text(content)

    config = app.read_config(tmp_path / "run.toml", ["strategy.params.c2=2.0"], None)

    assert config.strategy.params == {"c2": 2.0, "q": "sum"}


@pytest.mark.parametrize(
    "content",
    [
        '"strategy.params.c2" = 3.0\n"strategy.params.q" = "sum"\n',
        "[strategy]\nparams = \"c2 = 3.0, q = 'sum'\"\n",  # as a run's config.toml has it
        "strategy.params = \"c2 = 3.0, q = 'sum'\"\n",
    ],
)
def test_however_a_file_spells_its_keys_an_assignment_changes_one(tmp_path, content):
    (tmp_path / "run.toml").write_text(content)

    config = app.read_config(tmp_path / "run.toml", ["strategy.params.c2=2.0"], None)

    assert config.strategy.params == {"c2": 2.0, "q": "sum"}


def test_an_assignment_wins_over_a_quoted_key_after_its_table(tmp_path):
    (tmp_path / "run.toml").write_text('train = {epochs = 2}\n"train.lr" = 0.1\n')

    config = app.read_config(tmp_path / "run.toml", ["train.lr=0.5"], None)

    assert (config.train.epochs, config.train.lr) == (2, 0.5)


def test_later_assignments_win(tmp_path):
    assert app.read_config(None, ["seed=1", "seed=2"], None).seed == 2


def test_the_results_folder_option_wins_and_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    from pathlib import Path

    assert app.read_config(None, ["results-dir=x"], Path("out")).results_dir == str(tmp_path / "out")


def test_without_file_and_assignments_everything_is_default():
    assert app.read_config(None, None, None) == RunConfig()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "sed=3"], "error: unknown configuration key 'sed'. Did you mean 'seed'?"),
        (["--set", "seed"], "error: expected key=value, got 'seed'"),
        (["--set", "num-nodes=0"], "error: num-nodes must be at least 1, got 0"),
        (["--set", "strategy.name=krumm"], "error: unknown strategy 'krumm'. Did you mean 'krum'?"),
        (["--set", "strategy.params=c2 = 0.5"], "error: c2 must be above 1"),
        (["--set", "attack.name=none", "--set", "attack.params=gamma = 2"], "error: attack 'none' has no parameters"),
        (["--set", "topology.name=dominated", "--set", "topology.params=share = 2.0"], "error: share must be"),
        (
            ["--set", "attack.params=target = 10"],
            "error: the backdoor's target must be a label of the data, 0..9, got 10",
        ),
        (
            ["--set", "train.device=first"],
            "error: train.device must be 'auto' or a device of this machine, got 'first'",
        ),
        (["--set", "train.device=GPU"], "error: train.device must be 'auto', 'cpu', 'cuda', 'cuda:0' or the like"),
        (["nowhere.toml"], "error: cannot read nowhere.toml: No such file or directory"),
        (["--set", "data.name=my.data:load"], "error: data 'my.data:load' cannot be imported"),
    ],
)
def test_a_wrong_configuration_is_one_line_and_exit_code_two_before_anything_starts(
    command, tmp_path, arguments, message
):
    code, output, errors = command("run", "--engine", "local", *arguments)

    assert code == 2
    assert errors.startswith(message)
    assert len(errors.splitlines()) == 1
    assert output == ""
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["walk"], "No such command"),
        (["run", "--engine", "petrol"], "petrol"),
        (["run", "--colour"], "No such option"),
        (["data", "prepare"], "Missing argument"),
    ],
)
def test_a_wrong_command_line_is_exit_code_two(command, arguments, message):
    code, _, errors = command(*arguments)

    assert code == 2
    assert message in errors


def test_help_is_no_error(command):
    code, output, _ = command("--help")

    assert code == 0
    assert "Byzantine-robust" in output


def test_data_that_are_missing_are_exit_code_one(command):
    code, _, errors = command("run", "--engine", "local", *settings("data.num-train=100000"))

    assert code == 1
    assert errors == "failed: data.num-train asks for 100000 samples, the data set has 4000\n"


RULE = """
from flower_dfl.protocols import PeerStrategy

class Broken(PeerStrategy[None]):
    def aggregate(self, inbox, state, ctx):
        raise ZeroDivisionError("nothing")
"""


def test_a_failing_node_is_exit_code_one_and_its_rule_was_found_in_the_callers_folder(command, tmp_path, monkeypatch):
    (tmp_path / "cli_test_rules.py").write_text(RULE, encoding="utf-8")

    code, output, errors = command("run", "--engine", "local", *settings("strategy.name=cli_test_rules:Broken"))

    assert code == 1
    log = tmp_path / run_folder(output) / "run.log"
    failed, details = errors.splitlines()
    assert failed == "failed: node 0 failed between the exchanges of rounds 1 and 2: ZeroDivisionError: nothing"
    assert details == f"details: {log}"
    assert 'raise ZeroDivisionError("nothing")' in log.read_text(encoding="utf-8")
    summary = json.loads((tmp_path / run_folder(output) / "summary.json").read_text(encoding="utf-8"))
    assert summary["status"] == "failed"
    monkeypatch.delitem(sys.modules, "cli_test_rules")


def test_an_interruption_is_exit_code_130(command, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "run_local", interrupted)

    code, _, errors = command("run", "--engine", "local", *settings())

    assert code == 130
    assert "Traceback" not in errors


def test_a_polite_request_to_end_is_an_interruption(command, monkeypatch):
    def ended(*arguments, **options):
        assert callable(signal.getsignal(signal.SIGTERM))  # otherwise it would end pytest
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(app, "run_local", ended)

    code, _, errors = command("run", "--engine", "local", *settings())

    assert code == 130
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (TransportError("gone [red]x[/red]"), 1, "failed: gone [red]x[/red]\ndetails: "),
        (ConfigurationError("late"), 2, "error: late\ndetails: "),
        (RuntimeError("a bug"), 1, "failed: RuntimeError: a bug\ndetails: "),
    ],
)
def test_errors_of_an_engine_decide_the_exit_code(command, monkeypatch, error, code, message):
    def fails(*arguments, **options):
        raise error

    monkeypatch.setattr(app, "run_flower", fails)

    got, _, errors = command("run", *settings())

    assert got == code
    assert errors.startswith(message)


def test_a_traceback_is_shown_to_who_asks_for_it(command, monkeypatch, caplog):
    def fails(*arguments, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(app, "run_local", fails)

    _, _, silent = command("run", "--engine", "local", *settings())
    told = list(caplog.records)
    monkeypatch.setenv("FLOWER_DFL_TRACEBACK", "1")
    command("run", "--engine", "local", *settings())

    assert "FLOWER_DFL_TRACEBACK=1 shows where" in silent
    assert "Traceback" not in silent
    assert not told
    assert "RuntimeError: a bug" in caplog.text


def test_the_engines_options_are_handed_on(command, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(app, "run_flower", lambda config, folder, on_round, **options: seen.append((config, options)))
    monkeypatch.setattr("flower_dfl.cli.display.Display.conclude", lambda self, folder: None)

    code, output, _ = command(
        "run", "--cpus-per-node", "0.5", "--gpus-per-node", "0.25", "--results-dir", "out", *settings()
    )

    assert code == 0
    assert seen[0][1] == {"cpus_per_node": 0.5, "gpus_per_node": 0.25, "ray_address": "local"}
    assert run_folder(output).startswith(str(tmp_path / "out"))


def test_paths_are_printed_as_they_are(command, tmp_path):
    code, output, _ = command("run", "--engine", "local", "--results-dir", "a [x] :smile: [", *settings())

    assert code == 0
    assert run_folder(output).startswith(str(tmp_path / "a [x] :smile: ["))
    assert output.rstrip().endswith(f"results: {run_folder(output)}")


def test_the_launcher_of_workers_leaves_the_device_to_them(command, monkeypatch):
    looked_at, run = [], []
    monkeypatch.setattr(app, "experiment_for", lambda config: looked_at.append(config) or experiment_for(config))
    monkeypatch.setattr(app, "run_flower", lambda config, *_, **options: run.append(config))
    monkeypatch.setattr("flower_dfl.cli.display.Display.conclude", lambda self, folder: None)

    code, _, _ = command("run", *settings("train.device=cuda:7"))

    assert code == 0
    assert looked_at[0].train.device == "cpu"
    assert run[0].train.device == "cuda:7"


def test_preparing_data_from_a_folder_without_any_is_an_error(command, tmp_path):
    (tmp_path / "empty").mkdir()

    code, _, errors = command("data", "prepare", "empty", "--root", "out")

    assert code in {1, 2}
    assert len(errors.splitlines()) == 1
    assert "empty" in errors


def test_preparing_data_from_nowhere_is_an_error(command):
    code, _, errors = command("data", "prepare", "nowhere", "--root", "out")

    assert code in {1, 2}
    assert "nowhere" in errors


def test_relative_paths_are_those_of_the_caller(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    config = app.read_config(None, ["data.root=data", "topology.name=file", "topology.params=path = 'g.graphml'"], None)

    assert config.data.root == str(tmp_path / "data")
    assert config.topology.params == {"path": str(tmp_path / "g.graphml")}


def test_paths_may_begin_at_home_and_a_partitions_path_counts_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assignments = ["data.root=~/data", "data.partition=by-group", "data.params=path = 'groups.txt'"]

    config = app.read_config(None, assignments, None)

    assert config.data.root == str(tmp_path / "home" / "data")
    assert config.data.params == {"path": str(tmp_path / "groups.txt")}
