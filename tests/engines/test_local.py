import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file

from flower_dfl import experiment as experiment_module
from flower_dfl.config import parse
from flower_dfl.engines.local import run_local
from flower_dfl.errors import NodeFailedError
from flower_dfl.experiment import experiment_for
from flower_dfl.protocols import Attack, PeerStrategy
from flower_dfl.records import read_lines
from flower_dfl.types import Aggregate, Knowledge

TINY = {
    "num-nodes": 5,
    "num-byzantine": 2,
    "num-rounds": 3,
    "model.name": "lr",
    "data.num-train": 300,
    "data.num-test": 100,
    "strategy.name": "average",
    "train.device": "cpu",
}


@dataclass(frozen=True)
class FailsInRound(PeerStrategy[None]):
    """Fails when node 1 aggregates the given round."""

    round: int

    def aggregate(self, inbox, state, ctx):
        if (ctx.node, ctx.round) == (1, self.round):
            raise ZeroDivisionError("nothing to divide")
        return Aggregate(inbox.own.vector.clone(), state, {})


class FailsToStrike(Attack):
    knowledge: ClassVar[Knowledge] = Knowledge.OMNISCIENT

    def craft(self, view, receiver, ctx):
        raise RuntimeError("no idea")


class Colluder(Attack):
    """Sends the mean of all half-steps, which needs the second wave."""

    knowledge: ClassVar[Knowledge] = Knowledge.OMNISCIENT

    def craft(self, view, receiver, ctx):
        return torch.stack([u.vector for u in (*view.byzantine, *view.honest)]).mean(dim=0)


def run(folder, **changes):
    """Run a configuration; return its summary, final vectors, and rounds.jsonl."""
    folder.mkdir()
    summaries = []
    run_local(parse(TINY | changes), folder, summaries.append)
    vectors = {
        int(path.stem.removeprefix("node-")): load_file(path)["vector"] for path in (folder / "checkpoint").iterdir()
    }
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return summary, vectors, read_lines(folder / "rounds.jsonl"), summaries


def bits(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "checkpoint").iterdir())}


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(tmp_path / name, seed=seed, **{"strategy.name": "dfl-dual", "strategy.params": "iterations = 2"})

    assert bits(tmp_path / "a") == bits(tmp_path / "b")
    assert all(bits(tmp_path / "a")[name] != other for name, other in bits(tmp_path / "c").items())


def test_a_process_that_ran_something_else_before_gives_the_same_bytes(tmp_path):
    run(tmp_path / "first")
    run(tmp_path / "between", seed=7, **{"model.name": "fc", "attack.name": "label-flip"})
    experiment_module._cached.cache_clear()
    torch.manual_seed(123)
    run(tmp_path / "again")

    assert bits(tmp_path / "first") == bits(tmp_path / "again")


def test_the_number_of_threads_changes_no_byte_and_is_restored(tmp_path):
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            run(tmp_path / str(threads), **{"model.name": "fc"})
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)

    assert bits(tmp_path / "1") == bits(tmp_path / "2")


def test_every_round_is_reported_as_it_is_recorded(tmp_path):
    summary, _, lines, reported = run(tmp_path / "run")

    assert [(line["round"], line["node"]) for line in lines] == [(r, n) for r in (1, 2, 3) for n in range(5)]
    assert [s.round for s in reported] == [1, 2, 3]
    assert summary["status"] == "completed"
    assert summary["rounds"] == 3
    assert summary["honest_accuracy_mean"] == reported[-1].accuracy_mean
    assert summary["consensus_distance"] == reported[-1].consensus_distance


def test_where_results_go_is_no_part_of_the_experiment():
    assert experiment_for(parse(TINY)) is experiment_for(parse(TINY | {"results-dir": "elsewhere"}))


def test_rounds_that_are_not_due_are_recorded_without_evaluation(tmp_path):
    summary, _, lines, reported = run(tmp_path / "run", **{"eval.every": 2})

    assert [s.accuracy_mean is not None for s in reported] == [False, True, True]
    assert [s.consensus_distance is not None for s in reported] == [False, True, True]
    assert all(line["accuracy"] is None for line in lines if line["round"] == 1)
    assert summary["honest_accuracy_mean"] is not None


