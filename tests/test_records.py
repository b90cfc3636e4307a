import errno
import json
import tomllib
from contextlib import suppress
from dataclasses import replace

import networkx as nx
import pytest
import torch
from safetensors.torch import load_file

from flower_dfl import records
from flower_dfl.conditions import Conditions
from flower_dfl.config import ComponentConfig, RunConfig, parse
from flower_dfl.errors import ConfigurationError, ResumeError, StorageError
from flower_dfl.network import Network
from flower_dfl.node import NodeFacts, Report
from flower_dfl.records import RunWriter, create_run_folder, read_lines, reopen, summarise_round
from flower_dfl.types import Rejection
from flower_dfl.writing import end_unfinished

NAN, INF = float("nan"), float("inf")
CONFIG = RunConfig(num_nodes=4, num_byzantine=1, num_rounds=2)

# Nodes 0, 1, 2 are honest, 3 is Byzantine; a square with one diagonal: 0-1, 1-2, 2-3, 3-0, 0-2.
GRAPH = nx.Graph([(0, 1), (1, 2), (2, 3), (3, 0), (0, 2)])
NETWORK = Network(GRAPH, frozenset({3}), Conditions(CONFIG.network, 4, 0))


def report(node, round=1, **changes):
    neighbours = NETWORK.links(1).neighbours[node]
    weights = dict.fromkeys([node, *neighbours], 1 / (len(neighbours) + 1))
    return replace(
        Report(
            node, round, weights=weights, scores={"distance": {j: float(j) for j in neighbours}}, bytes_received=100
        ),
        **changes,
    )


def round_of_reports(round=1):
    """Accuracies 0.5, 0.7, 0.9 and success rates 0, 0.1, 0.2; node 2 left the Byzantine node out, node 1 node 2."""
    return [
        report(3, round, accuracy=None),
        report(1, round, accuracy=0.7, attack_success_rate=0.1, weights={0: 0.5, 1: 0.5, 2: 0.0}),
        report(0, round, accuracy=0.5, attack_success_rate=0.0, budget=1, flags=("alone",), fingerprint="00ff",
               seconds={"train": 0.12345678}),
        report(2, round, accuracy=0.9, attack_success_rate=0.2, weights={0: 0.4, 1: 0.3, 2: 0.3},
               rejections=(Rejection(3, "vector: not finite"),)),
    ]  # fmt: skip


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def test_a_run_folder_is_named_by_time_strategy_attack_and_seed(tmp_path):
    folder = create_run_folder(parse({"seed": 3, "strategy.name": "average"}), tmp_path)

    assert folder.is_dir()
    assert folder.is_absolute()
    assert folder.parent == tmp_path / "runs"
    assert folder.name[8] == "-"
    assert folder.name[:8].isdigit()
    assert folder.name[15:] == "-average-scaling-seed3"


def test_two_runs_of_the_same_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda _: "20240229-120000")

    names = [create_run_folder(CONFIG, tmp_path).name for _ in range(3)]

    stem = "20240229-120000-dfl-dual-scaling-seed0"
    assert names == [stem, f"{stem}-1", f"{stem}-2"]


def test_a_reference_makes_a_folder_name_without_separators(tmp_path):
    config = RunConfig(strategy=ComponentConfig("my/pkg.rules:My Rule"))

    assert "-my_pkg.rules_My_Rule-" in create_run_folder(config, tmp_path).name


def test_the_results_folder_is_relative_to_the_caller_unless_it_is_absolute(tmp_path):
    (tmp_path / "a").mkdir()

    relative = create_run_folder(replace(CONFIG, results_dir="out/deep"), tmp_path / "a")
    absolute = create_run_folder(replace(CONFIG, results_dir=str(tmp_path / "b")), tmp_path / "a")

    assert relative.parent == tmp_path / "a" / "out" / "deep"
    assert absolute.parent == tmp_path / "b"


