"""Decentralised, Byzantine-robust federated learning on Flower.

Every node trains, exchanges its model with its graph neighbours, and aggregates what it received by a rule of its own
choice. No server aggregates anything. Start at :mod:`flower_dfl.protocols` (what a rule and an attack are) and
:mod:`flower_dfl.node` (what a node does in a round).
"""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("flower-dfl")
