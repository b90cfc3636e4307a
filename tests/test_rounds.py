"""Failures by policy, checkpoints and resuming, in the local engine; the Flower engine's own are in integration/."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from flower_dfl import codec
from flower_dfl.checkpoint import checkpoint_round, load_checkpoint, recorded_config
from flower_dfl.config import parse
from flower_dfl.engines.local import run_local
from flower_dfl.errors import LostError, NodeFailedError, ResumeError
from flower_dfl.experiment import experiment_for
from flower_dfl.records import RunWriter, read_lines
from flower_dfl.replay import first_difference, replay
from flower_dfl.rounds import Failure, play_rounds
from tests import models_for_tests

BASE = {
    "num-nodes": 4,
    "num-byzantine": 1,
    "num-rounds": 4,
    "topology.name": "complete",
    "strategy.name": "average",
    "attack.name": "none",
    "model.name": "lr",
    "data.num-train": 120,
    "data.num-test": 40,
    "checkpoint.every": 1,
}
TROUBLED = {
    "network.drop-rate": 0.2,
    "network.late-rate": 0.3,
    "network.staleness": 1,
    "network.churn": 0.2,
    "network.absence": 1,
    "schedule.name": "edge-failures",
    "schedule.params": "p = 0.2",
}
RUNS = {
    "stateless": {},
    "rule with state": {"strategy.name": "dfl-detector", "attack.name": "scaling"},
    "late letters and churn": TROUBLED | {"attack.name": "alie", "attack.params": "z = 1.0"},
    "batch statistics": {"model.name": "tests.models_for_tests:batch_norm"},
    "layers that draw": {"model.name": "tests.models_for_tests:dropout"},
    "scheduled attack": {"attack.name": "scheduled", "attack.params": "attack = 'scaling', start = 2"},
}


def folder_in(path, name):
    (path / name).mkdir()
    return path / name


def contents(folder):
    """Everything that a run leaves, without clock times."""
    records = {
        name: [line | {"seconds": None} for line in read_lines(folder / name)]
        for name in ("rounds.jsonl", "edges.jsonl", "failures.jsonl")
    }
    summary = json.loads((folder / "summary.json").read_text()) | {"seconds_total": None}
    models = {path.name: path.read_bytes() for path in (folder / "checkpoint").glob("*.safetensors")}
    return records, summary, models


def interrupt_after(rounds):
    def on_round(summary):
        if summary.round == rounds:
            raise KeyboardInterrupt

    return on_round


class Team:
    """Nodes that fail as told: ``faults`` maps (message, node) to how often, to a Failure for ever, or to a list.

    A fault of the second wave is one of (message, node, "strike").
    """

    def __init__(self, experiment, faults):
        from flower_dfl.engines.local import _Team

        self._team = _Team(experiment, experiment.config)
        self.faults = dict(faults)
        self.restored = []

    def __getattr__(self, name):
        return getattr(self._team, name)

    def step(self, wave, message, nodes):
        outcomes = {}
        for node in nodes:
            step = (message, node) if wave == "play" else (message, node, wave)
            fault = self.faults.get(step, 0)
            if isinstance(fault, Failure):
                outcomes[node] = fault
            elif isinstance(fault, list) and fault:
                outcomes[node] = fault.pop(0)
            elif fault:
                self.faults[step] -= 1
                outcomes[node] = Failure("ValueError: as told")
            else:
                outcomes |= self._team.step(wave, message, [node])
        return outcomes

    def restore(self, checkpoint):
        self.restored.append(0 if checkpoint is None else checkpoint.round)
        self.faults = {}
        self._team.restore(checkpoint)


def play_with(faults, folder, kind=Team, **settings):
    config = parse(BASE | settings)
    experiment = replace(experiment_for(config), config=config)
    team = kind(experiment, faults)
    with RunWriter(folder, config, experiment.network, "local") as writer:
        play_rounds(config, experiment.network, experiment.attack, team, writer)
    return team


STRIKES = {"attack.name": "alie", "attack.params": "z = 1.0"}


def test_an_attack_that_fails_stops_the_run_with_the_round_of_the_attack(tmp_path):
    with pytest.raises(NodeFailedError, match=r"^node 3 failed in round 2: ValueError: as told$"):
        play_with({(2, 3, "strike"): 1}, tmp_path, **STRIKES)

    assert [(line["round"], line["node"]) for line in read_lines(tmp_path / "failures.jsonl")] == [(2, 3)]


def test_an_attack_that_fails_is_repeated_or_skipped_by_the_policy(tmp_path):
    whole, mended, skipped = (folder_in(tmp_path, name) for name in ("whole", "mended", "skipped"))
    play_with({}, whole, **STRIKES)

    for folder, policy in ((mended, "restart"), (skipped, "skip")):
        play_with({(2, 3, "strike"): 1}, folder, **STRIKES, **{"on-node-failure": policy})

    assert contents(mended)[2] == contents(whole)[2]
    missing = [(line["round"], line["node"]) for line in read_lines(skipped / "rounds.jsonl") if line["missing"]]
    assert missing == [(2, 0), (2, 1), (2, 2)]


def test_a_first_step_that_fails_is_one_of_round_1(tmp_path):
    play_with({(1, 1): 1}, tmp_path, **{"on-node-failure": "skip"})

    assert [(line["round"], line["node"]) for line in read_lines(tmp_path / "failures.jsonl")] == [(1, 1)]


def test_a_failed_step_stops_the_run_with_node_moment_and_cause(tmp_path):
    with pytest.raises(
        NodeFailedError, match=r"^node 2 failed between the exchanges of rounds 1 and 2: ValueError: as told$"
    ):
        play_with({(2, 2): 1}, tmp_path)

    assert read_lines(tmp_path / "failures.jsonl") == [
        {"round": 1, "node": 2, "cause": "ValueError: as told", "consequence": "stop"}
    ]
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "failed"


def test_a_restarted_step_gives_the_run_that_never_failed(tmp_path):
    whole, mended = folder_in(tmp_path, "whole"), folder_in(tmp_path, "mended")
    play_with({}, whole, **{"on-node-failure": "restart"})

    play_with({(2, 2): 1, (3, 0): 2}, mended, **{"on-node-failure": "restart"})

    assert contents(mended)[2] == contents(whole)[2]
    assert contents(mended)[0]["rounds.jsonl"] == contents(whole)[0]["rounds.jsonl"]
    assert contents(mended)[1]["restarts"] == 3


def test_a_step_that_keeps_failing_stops_the_run_in_the_end(tmp_path):
    with pytest.raises(NodeFailedError, match=r"^node 0 failed in round 1: ValueError: as told$"):
        play_with({(1, 0): 99}, tmp_path, **{"on-node-failure": "restart"})

    assert [line["consequence"] for line in read_lines(tmp_path / "failures.jsonl")] == ["restart", "restart", "stop"]


def test_the_neighbours_of_a_skipped_node_see_no_message_that_round_and_it_comes_back(tmp_path):
    play_with({(2, 1): 1}, tmp_path, **{"on-node-failure": "skip"})

    lines = {(line["round"], line["node"]): line for line in read_lines(tmp_path / "rounds.jsonl")}
    assert lines[1, 1]["flags"] == ["failed"]  # it could not close round 1
    assert lines[1, 1]["accuracy"] is None
    assert lines[2, 1]["flags"] == ["absent"]  # nor take part in round 2
    assert lines[2, 0]["missing"] == {"silent": 1}
    assert lines[3, 1]["flags"] == []
    assert lines[3, 0]["missing"] == {}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["status"], summary["failed_steps"]) == ("completed", 1)


def test_a_run_in_which_every_honest_node_fails_is_not_skipped_to_its_end(tmp_path):
    with pytest.raises(NodeFailedError, match=r"^every honest node failed in round 1; node 0: ValueError: as told$"):
        play_with({(1, node): 1 for node in range(4)}, tmp_path, **{"on-node-failure": "skip"})


def test_where_state_is_lost_a_restarting_run_goes_back_to_its_checkpoint(tmp_path):
    whole, mended = folder_in(tmp_path, "whole"), folder_in(tmp_path, "mended")
    play_with({}, whole, **{"on-node-failure": "restart"})

    team = play_with({(4, 2): Failure("LostError: gone", is_lost=True)}, mended, **{"on-node-failure": "restart"})

    assert team.restored == [2]
    assert contents(mended)[2] == contents(whole)[2]
    assert contents(mended)[0]["rounds.jsonl"] == contents(whole)[0]["rounds.jsonl"]
    assert contents(mended)[0]["edges.jsonl"] == contents(whole)[0]["edges.jsonl"]


def test_state_that_is_lost_at_the_last_attempt_stops_nothing_and_is_not_recorded_so(tmp_path):
    failed, lost = Failure("ValueError: as told"), Failure("LostError: gone", is_lost=True)

    team = play_with({(4, 2): [failed, failed, lost]}, tmp_path, **{"on-node-failure": "restart"})

    assert team.restored == [2]
    assert [(line["node"], line["consequence"]) for line in read_lines(tmp_path / "failures.jsonl")] == [
        (2, "restart"), (2, "restart"), (2, "restart"), (-1, "restart")
    ]  # fmt: skip


def test_without_a_checkpoint_it_goes_back_to_the_beginning(tmp_path):
    lost = {(3, 2): Failure("LostError: gone", is_lost=True)}

    team = play_with(lost, tmp_path, **{"on-node-failure": "restart", "checkpoint.every": 0})

    assert team.restored == [0]
    assert len(read_lines(tmp_path / "rounds.jsonl")) == 16


def test_lost_state_stops_a_run_that_does_not_restart(tmp_path):
    with pytest.raises(NodeFailedError, match=r"^node 2 failed between .*: LostError: gone$"):
        play_with({(3, 2): Failure("LostError: gone", is_lost=True)}, tmp_path)


def test_a_run_that_loses_the_same_round_again_and_again_ends(tmp_path):
    class Cursed(Team):
        def restore(self, checkpoint):
            faults = self.faults
            super().restore(checkpoint)
            self.faults = faults

    config = parse(BASE | {"on-node-failure": "restart"})
    experiment = experiment_for(config)
    team = Cursed(experiment, {(3, 2): Failure("LostError: gone", is_lost=True)})

    with pytest.raises(LostError, match="gone"), RunWriter(tmp_path, config, experiment.network, "local") as writer:
        play_rounds(config, experiment.network, experiment.attack, team, writer)

    assert team.restored == [1, 1, 1]


def test_a_node_that_fails_from_the_beginning_to_the_end_can_be_skipped(tmp_path):
    play_with({(message, 1): 1 for message in range(1, 6)}, tmp_path, **{"on-node-failure": "skip"})

    lines = [line for line in read_lines(tmp_path / "rounds.jsonl") if line["node"] == 1]
    assert [line["flags"] for line in lines] == [["failed"]] * 4
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["status"], summary["failed_steps"], summary["consensus_distance"]) == ("completed", 5, None)
    models = {path.name for path in (tmp_path / "checkpoint").glob("*.safetensors")}
    assert models == {"node-0.safetensors", "node-2.safetensors", "node-3.safetensors"}  # node 1 has no model


def test_a_model_that_is_lost_after_the_last_round_is_made_again_from_the_checkpoint(tmp_path):
    class Forgetful(Team):
        def memories(self, nodes):
            if "rounds" in self.faults:
                raise LostError("gone")
            return self._team.memories(nodes)

        def step(self, wave, message, nodes):
            if message == 5 and not self.restored:
                self.faults["rounds"] = 0  # from now on, until it is restored
            return super().step(wave, message, nodes)

    whole, mended = folder_in(tmp_path, "whole"), folder_in(tmp_path, "mended")
    play_with({}, whole, **{"on-node-failure": "restart"})

    team = play_with({}, mended, Forgetful, **{"on-node-failure": "restart"})

    assert team.restored == [3]
    assert contents(mended)[2] == contents(whole)[2]


def test_what_is_lost_is_named_though_the_checkpoint_cannot_be_read(tmp_path):
    class Forgetful(Team):
        def distances_to_mean(self, nodes):
            (tmp_path / "checkpoint" / "state-1").mkdir(parents=True)
            raise LostError("gone")

    with pytest.raises(LostError, match=r"^gone$"):
        play_with({}, tmp_path, Forgetful)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("stopped_after", [1, 3])
def test_a_resumed_run_ends_with_the_bytes_of_one_that_never_stopped(tmp_path, name, stopped_after):
    config = parse(BASE | RUNS[name])
    whole, cut = folder_in(tmp_path, "whole"), folder_in(tmp_path, "cut")
    run_local(config, whole)
    with pytest.raises(KeyboardInterrupt):
        run_local(config, cut, interrupt_after(stopped_after))
    assert json.loads((cut / "summary.json").read_text())["status"] == "interrupted"

    run_local(config, cut, resume=True)

    assert contents(cut) == contents(whole)


def test_a_run_without_checkpoints_is_resumed_from_the_beginning(tmp_path):
    config = parse(BASE | {"checkpoint.every": 0})
    whole, cut = folder_in(tmp_path, "whole"), folder_in(tmp_path, "cut")
    run_local(config, whole)
    with pytest.raises(KeyboardInterrupt):
        run_local(config, cut, interrupt_after(2))

    run_local(config, cut, resume=True)

    assert contents(cut) == contents(whole)


def test_checkpoints_come_every_so_many_rounds_and_only_the_newest_is_kept(tmp_path):
    config = parse(BASE | {"num-rounds": 5, "checkpoint.every": 2})

    run_local(config, tmp_path)

    assert [path.name for path in (tmp_path / "checkpoint").glob("state-*")] == ["state-4"]


def test_letters_to_strangers_are_no_part_of_a_checkpoint(tmp_path):
    class Liars(Team):
        def letters_of(self, sender, round):
            letters = self._team.letters_of(sender, round)
            return letters | dict.fromkeys(range(10**5), next(iter(letters.values())))

    play_with({}, tmp_path, Liars, **{"network.late-rate": 1.0})

    letters = load_checkpoint(tmp_path, recorded_config(tmp_path)).letters
    assert {sender: sent.keys() for sender, _, sent in letters} == {i: {0, 1, 2, 3} - {i} for i in range(4)}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was interrupted after round 3, with the checkpoint of round 2 and every letter under way."""
    folder = tmp_path_factory.mktemp("stopped")
    late = {"checkpoint.every": 2, "network.late-rate": 1.0, "network.staleness": 1}
    with pytest.raises(KeyboardInterrupt):
        run_local(parse(BASE | late), folder, interrupt_after(3))
    return folder


