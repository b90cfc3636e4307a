"""Graph diagnostics as text and as a picture."""

from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from flower_dfl.extras import needs_extra
from flower_dfl.network import Network
from flower_dfl.topologies.diagnostics import diagnose

__all__ = ["draw_graph", "print_diagnostics"]


def print_diagnostics(network: Network, name: str, console: Console) -> None:
    """Print what :func:`flower_dfl.topologies.diagnostics.diagnose` finds."""
    found = asdict(diagnose(network.graph, network.byzantine))
    warnings = found.pop("warnings")
    table = Table(title=name, show_header=False)
    for label, value in found.items():
        table.add_row(label.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
    table.add_row("byzantine nodes", ", ".join(map(str, sorted(network.byzantine))) or "none")
    console.print(table)
    for warning in warnings:
        console.print(f"[yellow]warning:[/yellow] {warning}", soft_wrap=True, highlight=False)


def draw_graph(network: Network, name: str, picture: Path) -> Path:
    """Draw the graph with its adversaries and return the picture's absolute path."""
    with needs_extra("report"):
        from flower_dfl.figures.network import draw_network  # noqa: PLC0415 - imports matplotlib
        from flower_dfl.figures.style import save  # noqa: PLC0415
    return save(draw_network(network.graph, network.byzantine, name), picture)