def test_a_results_folder_that_cannot_be_made_is_a_configuration_error(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigurationError, match=r"^cannot create the run folder .*file.*: Not a directory$"):
        create_run_folder(replace(CONFIG, results_dir="file"), tmp_path)


def test_the_configuration_is_written_so_that_it_can_be_parsed_again(tmp_path):
    config = RunConfig(
        seed=4, strategy=ComponentConfig("dfl-dual", {"c1": INF, "q": "sum"}), num_nodes=4, num_byzantine=1
    )

    with RunWriter(tmp_path, config, NETWORK, "local"):
        pass

    assert parse(tomllib.loads((tmp_path / "config.toml").read_text(encoding="utf-8"))) == config


def test_the_environment_names_engine_code_and_packages(tmp_path):
    with RunWriter(tmp_path, CONFIG, NETWORK, "local"):
        pass

    environment = json.loads((tmp_path / "environment.json").read_text(encoding="utf-8"))
    assert environment["engine"] == "local"
    assert environment["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert len(environment["code_version"].partition("+")[2]) == 12


@pytest.mark.parametrize(
    ("engine", "given", "recorded"),
    [
        ("local", None, ["flower-dfl", "run", "--token", "secret"]),
        ("flower+relay", None, ["flower-dfl"]),
        ("flower+mailbox", ["flower-dfl", "run", "a.toml"], ["flower-dfl", "run", "a.toml"]),
    ],
)
def test_the_command_is_the_users_and_of_flowers_processes_only_the_name(
    tmp_path, monkeypatch, engine, given, recorded
):
    monkeypatch.setattr("sys.argv", ["flower-dfl", "run", "--token", "secret"])
    if given:
        monkeypatch.setenv("FLOWER_DFL_COMMAND", json.dumps(given))
    with RunWriter(tmp_path, CONFIG, NETWORK, engine):
        pass

    assert json.loads((tmp_path / "environment.json").read_text(encoding="utf-8"))["command"] == recorded


def test_the_nodes_are_written_with_data_role_and_neighbours(tmp_path):
    with RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer:
        writer.nodes(NodeFacts(node, 10 + node, (node, 10)) for node in (3, 1, 0, 2))

    nodes = json.loads((tmp_path / "nodes.json").read_text(encoding="utf-8"))["nodes"]
    assert [entry["node"] for entry in nodes] == [0, 1, 2, 3]
    assert nodes[3] == {
        "node": 3, "num_examples": 13, "label_counts": [3, 10], "byzantine": True, "neighbours": [0, 2]
    }  # fmt: skip
    assert not nodes[0]["byzantine"]


def test_a_round_is_one_line_a_node_sorted(tmp_path):
    with RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer:
        writer.round(round_of_reports(), {0: 1.0, 1: 2.0, 2: 2.0})

    lines = read_lines(tmp_path / "rounds.jsonl")
    assert [line["node"] for line in lines] == [0, 1, 2, 3]
    assert lines[0] == {
        "round": 1,
        "node": 0,
        "byzantine": False,
        "accuracy": 0.5,
        "attack_success_rate": 0.0,
        "diverged": False,
        "distance_to_mean": 1.0,
        "budget": 1,
        "flags": ["alone"],
        "rejected": 0,
        "missing": {},
        "fingerprint": "00ff",
        "bytes_received": 100,
        "seconds": {"train": 0.123457},
    }
    assert lines[2]["rejected"] == 1
    assert lines[3]["byzantine"]
    assert lines[3]["accuracy"] is None
    assert lines[3]["distance_to_mean"] is None


def test_an_edge_is_one_line_a_receiver_and_sender_with_weight_scores_and_rejection(tmp_path):
    with RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer:
        writer.round(round_of_reports(), {})

    lines = read_lines(tmp_path / "edges.jsonl")
    # twice the five edges of the graph
    assert [(line["receiver"], line["sender"]) for line in lines] == [
        (0, 1), (0, 2), (0, 3), (1, 0), (1, 2), (2, 0), (2, 1), (2, 3), (3, 0), (3, 2)
    ]  # fmt: skip
    assert lines[3] == {"round": 1, "receiver": 1, "sender": 0, "weight": 0.5, "scores": {"distance": 0.0}}
    assert lines[7] == {
        "round": 1, "receiver": 2, "sender": 3, "weight": 0.0, "scores": {"distance": 3.0},
        "rejected": "vector: not finite",
    }  # fmt: skip


def test_an_edge_over_which_a_message_was_accepted_does_not_say_that_another_one_was_rejected(tmp_path):
    stale = Rejection(1, "wrong round")  # a straggler's letter of the round before, beside the one of this round
    with RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer:
        writer.round([report(0, rejections=(stale,)), report(1), report(2), report(3)], {})

    assert read_lines(tmp_path / "rounds.jsonl")[0]["rejected"] == 1
    assert [line for line in read_lines(tmp_path / "edges.jsonl") if "rejected" in line] == []


def test_the_summary_of_a_round_is_worked_by_hand(tmp_path):
    with RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer:
        summary = writer.round(round_of_reports(), {0: 1.0, 1: 2.0, 2: 2.0})

    assert summary.round == 1
    assert summary.accuracy_mean == pytest.approx(0.7)  # (0.5 + 0.7 + 0.9) / 3
    assert summary.accuracy_min == 0.5
    assert summary.attack_success_rate_mean == pytest.approx(0.1)
    assert summary.attack_success_rate_max == 0.2
    assert summary.consensus_distance == pytest.approx(3**0.5)  # the root of (1 + 4 + 4) / 3
    assert summary.rejected == 1
    assert summary.diverged == ()


def test_the_summary_of_a_run_is_worked_by_hand(tmp_path):
    with RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer:
        writer.round(round_of_reports(1), {0: 1.0, 1: 2.0, 2: 2.0})
        writer.round(round_of_reports(2), {0: 2.0, 1: 4.0, 2: 4.0})

    summary = summary_of(tmp_path)
    seconds = summary.pop("seconds_total")
    assert summary == {
        "status": "completed",
        "error": None,
        "rounds": 2,
        "honest_accuracy_mean": pytest.approx(0.7),
        "honest_accuracy_min": 0.5,
        "attack_success_rate_mean": pytest.approx(0.1),
        "attack_success_rate_max": 0.2,
        "consensus_distance": pytest.approx(2 * 3**0.5),
        "byzantine_kept": 0.5,  # node 0 kept node 3, node 2 did not, in both rounds
        "honest_kept": pytest.approx(5 / 6),  # six directed edges between honest nodes; node 1 left node 2 out
        "bytes_total": 800,
        "missing_messages": 0,
        "failed_steps": 0,
        "restarts": 0,
        "diverged_nodes": [],
    }
    assert seconds >= 0


def test_rounds_that_were_not_evaluated_leave_the_last_numbers_in_the_summary(tmp_path):
    with RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer:
        writer.round(round_of_reports(1), {0: 1.0, 1: 2.0, 2: 2.0})
        summary = writer.round([report(node, 2) for node in range(4)], {})

    assert summary.accuracy_mean is summary.accuracy_min is summary.attack_success_rate_max is None
    assert summary.consensus_distance is None
    assert summary_of(tmp_path)["rounds"] == 2
    assert summary_of(tmp_path)["honest_accuracy_min"] == 0.5


def test_shares_of_edges_that_do_not_exist_are_none(tmp_path):
    graph = nx.path_graph(2)
    network = Network(graph, frozenset(), {node: frozenset(graph[node]) for node in graph})

    with RunWriter(tmp_path, CONFIG, network, "local") as writer:
        writer.round([Report(0, 1, accuracy=1.0, weights={0: 1.0}), Report(1, 1, accuracy=1.0, weights={0: 0.5})], {})

    assert summary_of(tmp_path)["byzantine_kept"] is None
    assert summary_of(tmp_path)["honest_kept"] == 0.5
    assert summary_of(tmp_path)["attack_success_rate_mean"] is None


def test_diverged_nodes_are_listed_and_no_file_holds_nan_or_infinity(tmp_path):
    reports = [
        report(0, accuracy=0.0, attack_success_rate=0.0, diverged=True, weights={1: NAN, 2: INF, 3: -INF}),
        report(1, accuracy=0.5, attack_success_rate=0.1, scores={"distance": {0: NAN, 2: INF}}),
        report(2, accuracy=0.5, attack_success_rate=0.1),
        report(3, diverged=True),
    ]

    with RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer:
        writer.round(reports, {0: NAN, 1: INF, 2: 1.0})

    def refuse(constant):
        raise AssertionError(constant)

    assert summary_of(tmp_path)["diverged_nodes"] == [0]
    assert summary_of(tmp_path)["consensus_distance"] is None
    for path in [*tmp_path.glob("*.json"), *tmp_path.glob("*.jsonl")]:
        for line in [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines():
            json.loads(line, parse_constant=refuse)
    edges = {(line["receiver"], line["sender"]): line for line in read_lines(tmp_path / "edges.jsonl")}
    assert edges[0, 1]["weight"] is None
    assert edges[1, 0]["scores"] == {"distance": None}


def test_the_status_is_running_until_the_writer_ends(tmp_path):
    with RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer:
        before = summary_of(tmp_path)
        writer.round(round_of_reports(), {})
        during = summary_of(tmp_path)

    assert (before["status"], before["rounds"]) == ("running", 0)
    assert (during["status"], during["rounds"]) == ("running", 1)
    assert before["honest_accuracy_mean"] is None
    assert summary_of(tmp_path)["status"] == "completed"


@pytest.mark.parametrize(
    ("error", "status", "recorded"),
    [
        (RuntimeError("node 3 is gone"), "failed", "RuntimeError: node 3 is gone"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt: "),
    ],
)
def test_how_a_run_ended_is_recorded_and_its_error_goes_on(tmp_path, error, status, recorded):
    def fail():
        with RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer:
            writer.round(round_of_reports(), {})
            raise error

    with pytest.raises(type(error)):
        fail()

    assert summary_of(tmp_path)["status"] == status
    assert summary_of(tmp_path)["error"] == recorded
    assert summary_of(tmp_path)["rounds"] == 1
    assert len(read_lines(tmp_path / "rounds.jsonl")) == 4


def test_a_folder_is_another_writers_only_when_it_says_how_its_run_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_LOCK_TIMEOUT", 0.0)
    writer = RunWriter(tmp_path, CONFIG, NETWORK, "local")
    found = []

    def write_late(path, value):
        with pytest.raises(ResumeError, match="another process still writes"):
            RunWriter(tmp_path, CONFIG, NETWORK, "local")
        found.append((path.name, value["status"]))

    monkeypatch.setattr(records, "write_json", write_late)
    writer.__exit__(None, None, None)
    monkeypatch.undo()

    assert found == [("summary.json", "completed")]
    with RunWriter(tmp_path, CONFIG, NETWORK, "local"):
        pass


def test_lines_are_on_disk_as_soon_as_their_round_ends(tmp_path):
    with RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer:
        writer.round(round_of_reports(), {})

        assert len(read_lines(tmp_path / "rounds.jsonl")) == 4
        assert len(read_lines(tmp_path / "edges.jsonl")) == 10


def test_an_unfinished_run_can_be_ended_from_outside(tmp_path):
    RunWriter(tmp_path, CONFIG, NETWORK, "local").__exit__(None, None, None)
    (tmp_path / "summary.json").write_text(json.dumps(summary_of(tmp_path) | {"status": "running"}))

    end_unfinished(tmp_path, "failed", "killed")

    assert (summary_of(tmp_path)["status"], summary_of(tmp_path)["error"]) == ("failed", "killed")


def test_a_finished_run_keeps_its_status(tmp_path):
    with RunWriter(tmp_path, CONFIG, NETWORK, "local"):
        pass

    end_unfinished(tmp_path, "failed", "killed")

    assert summary_of(tmp_path)["status"] == "completed"


def test_a_run_that_is_interrupted_is_not_failed_by_what_its_end_breaks(tmp_path):
    RunWriter(tmp_path, CONFIG, NETWORK, "local").__exit__(RuntimeError, RuntimeError("a worker died"), None)

    end_unfinished(tmp_path, "interrupted", "KeyboardInterrupt")

    assert (summary_of(tmp_path)["status"], summary_of(tmp_path)["error"]) == ("interrupted", "KeyboardInterrupt")


def test_a_folder_without_summary_is_left_alone(tmp_path):
    end_unfinished(tmp_path, "failed", "killed")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "rounds"),
    [("", []), ('{"round": 1}\n', [1]), ('{"round": 1}\n{"round": 2}\n', [1, 2]), ('{"round": 1}\n{"rou', [1]),
     ('{"rou', []), ('{"round": 1}\n{"round": 2}', [1])],
)  # fmt: skip
def test_a_last_line_that_was_cut_off_is_left_out(tmp_path, text, rounds):
    (tmp_path / "rounds.jsonl").write_text(text, encoding="utf-8")

    assert [line["round"] for line in read_lines(tmp_path / "rounds.jsonl")] == rounds


def test_a_missing_record_file_has_no_lines(tmp_path):
    assert read_lines(tmp_path / "rounds.jsonl") == []


def test_a_round_can_be_summarised_from_its_lines(tmp_path):
    with RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer:
        summary = writer.round(round_of_reports(), {0: 1.0, 1: 2.0, 2: 2.0})

    assert summarise_round(read_lines(tmp_path / "rounds.jsonl")) == summary


def test_byzantine_nodes_count_in_no_metric():
    lines = [
        {"round": 1, "node": 0, "byzantine": False, "accuracy": 0.5, "attack_success_rate": None, "diverged": False,
         "distance_to_mean": 1.0, "rejected": 1},
        {"round": 1, "node": 1, "byzantine": True, "accuracy": 0.1, "attack_success_rate": 1.0, "diverged": True,
         "distance_to_mean": 9.0, "rejected": 5},
    ]  # fmt: skip

    summary = summarise_round(lines)

    assert (summary.accuracy_mean, summary.accuracy_min) == (0.5, 0.5)
    assert summary.attack_success_rate_max is None
    assert summary.consensus_distance == 1.0
    assert summary.rejected == 1
    assert summary.diverged == ()


def test_the_checkpoint_holds_vector_and_buffers_of_every_node(tmp_path):
    models = [(0, torch.tensor([1.0, 2.0]), torch.empty(0)), (1, torch.tensor([3.0, 4.0]), torch.tensor([5.0]))]

    with RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer:
        writer.checkpoint(models)

    files = sorted(path.name for path in (tmp_path / "checkpoint").iterdir())
    assert files == ["node-0.safetensors", "node-1.safetensors"]
    assert {k: v.tolist() for k, v in load_file(tmp_path / "checkpoint" / files[0]).items()} == {"vector": [1, 2]}
    assert {k: v.tolist() for k, v in load_file(tmp_path / "checkpoint" / files[1]).items()} == {
        "vector": [3, 4], "buffers": [5]
    }  # fmt: skip


def test_no_partial_file_is_left_behind(tmp_path):
    with RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer:
        writer.nodes([NodeFacts(0, 1, (1,))])
        writer.round(round_of_reports(), {})
        writer.checkpoint([(0, torch.zeros(2), torch.empty(0))])

    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint", "config.toml", "edges.jsonl", "environment.json", "failures.jsonl", "nodes.json", "rounds.jsonl",
        "summary.json",
    ]  # fmt: skip
    assert not list(tmp_path.rglob("*.partial"))