@pytest.fixture
def damaged(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "run")


@pytest.mark.parametrize("name", ["node-1.safetensors", "letters-2.safetensors"])
@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:20] + b"\xff" + data[21:]])
def test_a_damaged_file_of_a_checkpoint_is_refused_by_name(damaged, name, damage):
    path = damaged / "checkpoint" / "state-2" / name
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(ResumeError, match=rf"state-2/{name} is damaged"):
        load_checkpoint(damaged, recorded_config(damaged))


def test_a_missing_file_of_a_checkpoint_is_refused_by_name(damaged):
    (damaged / "checkpoint" / "state-2" / "node-3.safetensors").unlink()

    with pytest.raises(ResumeError, match=r"cannot read .*node-3\.safetensors: No such file"):
        load_checkpoint(damaged, recorded_config(damaged))


def test_a_damaged_manifest_is_refused_by_name(damaged):
    (damaged / "checkpoint" / "state-2" / "manifest.json").write_text("{")

    with pytest.raises(ResumeError, match=r"manifest\.json is damaged"):
        load_checkpoint(damaged, recorded_config(damaged))


def test_another_configuration_is_refused_by_the_keys_that_changed(damaged):
    path = damaged / "config.toml"
    path.write_text(path.read_text().replace("lr = 0.05", "lr = 0.5"))

    with pytest.raises(ResumeError, match=r"environment\.json: train\.lr was 0\.05, is 0\.5$"):
        recorded_config(damaged)


