import builtins
import json
import time

import pytest

from flower_dfl.config import parse
from flower_dfl.engines.local import run_local
from flower_dfl.errors import ConfigurationError
from flower_dfl.records import RoundSummary, read_lines, summarise_round
from flower_dfl.tracking import Tracker, hand_over, scalars, tracking

CONFIG = parse(
    {
        "num-nodes": 3,
        "num-byzantine": 1,
        "num-rounds": 2,
        "topology.name": "complete",
        "strategy.name": "average",
        "model.name": "lr",
        "data.num-train": 60,
        "data.num-test": 50,
        "train.device": "cpu",
    }
)


@pytest.fixture(scope="module")
def summaries(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    found = []
    run_local(CONFIG, folder, found.append)
    return found


def tensorboard_scalars(folder):
    """Return what TensorBoard's own reader finds, by tag."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard")
    events = reader.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def log_entries(data):
    """Split a LevelDB log, which is how wandb stores a run, after its header of 7 bytes into entries."""
    at, entry = 7, b""
    while at + 7 <= len(data):
        left_in_block = 32768 - at % 32768
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if left_in_block < 7 or kind == 0:  # padding
            at += left_in_block
            continue
        if at + 7 + size > len(data):  # the rest is still being written
            return
        entry += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in {1, 4}:  # whole, or the last part
            yield entry
            entry = b""


def wandb_records(folder):
    """Return the steps and the settings that an offline run of wandb recorded."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 60
    while True:  # wandb's own process may write what it was given after `finish` has returned
        records = [Record.FromString(entry) for entry in log_entries(file.read_bytes())]
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            break
        assert time.monotonic() < deadline, "wandb has not written the end of the run"
        time.sleep(0.1)
    steps, settings = [], {}
    for record in records:
        settings |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        if record.history.item:
            steps.append({"".join(item.nested_key): json.loads(item.value_json) for item in record.history.item})
    return steps, settings


def test_a_round_becomes_numbers_and_what_was_not_measured_is_left_out():
    summary = RoundSummary(3, 0.5, 0.25, None, None, 1.5, 2, (4, 7))

    found = scalars(summary)

    assert found == {
        "accuracy_mean": 0.5,
        "accuracy_min": 0.25,
        "consensus_distance": 1.5,
        "rejected": 2.0,
        "diverged": 2.0,
    }


def test_tensorboard_reads_back_every_round(tmp_path, summaries):
    pytest.importorskip("tensorboard", reason="needs the extra flower-dfl[tracking]")

    with tracking([Tracker.tensorboard])(tmp_path, CONFIG) as follow:
        for summary in summaries:
            follow(summary)

    found = tensorboard_scalars(tmp_path)
    assert set(found) == set(scalars(summaries[0]))
    assert found["accuracy_mean"] == [(s.round, pytest.approx(s.accuracy_mean)) for s in summaries]


def test_rounds_that_are_played_again_from_a_checkpoint_are_followed_once(tmp_path, summaries):
    first, second = summaries
    with tracking([Tracker.tensorboard])(tmp_path, CONFIG) as follow:
        for summary in (first, second, first, second):
            follow(summary)

    assert [step for step, _ in tensorboard_scalars(tmp_path)["accuracy_mean"]] == [1, 2]


def test_tensorboard_sees_a_round_before_the_run_has_ended(tmp_path, summaries):
    pytest.importorskip("tensorboard", reason="needs the extra flower-dfl[tracking]")

    with tracking([Tracker.tensorboard])(tmp_path, CONFIG) as follow:
        follow(summaries[0])

        assert len(tensorboard_scalars(tmp_path)["accuracy_mean"]) == 1


def test_wandb_records_every_round_and_the_settings_offline(tmp_path, summaries, monkeypatch):
    pytest.importorskip("wandb", reason="needs the extra flower-dfl[tracking]")
    monkeypatch.setenv("WANDB_MODE", "offline")

    with tracking([Tracker.wandb])(tmp_path, CONFIG) as follow:
        for summary in summaries:
            follow(summary)

    steps, settings = wandb_records(tmp_path)
    assert [step["_step"] for step in steps] == [1, 2]
    assert [step["accuracy_mean"] for step in steps] == [summary.accuracy_mean for summary in summaries]
    assert settings["strategy.name"] == "average"


def test_a_run_that_fails_is_a_failed_run_of_wandb(tmp_path, summaries, monkeypatch, capsys):
    wandb = pytest.importorskip("wandb", reason="needs the extra flower-dfl[tracking]")
    monkeypatch.setenv("WANDB_MODE", "offline")
    codes = []
    finish = wandb.Run.finish
    monkeypatch.setattr(wandb.Run, "finish", lambda run, code=None: (codes.append(code), finish(run, code)))

    with pytest.raises(RuntimeError, match="planned"), tracking([Tracker.wandb])(tmp_path, CONFIG):
        raise RuntimeError("planned")

    assert codes == [1]
    assert "Traceback" not in capsys.readouterr().err


def test_a_tracker_that_cannot_start_is_an_error_that_says_what_helps(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="needs the extra flower-dfl[tracking]")

    def refuse(**options):
        raise wandb.errors.UsageError("no key")

    monkeypatch.setattr(wandb, "init", refuse)
    opened = tracking([Tracker.wandb])

    with (
        pytest.raises(ConfigurationError, match="wandb cannot start: no key; WANDB_MODE=offline"),
        opened(tmp_path, CONFIG),
    ):
        pass


@pytest.mark.parametrize(("tracker", "package"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_missing_package_is_an_error_before_anything_starts(tracker, package, monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name == package:
            raise ModuleNotFoundError(f"No module named {tracker!r}", name=tracker)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)

    with pytest.raises(ConfigurationError, match=rf"the package '{tracker}': pip install 'flower-dfl\[tracking\]'"):
        tracking([Tracker(tracker)])


def test_without_trackers_nothing_is_imported_and_nothing_written(tmp_path, summaries):
    with tracking([])(tmp_path, CONFIG) as follow:
        follow(summaries[0])

    assert list(tmp_path.iterdir()) == []


def test_a_recorded_run_can_be_handed_over_once(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra flower-dfl[tracking]")
    run_local(CONFIG, tmp_path)

    assert hand_over(tmp_path, [Tracker.tensorboard]) == 2

    lines = [line for line in read_lines(tmp_path / "rounds.jsonl") if line["round"] == 2]
    last = pytest.approx(summarise_round(lines).accuracy_mean)
    assert tensorboard_scalars(tmp_path)["accuracy_mean"][1] == (2, last)
    with pytest.raises(ConfigurationError, match="would get every round twice"):
        hand_over(tmp_path, [Tracker.tensorboard])


def test_what_is_no_run_cannot_be_handed_over(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot read"):
        hand_over(tmp_path, [])