def test_a_message_that_did_not_arrive_says_why_and_is_no_decision_of_the_rule(tmp_path):
    lost = report(0, missing={3: "dropped", 1: "late"}, weights={0: 0.5, 2: 0.5})

    with RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer:
        writer.round([lost, *(report(node) for node in (1, 2, 3))], {})

    line = read_lines(tmp_path / "rounds.jsonl")[0]
    assert line["missing"] == {"dropped": 1, "late": 1}
    edges = [line for line in read_lines(tmp_path / "edges.jsonl") if line["receiver"] == 0]
    assert [(edge["sender"], edge.get("missing")) for edge in edges] == [(1, "late"), (2, None), (3, "dropped")]
    summary = summary_of(tmp_path)
    assert summary["missing_messages"] == 2
    assert summary["byzantine_kept"] == 1.0  # one edge left, from node 3 to node 2, and it was kept


def test_a_late_message_that_an_older_one_stood_in_for_is_an_edge_like_any_other(tmp_path):
    with RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer:
        writer.round([report(0, missing={1: "late"}), *(report(node) for node in (1, 2, 3))], {})

    first = read_lines(tmp_path / "edges.jsonl")[0]
    assert (first["sender"], first["weight"], first.get("missing")) == (1, 0.25, None)


def test_a_node_that_took_no_part_has_a_line_and_no_edges(tmp_path):
    with RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer:
        writer.round([Report(0, 1, flags=("absent",)), *(report(node) for node in (1, 2, 3))], {})

    assert read_lines(tmp_path / "rounds.jsonl")[0]["flags"] == ["absent"]
    assert {line["receiver"] for line in read_lines(tmp_path / "edges.jsonl")} == {1, 2, 3}