def test_another_code_version_is_refused(damaged):
    path = damaged / "checkpoint" / "state-2" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"code_version": "0.0.0+other"}))

    with pytest.raises(ResumeError, match=r"state-2 was written by code version '0\.0\.0\+other', this is '0\.1\.0"):
        load_checkpoint(damaged, recorded_config(damaged))


def test_a_letter_to_several_receivers_is_saved_once(stopped):
    path = stopped / "checkpoint" / "state-2" / "letters-0.safetensors"

    sender, round, routes, letters = codec.unpack(path.read_bytes())

    assert (sender, round, routes, len(letters)) == (0, 2, {1: 0, 2: 0, 3: 0}, 1)


def test_an_unfinished_checkpoint_does_not_count(damaged):
    (damaged / "checkpoint" / "state-3.partial").mkdir()

    assert load_checkpoint(damaged, recorded_config(damaged)).round == 2
    assert checkpoint_round(damaged, recorded_config(damaged)) == 2


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ResumeError, match=r"is no run folder: it must hold config\.toml and environment\.json$"):
        recorded_config(tmp_path)


def test_a_recorded_run_is_the_same_when_repeated(stopped):
    assert replay(stopped, 3) is None


def test_a_run_with_steps_that_fail_and_are_skipped_can_be_verified(tmp_path):
    table = BASE | {"num-nodes": 5, "topology.name": "ring", "strategy.name": "krum", "budget-policy": "error"}
    run_local(parse(table | {"on-node-failure": "skip", "data.num-train": 150}), tmp_path)

    assert read_lines(tmp_path / "failures.jsonl")
    assert replay(tmp_path, 4) is None


