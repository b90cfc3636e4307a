"""Commands on recorded runs: go on with one, repeat one."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from flower_dfl.checkpoint import check_code, load_checkpoint, recorded_config, recorded_environment
from flower_dfl.cli.display import Display, say
from flower_dfl.cli.failure import logged
from flower_dfl.code_version import code_version
from flower_dfl.engines.flower import find_cluster, run_flower
from flower_dfl.engines.local import run_local
from flower_dfl.errors import DflError, ResumeError
from flower_dfl.replay import recorded_rounds, replay

__all__ = ["resume", "verify"]

RunArgument = Annotated[Path, typer.Argument(help="Folder of a recorded run.")]


def resume(
    run_folder: RunArgument,
    *,
    engine: Annotated[
        Literal["flower", "local"] | None, typer.Option(help="Engine; the default is the one it began in.")
    ] = None,
    cpus_per_node: Annotated[float, typer.Option(help="CPUs of each Ray worker.")] = 1.0,
    gpus_per_node: Annotated[float, typer.Option(help="GPUs of each Ray worker; fractions share one.")] = 0.0,
    ray_address: Annotated[
        str, typer.Option(envvar="RAY_ADDRESS", metavar="HOST:PORT", help="Ray cluster to join; 'local' starts one.")
    ] = "local",
) -> None:
    """Go on with an interrupted run: it ends with the same bytes as if it had never stopped."""
    folder, console = run_folder.resolve(), Console()
    config, environment = recorded_config(folder), recorded_environment(folder)
    if _status(folder) == "completed":
        say(console, f"completed already: {folder}")
        return
    check_code(folder / "environment.json", environment)
    checkpoint = load_checkpoint(folder, config)
    closed = 0 if checkpoint is None else checkpoint.round
    chosen = engine or ("local" if environment["engine"] == "local" else "flower")
    if chosen == "flower" and ray_address != "local":
        say(console, find_cluster(ray_address))
    say(console, f"run folder: {folder}, going on after round {closed}")
    with logged(folder), Display(config, chosen, console) as display:
        if chosen == "local":
            run_local(config, folder, display.round, resume=True)
        else:
            resources = {"cpus_per_node": cpus_per_node, "gpus_per_node": gpus_per_node}
            run_flower(config, folder, display.round, **resources, ray_address=ray_address)
    display.conclude(folder)
    say(console, f"results: {folder}")


def verify(
    run_folder: RunArgument,
    *,
    rounds: Annotated[int, typer.Option(min=0, help="Repeat only the first so many rounds; 0 repeats all.")] = 0,
) -> None:
    """Repeat a recorded run and report the first round and node that differ."""
    folder, console = run_folder.resolve(), Console()
    config = recorded_config(folder)
    recorded = recorded_rounds(folder)
    if recorded == 0:
        raise ResumeError(f"{folder} has no recorded round")
    count = min(rounds or recorded, recorded)
    if recorded_environment(folder).get("code_version") != code_version():
        typer.echo("warning: the run was recorded by another version of the code", err=True)
    with Display(config, "verify", console) as display:
        difference = replay(folder, count, display.round)
    if difference is not None:
        raise DflError(f"the repeated run differs first in {difference}")
    say(console, f"the same in all of {count} rounds: {folder}")


def _status(folder: Path) -> str:
    try:
        return str(json.loads((folder / "summary.json").read_text(encoding="utf-8"))["status"])
    except (OSError, ValueError, KeyError):
        return "unknown"
