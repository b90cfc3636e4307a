"""Graph diagnostics as text."""

from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from flower_dfl.network import Network
from flower_dfl.topologies.diagnostics import diagnose

__all__ = ["print_diagnostics"]


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