def test_how_often_models_are_evaluated_changes_no_byte_of_them(tmp_path):
    run(tmp_path / "often")
    run(tmp_path / "seldom", **{"eval.every": 3})

    assert bits(tmp_path / "often") == bits(tmp_path / "seldom")


def test_the_checkpoint_holds_the_models_whose_numbers_were_reported(tmp_path):
    _, vectors, lines, _ = run(tmp_path / "run")

    experiment = experiment_for(parse(TINY))
    last = {line["node"]: line for line in lines if line["round"] == 3}
    assert sorted(vectors) == [0, 1, 2, 3, 4]
    mean = torch.stack([vectors[node] for node in (0, 1, 2)]).double().mean(dim=0)
    for node in (0, 1, 2):
        scores = experiment.learner.logits(vectors[node], experiment.test.inputs)
        accuracy = (scores.argmax(dim=1) == experiment.test.labels).double().mean().item()
        assert last[node]["accuracy"] == pytest.approx(accuracy)
        assert last[node]["distance_to_mean"] == pytest.approx(float((vectors[node].double() - mean).norm()), rel=1e-6)


def test_on_a_complete_graph_without_attack_averaging_reaches_consensus(tmp_path):
    summary, vectors, _, _ = run(tmp_path / "run", **{"topology.name": "complete", "attack.name": "none"})

    assert summary["consensus_distance"] < 1e-5
    assert torch.allclose(vectors[0], vectors[4], atol=1e-6)
    assert summary["attack_success_rate_mean"] is None


def test_attackers_that_see_others_publish_in_the_same_round(tmp_path):
    summary, _, _, _ = run(tmp_path / "run", **{"attack.name": f"{__name__}:Colluder", "topology.name": "complete"})

    assert summary["byzantine_kept"] == 1.0
    assert summary["rounds"] == 3


@pytest.mark.parametrize(
    ("round", "when"), [(1, "between the exchanges of rounds 1 and 2"), (3, "at the end of round 3")]
)
def test_a_node_that_fails_is_named_with_the_moment_and_the_run_has_failed(tmp_path, round, when):
    message = rf"^node 1 failed {when}: ZeroDivisionError: nothing to divide$"
    changes = {"strategy.name": f"{__name__}:FailsInRound", "strategy.params": f"round = {round}"}

    with pytest.raises(NodeFailedError, match=message):
        run(tmp_path / "run", **changes)

    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["status"] == "failed"
    assert summary["error"].startswith("NodeFailedError: node 1 failed")
    assert summary["rounds"] == round - 1
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_an_attacker_that_fails_in_the_second_wave_is_named_too(tmp_path):
    with pytest.raises(NodeFailedError, match=r"^node 3 failed in round 1: RuntimeError: no idea$"):
        run(tmp_path / "run", **{"attack.name": f"{__name__}:FailsToStrike"})


def test_an_interrupted_run_says_so_and_keeps_its_complete_rounds(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()

    def interrupt(summary):
        if summary.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_local(parse(TINY), folder, interrupt)

    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert (summary["status"], summary["rounds"]) == ("interrupted", 2)
    assert len(read_lines(folder / "rounds.jsonl")) == 10


def test_under_a_byzantine_majority_dfl_dual_reaches_the_oracle_and_averaging_is_backdoored(tmp_path):
    # The paper's setting in small: 10 nodes, 6 of them send ten times a backdoored update, the built-in images.
    setting = {"num-nodes": 10, "num-byzantine": 6, "num-rounds": 4, "model.name": "fc", "data.num-train": 2_000}

    results = {
        name: run(tmp_path / name, **setting, **{"strategy.name": name, "data.num-test": 300})[0]
        for name in ("dfl-dual", "oracle", "average")
    }

    assert results["dfl-dual"]["byzantine_kept"] == 0.0
    assert results["dfl-dual"]["honest_accuracy_mean"] >= results["oracle"]["honest_accuracy_mean"] - 0.05
    assert results["dfl-dual"]["attack_success_rate_max"] < 0.1
    assert results["average"]["attack_success_rate_mean"] > 0.9
    assert results["average"]["byzantine_kept"] == 1.0
