"""What the shell offers after ``--set``: keys, and names where a key takes one of a known list."""

from typing import get_args

from flower_dfl import registry
from flower_dfl.config import config_keys
from flower_dfl.experiment import NO_ATTACK
from flower_dfl.network import HIGHEST_LABELS
from flower_dfl.topologies.placement import Placement

__all__ = ["complete_setting"]


def complete_setting(incomplete: str) -> list[str]:
    """Return what ``incomplete``, the beginning of ``KEY=VALUE``, may go on to.

    >>> complete_setting("strategy.na"), complete_setting("strategy.name=kr")
    (['strategy.name='], ['strategy.name=krum'])
    """
    key, equals, _ = incomplete.partition("=")
    offers = [f"{key}={name}" for name in _names(key)] if equals else [f"{key}=" for key in config_keys()]
    return [offer for offer in offers if offer.startswith(incomplete)]


def _names(key: str) -> list[str]:
    if key == "placement.name":
        return [HIGHEST_LABELS, *get_args(Placement)]
    kind = "partition" if key == "data.partition" else key.removesuffix(".name")
    return (registry.names(kind) if kind in registry.COMPONENTS else []) + ([NO_ATTACK] if kind == "attack" else [])
