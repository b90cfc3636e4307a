import re

import pytest

pytest.importorskip("tensorboard", reason="needs the extra flower-dfl[tracking]")

TINY = [
    "num-nodes=3", "num-byzantine=1", "num-rounds=2", "model.name=lr", "strategy.name=average", "data.num-train=60",
    "data.num-test=50", "train.device=cpu",
]  # fmt: skip
ARGUMENTS = [part for assignment in TINY for part in ("--set", assignment)]


def folder_of(output, tmp_path):
    return tmp_path / re.search(r"^run folder: (.*)$", output, re.MULTILINE)[1]


def test_a_run_can_be_followed_and_its_results_stay_the_same(command, tmp_path):
    _, plain, _ = command("run", "--engine", "local", *ARGUMENTS, "--results-dir", "plain")
    code, followed, _ = command(
        "run", "--engine", "local", *ARGUMENTS, "--results-dir", "followed", "--track", "tensorboard"
    )

    assert code == 0
    assert "round 2: " in followed
    first, second = folder_of(plain, tmp_path), folder_of(followed, tmp_path)
    assert not (first / "tensorboard").exists()
    assert list((second / "tensorboard").glob("events.out.tfevents.*"))
    for node in range(3):
        name = f"checkpoint/node-{node}.safetensors"
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_recorded_run_can_be_handed_over_later(command, tmp_path):
    _, output, _ = command("run", "--engine", "local", *ARGUMENTS)
    folder = folder_of(output, tmp_path)

    code, said, _ = command("track", folder, "--to", "tensorboard")

    assert (code, said) == (0, "2 rounds handed to tensorboard\n")
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))


def test_an_unknown_tracker_is_an_error_before_anything_starts(command, tmp_path):
    code, _, errors = command("run", "--engine", "local", *ARGUMENTS, "--track", "paper")

    assert code == 2
    assert "paper" in errors
    assert not (tmp_path / "runs").exists()