def test_failures_are_recorded_and_counted_by_what_was_done(tmp_path):
    with RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer:
        writer.failure(1, 2, "its worker process died", "restart")
        writer.failure(1, 2, "ValueError: no", "skip")

    assert read_lines(tmp_path / "failures.jsonl") == [
        {"round": 1, "node": 2, "cause": "its worker process died", "consequence": "restart"},
        {"round": 1, "node": 2, "cause": "ValueError: no", "consequence": "skip"},
    ]
    assert (summary_of(tmp_path)["restarts"], summary_of(tmp_path)["failed_steps"]) == (1, 1)


def test_records_go_on_after_a_mark_as_if_nothing_had_happened(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    with RunWriter(whole, CONFIG, NETWORK, "local") as writer:
        for round in (1, 2, 3):
            writer.round(round_of_reports(round), {})
    with RunWriter(cut, CONFIG, NETWORK, "local") as writer:
        writer.round(round_of_reports(1), {})
        mark = json.loads(json.dumps(writer.mark()))
        writer.round(round_of_reports(2), {0: 9.0, 1: 9.0, 2: 9.0})
    with (cut / "rounds.jsonl").open("a") as file:
        file.write('{"round": 3, "no')

    with RunWriter(cut, CONFIG, NETWORK, "local", mark) as writer:
        for round in (2, 3):
            writer.round(round_of_reports(round), {})

    for name in ("rounds.jsonl", "edges.jsonl", "failures.jsonl", "config.toml"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    assert summary_of(cut) | {"seconds_total": 0} == summary_of(whole) | {"seconds_total": 0}


@pytest.mark.parametrize("damage", [lambda text: text[:-5], lambda text: text.replace("0.5", "0.6", 1)])
def test_records_that_changed_since_the_mark_are_refused_by_name(tmp_path, damage):
    with RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer:
        writer.round(round_of_reports(1), {})
        mark = writer.mark()
    path = tmp_path / "rounds.jsonl"
    path.write_text(damage(path.read_text()))

    with pytest.raises(ResumeError, match=r"rounds\.jsonl does not hold what was written up to the checkpoint"):
        RunWriter(tmp_path, CONFIG, NETWORK, "local", mark)


def test_a_refused_return_changes_nothing(tmp_path):
    with suppress(KeyboardInterrupt), RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer:
        writer.round(round_of_reports(1), {})
        mark = writer.mark()
        writer.round(round_of_reports(2), {})
        raise KeyboardInterrupt
    (tmp_path / "edges.jsonl").write_text((tmp_path / "edges.jsonl").read_text().replace("0", "1", 1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    with pytest.raises(ResumeError, match=r"edges\.jsonl does not hold"):
        RunWriter(tmp_path, CONFIG, NETWORK, "local", mark)

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert summary_of(tmp_path)["status"] == "interrupted"


def test_going_back_within_a_run_keeps_every_failure_and_counts_every_restart(tmp_path):
    with RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer:
        writer.rewind(None)
        writer.failure(0, -1, "lost first", "restart")
        writer.round(round_of_reports(1), {})
        mark = writer.mark()
        for which in ("second", "third"):
            writer.round(round_of_reports(2), {})
            writer.rewind(mark)
            writer.failure(1, -1, f"lost {which}", "restart")
        later = writer.mark()

    causes = ["lost first", "lost second", "lost third"]
    assert [line["cause"] for line in read_lines(tmp_path / "failures.jsonl")] == causes
    assert {line["round"] for line in read_lines(tmp_path / "rounds.jsonl")} == {1}
    assert (summary_of(tmp_path)["restarts"], summary_of(tmp_path)["rounds"]) == (3, 1)

    with RunWriter(tmp_path, CONFIG, NETWORK, "local", later):  # the mark of a checkpoint made afterwards
        pass

    assert [line["cause"] for line in read_lines(tmp_path / "failures.jsonl")] == causes
    assert summary_of(tmp_path)["restarts"] == 3

    with RunWriter(tmp_path, CONFIG, NETWORK, "local", mark):  # and of one made before
        pass

    assert [line["cause"] for line in read_lines(tmp_path / "failures.jsonl")] == ["lost first"]
    assert summary_of(tmp_path)["restarts"] == 1


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "edges.jsonl").symlink_to("/dev/full")

    with (
        pytest.raises(StorageError, match=r"edges\.jsonl: No space left on device$"),
        RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer,
    ):
        writer.round(round_of_reports(), {})

    assert summary_of(tmp_path)["status"] == "failed"
    assert "No space left" in summary_of(tmp_path)["error"]


def test_digests_of_a_round_are_one_file_with_the_lowest_receivers_view(tmp_path):
    views = [report(1, digests={0: torch.ones(2), 3: torch.zeros(2)}), report(0, digests={3: torch.full((2,), 5.0)})]

    with RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer:
        writer.round([*views, report(2), report(3)], {})

    kept = load_file(tmp_path / "digests" / "round-1.safetensors")
    assert {name: tensor.tolist() for name, tensor in kept.items()} == {"node-0": [1, 1], "node-3": [5, 5]}


def test_a_reopened_run_is_running_from_its_checkpoint_on(tmp_path):
    with RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer:
        writer.round(round_of_reports(), {})

    reopen(tmp_path, 0)

    assert (summary_of(tmp_path)["status"], summary_of(tmp_path)["rounds"]) == ("running", 0)


def test_a_run_that_is_still_written_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("flower_dfl.records._LOCK_TIMEOUT", 0.0)
    with RunWriter(tmp_path, CONFIG, NETWORK, "local") as writer:
        writer.round(round_of_reports(), {})
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

        with pytest.raises(ResumeError, match=r"^another process still writes .*rounds\.jsonl$"):
            reopen(tmp_path, 0)
        with pytest.raises(ResumeError, match=r"^another process still writes .*rounds\.jsonl$"):
            RunWriter(tmp_path, CONFIG, NETWORK, "flower")

        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_system_that_knows_no_locks_keeps_nobody_from_writing(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(records, "lock", refuse)

    file = records._RecordFile(tmp_path / "rounds.jsonl")
    file.append([{"round": 1}])

    assert read_lines(tmp_path / "rounds.jsonl") == [{"round": 1}]
    file.close()
