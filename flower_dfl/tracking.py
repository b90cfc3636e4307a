"""Live curves in TensorBoard or Weights & Biases, from the numbers that the run folder records.

Following a run changes nothing about it: a tracker gets each round's summary after that was written.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from enum import StrEnum
from itertools import groupby
from pathlib import Path

from flower_dfl.config import RunConfig, flatten, load_toml, parse
from flower_dfl.errors import ConfigurationError
from flower_dfl.extras import needs_extra
from flower_dfl.records import RoundSummary, read_lines, summarise_round

__all__ = ["Tracker", "hand_over", "scalars", "tracking"]

Follow = Callable[[RoundSummary], None]
Open = Callable[[Path, RunConfig], AbstractContextManager[Follow]]


class Tracker(StrEnum):
    """Where to follow a run."""

    tensorboard = "tensorboard"
    wandb = "wandb"


def tracking(wanted: Sequence[Tracker]) -> Open:
    """Return what opens these trackers for a run folder and hands out the function to call after every round.

    Raises:
        ConfigurationError: A package is missing. The later call raises it where a tracker cannot start.
    """
    openers = [_OPENERS[tracker]() for tracker in dict.fromkeys(wanted)]

    @contextmanager
    def opened(folder: Path, config: RunConfig) -> Iterator[Follow]:
        with ExitStack() as stack:
            follows = [stack.enter_context(opener(folder, config)) for opener in openers]
            last = 0

            def follow(summary: RoundSummary) -> None:
                nonlocal last
                if summary.round <= last:  # played again from a checkpoint, with the same numbers
                    return
                last = summary.round
                for each in follows:
                    each(summary)

            yield follow

    return opened


def hand_over(folder: Path, wanted: Sequence[Tracker]) -> int:
    """Hand a recorded run to trackers and return the number of its rounds.

    Raises:
        ConfigurationError: It is no run folder, a package is missing, or a tracker cannot start.
    """
    opened = tracking(wanted)
    config = parse(load_toml(folder / "config.toml"))
    count = 0
    with opened(folder, config) as follow:
        for _, lines in groupby(read_lines(folder / "rounds.jsonl"), key=lambda line: line["round"]):
            follow(summarise_round(lines))
            count += 1
    return count


def scalars(summary: RoundSummary) -> dict[str, float]:
    """Return what a round recorded, without what it did not; of nodes their number."""
    values = {name: value for name, value in asdict(summary).items() if name != "round" and value is not None}
    return {name: float(len(value)) if isinstance(value, tuple) else float(value) for name, value in values.items()}


def _tensorboard() -> Open:
    with needs_extra("tracking"):
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - imports tensorboard

    @contextmanager
    def opened(folder: Path, config: RunConfig) -> Iterator[Follow]:
        place = folder / "tensorboard"
        if place.exists():
            raise ConfigurationError(f"{place} is there already, and would get every round twice; remove it")
        with SummaryWriter(str(place)) as writer:
            writer.add_text("settings", "\n".join(f"    {key} = {value!r}" for key, value in flatten(config).items()))

            def follow(summary: RoundSummary) -> None:
                for name, value in scalars(summary).items():
                    writer.add_scalar(name, value, summary.round)
                writer.flush()

            yield follow

    return opened


def _wandb() -> Open:
    with needs_extra("tracking"):
        import wandb  # noqa: PLC0415 - optional

    @contextmanager
    def opened(folder: Path, config: RunConfig) -> Iterator[Follow]:
        try:
            run = wandb.init(
                project="flower-dfl",
                name=folder.name,
                dir=folder,
                config=dict(flatten(config)),
                settings=wandb.Settings(console="off"),  # leaves the terminal to the progress bar
            )
        except wandb.Error as error:
            raise ConfigurationError(
                f"wandb cannot start: {error}; WANDB_MODE=offline records without the network"
            ) from error
        exit_code = 1
        try:
            yield lambda summary: run.log(scalars(summary), step=summary.round)
            exit_code = 0
        finally:
            run.finish(exit_code)

    return opened


_OPENERS: dict[Tracker, Callable[[], Open]] = {Tracker.tensorboard: _tensorboard, Tracker.wandb: _wandb}
