"""Which rule met which attack: how runs are gathered for figures that compare rules over attacks."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from flower_dfl.errors import ConfigurationError
from flower_dfl.figures.series import differing
from flower_dfl.sweeps.tables import Cell

__all__ = ["count_attacks", "meetings"]


def meetings(cells: Sequence[Cell]) -> Mapping[str, Mapping[str, Sequence[Cell]]]:
    """Return runs by rule and by attack, each with the parameters that tell it apart; one for each seed.

    Args:
        cells: Completed runs with parameters as settings, see :func:`~flower_dfl.figures.series.with_parameters`.

    Raises:
        ConfigurationError: The runs differ in more than rule, attack and seed, or one of them is there twice.
    """
    others = [key for key in differing(cells) if key != "seed" and not key.startswith(("strategy.", "attack."))]
    if others:
        raise ConfigurationError(
            f"rules are compared on runs that differ in rule, attack and seed only; these also differ in "
            f"{', '.join(others)}: choose by --where KEY=VALUE"
        )
    namesakes: dict[str, list[Cell]] = {}
    for cell in cells:
        namesakes.setdefault(str(cell.settings["strategy.name"]), []).append(cell)
    varied = {name: differing(members) for name, members in namesakes.items()}
    rules: dict[str, dict[str, list[Cell]]] = {}
    for cell in cells:
        rule = _rule_of(cell, varied[str(cell.settings["strategy.name"])])
        rules.setdefault(rule, {}).setdefault(_attack_of(cell), []).append(cell)
    for rule, attacks in rules.items():
        for attack, members in attacks.items():
            seed, count = Counter(cell.settings["seed"] for cell in members).most_common(1)[0]
            if count > 1:
                raise ConfigurationError(
                    f"a mean takes every run once, but {attack} with seed {seed} was tried on {rule} more than once"
                )
    return rules


def count_attacks(cells: Iterable[Cell]) -> int:
    """Return how many attacks rules have met, each setting of one an attack of its own; none is no attack."""
    return len({_attack_of(cell) for cell in cells if cell.settings["attack.name"] != "none"})


def _rule_of(cell: Cell, varied: Iterable[str]) -> str:
    """Return a rule with those of its parameters that are varied."""
    own = [key for key in varied if key.startswith("strategy.params.") and key in cell.settings]
    return _called(cell, "strategy", own)


def _attack_of(cell: Cell) -> str:
    """Return an attack with its parameters; that an attack knows the rule that it meets makes it no other attack."""
    own = [
        key
        for key, value in sorted(cell.settings.items())
        if key.startswith("attack.params.") and not key.startswith("attack.params.rule") and value is not None
    ]
    return _called(cell, "attack", own)


def _called(cell: Cell, component: str, parameters: Iterable[str]) -> str:
    name = str(cell.settings[f"{component}.name"])
    shown = [f"{key.removeprefix(f'{component}.params.')} = {cell.settings[key]}" for key in parameters]
    return f"{name} ({', '.join(shown)})" if shown else name
