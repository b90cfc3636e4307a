"""The ``flower-dfl`` command: run, list, topology, data. Errors are one line and a true exit code."""

import logging
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import click
import typer
from rich.console import Console
from rich.text import Text

from flower_dfl import registry
from flower_dfl.cli.completion import complete_setting
from flower_dfl.cli.display import Display, say
from flower_dfl.cli.failure import logged
from flower_dfl.cli.graph import draw_graph, print_diagnostics
from flower_dfl.cli.plot import plot
from flower_dfl.cli.recorded import resume, verify
from flower_dfl.cli.report import report
from flower_dfl.cli.show import show
from flower_dfl.cli.split import show_split
from flower_dfl.cli.sweep import sweep, sweep_cell
from flower_dfl.cli.table import table
from flower_dfl.config import RunConfig, anchored, flatten, load_toml, nest, parse, parse_assignment, parse_params
from flower_dfl.data.loading import load
from flower_dfl.engines.flower import find_cluster, run_flower
from flower_dfl.engines.local import run_local
from flower_dfl.errors import ConfigurationError, DflError
from flower_dfl.experiment import experiment_for
from flower_dfl.network import build_network
from flower_dfl.records import RoundSummary, create_run_folder
from flower_dfl.topologies.placement import placement_warnings
from flower_dfl.tracking import Tracker, hand_over, tracking

__all__ = ["application", "main"]