def test_what_a_layer_draws_differs_between_nodes_and_rounds(tmp_path):
    models_for_tests.Drawing.drawn.clear()

    run_local(parse(BASE | {"num-rounds": 2, "model.name": "tests.models_for_tests:drawing"}), tmp_path)

    drawn = models_for_tests.Drawing.drawn
    assert len(drawn) == len(set(drawn)) >= 4 * 2  # four nodes, two rounds


def test_training_leaves_the_global_generator_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    run_local(parse(BASE | {"num-rounds": 1, "model.name": "tests.models_for_tests:dropout"}), tmp_path)

    assert torch.equal(torch.rand(3), expected)


def test_the_first_difference_is_named_by_file_round_and_node(damaged):
    path = damaged / "rounds.jsonl"
    lines = read_lines(path)
    changed = next(line for line in lines if (line["round"], line["node"]) == (2, 1))
    genuine, changed["fingerprint"] = changed["fingerprint"], "0" * 16
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    assert replay(damaged, 1) is None
    assert replay(damaged, 3) == (f"rounds.jsonl: round 2, node 1: fingerprint was '0000000000000000', is '{genuine}'")


def test_a_line_too_few_or_too_many_is_a_difference(damaged, stopped):
    path = damaged / "edges.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:]))

    assert first_difference(damaged, stopped, 1).endswith(
        "round 1, receiver 0, sender 1 is there when repeated, but not recorded"
    )
    assert first_difference(stopped, damaged, 1).endswith(
        "round 1, receiver 0, sender 1 is recorded, but not there when repeated"
    )