application = typer.Typer(
    name="flower-dfl",
    help="Decentralised, Byzantine-robust federated learning on Flower.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
data_application = typer.Typer(help="Prepare data sets, and see how they are dealt.", no_args_is_help=True)
application.add_typer(data_application, name="data")
application.command()(resume)
application.command()(verify)
application.command()(report)
application.command()(sweep)
application.command()(plot)
application.command()(show)
application.command(hidden=True)(sweep_cell)
application.command()(table)

_USAGE_ERROR, _FAILURE, _INTERRUPTED = 2, 1, 130
_TRACEBACK = "FLOWER_DFL_TRACEBACK"
_LISTED = {
    "strategy": "Strategies",
    "attack": "Attacks",
    "topology": "Topologies",
    "schedule": "Schedules",
    "model": "Models",
    "data": "Data sets",
    "partition": "Partitions",
}

_TARGETED = ("alie-backdoor", "backdoor", "dba", "scaling")

FileArgument = Annotated[Path | None, typer.Argument(help="TOML file with settings; see `flower-dfl keys`.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Override a setting; may be repeated.",
        autocompletion=complete_setting,
    ),
]
PictureOption = Annotated[Path | None, typer.Option(help="Draw it, too: a file that ends in .png, .svg or .pdf.")]


def main() -> None:
    """Run the command and exit with its code."""
    sys.path.insert(0, str(Path.cwd()))  # references such as my_pkg.rules:MyRule name modules of the caller
    errors = Console(stderr=True)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = application(prog_name="flower-dfl", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        code = _INTERRUPTED
    except Exception as error:
        sys.exit(_tell(error, errors))
    if code == _INTERRUPTED:  # typer itself turns Ctrl-C into this code
        errors.print("interrupted; what was recorded so far is in the run folder")
    sys.exit(code if isinstance(code, int) else 0)


def _interrupt(number: int, frame: object) -> None:
    """Treat a polite request to end like Ctrl-C, so that what this process started is ended too."""
    del number, frame
    raise KeyboardInterrupt


def _tell(error: Exception, console: Console) -> int:
    """Say what failed and where the details are, and return the exit code."""
    usage = isinstance(error, ConfigurationError)
    label = ("error: ", "red") if usage else ("failed: ", "red")
    message = str(error) if isinstance(error, DflError) else f"{type(error).__name__}: {error}"
    console.print(Text.assemble(label, message), soft_wrap=True, highlight=False)
    for note in getattr(error, "__notes__", ()):
        say(console, note)
    if os.environ.get(_TRACEBACK):
        logging.getLogger(__name__).error("traceback", exc_info=error)
    elif not isinstance(error, DflError):
        console.print(f"{_TRACEBACK}=1 shows where", highlight=False)
    return _USAGE_ERROR if usage else _FAILURE


@application.command()
def run(
    file: FileArgument = None,
    *,
    engine: Annotated[
        Literal["flower", "local"], typer.Option(help="Flower's simulation engine on Ray, or this process alone.")
    ] = "flower",
    assignments: SetOption = None,
    results_dir: Annotated[Path | None, typer.Option(help="Folder for the run's own folder.")] = None,
    cpus_per_node: Annotated[float, typer.Option(help="CPUs of each Ray worker.")] = 1.0,
    gpus_per_node: Annotated[float, typer.Option(help="GPUs of each Ray worker; fractions share one.")] = 0.0,
    ray_address: Annotated[
        str, typer.Option(envvar="RAY_ADDRESS", metavar="HOST:PORT", help="Ray cluster to join; 'local' starts one.")
    ] = "local",
    track: Annotated[
        list[Tracker] | None, typer.Option(help="Follow the run there, too; it changes no result. May be repeated.")
    ] = None,
) -> None:
    """Run an experiment and print the absolute path of its folder."""
    config = read_config(file, assignments, results_dir)
    here = config if engine == "local" else _on_the_cpu(config)
    network = experiment_for(here).network  # finds what is wrong with a configuration before anything starts
    for warning in placement_warnings(network.graph, network.byzantine):
        typer.echo(f"warning: {warning}", err=True)
    console = Console()
    opened = tracking(track or [])
    if engine == "flower" and ray_address != "local":
        say(console, find_cluster(ray_address))
    folder = create_run_folder(config, Path.cwd())
    say(console, f"run folder: {folder}")
    with logged(folder), opened(folder, config) as follow, Display(config, engine, console) as display:

        def on_round(summary: RoundSummary) -> None:
            display.round(summary)
            follow(summary)

        if engine == "local":
            run_local(config, folder, on_round)
        else:
            workers = {"cpus_per_node": cpus_per_node, "gpus_per_node": gpus_per_node}
            run_flower(config, folder, on_round, **workers, ray_address=ray_address)
    display.conclude(folder)
    say(console, f"results: {folder}")


@application.command("list")
def list_components() -> None:
    """List strategies, attacks, topologies, schedules, models, data sets and partitions."""
    console = Console()
    for kind, title in _LISTED.items():
        console.print(f"[bold]{title}[/bold]")
        width = max(len(name) for name in registry.names(kind))
        for name in registry.names(kind):
            console.print(f"  {name:<{width}}  {registry.describe(kind, name)}", soft_wrap=True, highlight=False)


@application.command()
def keys() -> None:
    """List every setting with its default."""
    for key, value in flatten(RunConfig()).items():
        typer.echo(f"{key} = {value!r}")


@application.command()
def topology(file: FileArgument = None, *, assignments: SetOption = None, picture: PictureOption = None) -> None:
    """Print diagnostics of the graph of a configuration."""
    config = read_config(file, assignments, None)
    network = build_network(config)
    print_diagnostics(network, config.topology.name, Console())
    if picture is not None:
        typer.echo(str(draw_graph(network, config.topology.name, picture)))


@application.command()
def track(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    to: Annotated[list[Tracker], typer.Option(help="Where to; may be repeated.")],
) -> None:
    """Hand a recorded run to TensorBoard or Weights & Biases."""
    typer.echo(f"{hand_over(run, to)} rounds handed to {', '.join(to)}")


@data_application.command("show")
def show_data(file: FileArgument = None, *, assignments: SetOption = None, picture: PictureOption = None) -> None:
    """Show how many samples of which label every node of a configuration gets."""
    show_split(read_config(file, assignments, None), picture, Console())


@application.command()
def triggers(
    picture: Annotated[Path, typer.Option(help="PNG file to write.")],
    file: FileArgument = None,
    *,
    assignments: SetOption = None,
) -> None:
    """Draw the triggers of all attacks on images of the configured data set."""
    from flower_dfl.cli.pictures import draw_triggers  # noqa: PLC0415 - imports Pillow

    config = read_config(file, assignments, None)
    attacks: dict[str, dict[str, object]] = {name: {} for name in registry.names("attack") if name in _TARGETED}
    if config.attack.name in attacks:
        attacks[config.attack.name] = dict(config.attack.params)
    drawn = draw_triggers(load(config.data)[1], picture, attacks)
    typer.echo(f"{picture.resolve()}: {', '.join(drawn)}")


@data_application.command("prepare")
def prepare_data(
    source: Annotated[Path, typer.Argument(help="Folder with local copies of data sets.")],
    root: Annotated[Path, typer.Option(help="Folder to write them to; set data.root to it.")],
) -> None:
    """Convert local copies of MNIST, Fashion-MNIST and CIFAR-10 into what `data.root` expects."""
    from flower_dfl.data.prepare import prepare  # noqa: PLC0415 - imports torchvision

    try:
        for path in prepare(source, root):
            typer.echo(str(path.resolve()))
    except OSError as error:
        raise DflError(f"cannot write to {root}: {error}") from error


def read_config(file: Path | None, assignments: list[str] | None, results_dir: Path | None) -> RunConfig:
    """Put settings together: defaults, then the file, then assignments, then the results folder."""
    table = {} if file is None else nest(load_toml(file))
    for assignment in assignments or []:
        key, value = parse_assignment(assignment)
        table = _with(table, key, value)
    if results_dir is not None:
        table = _with(table, "results-dir", str(results_dir.resolve()))
    return anchored(parse(table))


def _on_the_cpu(config: RunConfig) -> RunConfig:
    """Return what the launcher of Flower's workers looks at: the devices are theirs, and so is their memory."""
    return replace(config, train=replace(config.train, device="cpu"))


def _with(table: dict[str, object], key: str, value: object) -> dict[str, object]:
    """Set a dotted key in a nested table."""
    first, _, rest = key.partition(".")
    inner = table.get(first)
    if rest and first == "params" and isinstance(inner, str):
        inner = parse_params(first, inner)
    if not rest or (first in table and not isinstance(inner, dict)):
        return table | {key: value}
    return table | {first: _with(dict(inner) if isinstance(inner, dict) else {}, rest, value)}
