"""What a sweep consists of: one TOML file, expanded and checked to the last cell before anything starts.

::

    [base]                       # settings that all cells share; the rest are the defaults
    num-rounds = 10
    strategy.name = "dfl-dual"

    [matrix]                     # every combination of these is a cell
    "train.lr" = [0.05, 0.1]
    seed = [0, 1, 2]
    strategy = [                 # a choice may set several keys below its own ...
      { name = "average" },
      { label = "mk-2", name = "multi-krum", params = { m = 2 } },
    ]
    setting = [                  # ... or, under a name that is no key, any keys
      { label = "iid", data.partition = "iid" },
      { label = "skewed", data.partition = "label-skew", data.params = { p = 0.9 } },
    ]

    [[exclude]]                  # combinations with all of these values are left out
    strategy.name = "average"
    "train.lr" = 0.1

    [[cell]]                     # one more cell: base and these
    name = "long"
    num-rounds = 50

Parameters belong to the component that they are for: a choice that names another component drops the base's parameters.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flower_dfl import registry
from flower_dfl.config import RunConfig, config_keys, flatten, load_toml, nest, parse, parse_params
from flower_dfl.errors import ConfigurationError, DflError
from flower_dfl.experiment import build_rules
from flower_dfl.network import build_network
from flower_dfl.sweeps.cells import Settings, hash_settings, settings_in
from flower_dfl.validation import check_known

__all__ = ["PlannedCell", "Sweep", "load_sweep"]

_LONGEST_NAME = 80  # of a folder, beside the hash

Table = dict[str, Any]  # whole configuration keys and their values


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """A cell before it has run.

    Attributes:
        name: Its name, unique in the sweep.
        settings: Its whole configuration, flat, without ``results-dir``.
    """

    name: str
    settings: Settings

    @property
    def hash(self) -> str:
        """Hash of all settings: what makes two cells the same."""
        return hash_settings(self.settings)

    @property
    def folder(self) -> str:
        """Name of its folder: readable, and different where any setting is."""
        readable = re.sub(r"[^\w.=-]+", "_", self.name)[:_LONGEST_NAME]
        return f"{readable}-{self.hash[:8]}"


@dataclass(frozen=True, slots=True)
class Sweep:
    """All cells of a sweep.

    Attributes:
        text: The file.
        cells: The cells, in its order.
    """

    text: str
    cells: tuple[PlannedCell, ...]


@dataclass(frozen=True, slots=True)
class _Choice:
    """One value of an axis of the matrix: how cells are called that have it, and what it sets."""

    label: str
    table: Table


def load_sweep(path: Path) -> Sweep:
    """Read a sweep and check every cell, short of loading data.

    Raises:
        ConfigurationError: A key or component is unknown, a value is wrong, an exclusion excludes nothing, or two cells
            are the same or have the same name.
    """
    document = load_toml(path)
    for key in document:
        check_known(f"table in {path}", key, ["base", "cell", "exclude", "matrix"])
    base = _assignments("base", document.get("base", {}))
    cells = [*_matrix_cells(base, document), *_named_cells(base, document)]
    if not cells:
        raise ConfigurationError(f"{path} has no cells: give a [matrix] or a [[cell]]")
    _check_distinct(cells)
    for cell in cells:
        _check_components(cell)
    return Sweep(path.read_text(encoding="utf-8"), tuple(cells))


def _matrix_cells(base: Table, document: Mapping[str, Any]) -> Iterator[PlannedCell]:
    axes = [_choices(axis, values) for axis, values in _axes(_table("matrix", document.get("matrix", {})), "")]
    excluded = [_assignments(f"exclude {i}", table) for i, table in _tables("exclude", document)]
    if {} in excluded:
        raise ConfigurationError("an [[exclude]] must name a setting, or it would exclude everything")
    used = [False] * len(excluded)
    for choices in itertools.product(*axes) if axes else ():
        table: Table = {}
        for choice in choices:
            table = _merge(table, choice.table)
        cell = _cell("-".join(choice.label for choice in choices), _overlay(base, table))
        hits = [_has(cell, partial) for partial in excluded]
        used = [before or hit for before, hit in zip(used, hits, strict=True)]
        if not any(hits):
            yield cell
    for number, was_used in enumerate(used, 1):
        if not was_used:
            raise ConfigurationError(f"exclude {number} excludes no cell of the matrix: {excluded[number - 1]}")


def _named_cells(base: Table, document: Mapping[str, Any]) -> Iterator[PlannedCell]:
    for number, table in _tables("cell", document):
        name = table.get("name")
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"cell {number} must have a name, a text, got {name!r}")
        changes = _assignments(f"cell {name!r}", {key: value for key, value in table.items() if key != "name"})
        yield _cell(name, _overlay(base, changes))


def _cell(name: str, table: Table) -> PlannedCell:
    try:
        return PlannedCell(name, settings_in(table))
    except ConfigurationError as error:
        raise ConfigurationError(f"cell {name!r}: {error}") from error


def _axes(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, list[Any]]]:
    """Find the lists in a matrix, whose keys may be dotted with or without quotation marks."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _axes(value, f"{prefix}{key}.")
        elif not isinstance(value, list) or not value:
            raise ConfigurationError(f"matrix: {prefix}{key} must be a list of values, got {value!r}")
        else:
            yield prefix + key, value


def _choices(axis: str, values: list[Any]) -> list[_Choice]:
    """Read the values of an axis.

    A scalar is a value of the key that the axis is named after. A table sets keys below that key, or, if the axis is
    named after none, any keys.
    """
    is_key = any(f"{key}.".startswith(f"{axis}.") or axis.startswith(f"{key}.") for key in config_keys())
    choices = []
    for value in values:
        if not is_key and not isinstance(value, Mapping):
            check_known("configuration key", axis, config_keys())
        inner = {k: v for k, v in value.items() if k != "label"} if isinstance(value, Mapping) else value
        table = _assignments(f"matrix: {axis}", {axis: inner} if is_key else inner)
        label = value.get("label", _label(axis, inner)) if isinstance(value, Mapping) else _label(axis, value)
        if not isinstance(label, str):
            raise ConfigurationError(f"matrix: the label of a value of {axis} must be a text, got {label!r}")
        choices.append(_Choice(label, table))
    return choices


def _label(axis: str, value: Any) -> str:  # noqa: ANN401 - any TOML value
    """Name a value: texts speak for themselves, numbers need their key."""
    if isinstance(value, Mapping):
        return "-".join(_label(key, part) for key, part in value.items())
    return value if isinstance(value, str) else f"{axis.rpartition('.')[2]}{value}"


def _has(cell: PlannedCell, partial: Table) -> bool:
    """Return whether a cell has all of these values: whether setting them would change nothing."""
    try:
        return settings_in(_overlay(_with_tables(cell.settings), partial)) == cell.settings
    except ConfigurationError:  # they contradict the cell's other settings
        return False


def _assignments(what: str, table: Any) -> Table:  # noqa: ANN401 - whatever the file holds
    """Return the configuration keys that a table sets, however it is nested; unknown keys are errors."""
    found: Table = {}
    keys = config_keys()

    def walk(level: Mapping[str, Any], prefix: str) -> None:
        for key, value in level.items():
            path = prefix + key
            if path in keys:
                found[path] = value
            elif isinstance(value, Mapping) and any(known.startswith(f"{path}.") for known in keys):
                walk(value, f"{path}.")
            else:
                check_known("configuration key", path, keys)

    try:
        walk(nest(_table(what, table)), "")
        found = _with_tables(found)
    except ConfigurationError as error:
        raise ConfigurationError(f"{what}: {error}") from error
    if "results-dir" in found:
        raise ConfigurationError(f"{what}: results-dir is the sweep's; give --results-dir to the command")
    return found


def _with_tables(settings: Mapping[str, Any]) -> Table:
    """Return settings with all parameters as tables, which can be merged; they may be given as text."""
    return {key: parse_params(key, value) if key.endswith(".params") else value for key, value in settings.items()}


def _overlay(base: Table, changes: Table) -> Table:
    """Return the base with changes, and without parameters that were for another component."""
    named = {**flatten(RunConfig()), **base}
    kept = dict(base)
    for key, value in changes.items():
        if key == "data.partition" and value != named[key]:
            kept.pop("data.params", None)
        elif key.endswith(".name") and key != "data.name" and value != named[key]:
            kept.pop(re.sub(r"name$", "params", key), None)
    return _merge(kept, changes)


def _merge(table: Table, changes: Table) -> Table:
    """Return a table with changes; tables of parameters are merged key by key."""
    merged = dict(table)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = {**old, **value} if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _check_distinct(cells: list[PlannedCell]) -> None:
    names: dict[str, str] = {}
    hashes: dict[str, str] = {}
    for cell in cells:
        if cell.hash in hashes:
            raise ConfigurationError(f"the cells {hashes[cell.hash]!r} and {cell.name!r} have the same settings")
        if cell.name in names:
            raise ConfigurationError(f"two different cells are called {cell.name!r}; give their values labels")
        hashes[cell.hash] = names[cell.name] = cell.name


def _check_components(cell: PlannedCell) -> None:
    """Build what a cell is made of, except what needs its data."""
    config = parse(cell.settings)
    try:
        build_rules(config)
        build_network(config)
        registry.build("model", config.model.name, config.model.params)
        registry.build("data", config.data.name)
        registry.build("partition", config.data.partition, config.data.params)
    except DflError as error:
        raise ConfigurationError(f"cell {cell.name!r}: {error}") from error


def _tables(key: str, document: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    value = document.get(key, [])
    if not isinstance(value, list):
        raise ConfigurationError(f"{key} must be given as [[{key}]], got {value!r}")
    return ((number, _table(f"{key} {number}", table)) for number, table in enumerate(value, 1))


def _table(what: str, value: Any) -> Mapping[str, Any]:  # noqa: ANN401 - whatever the file holds
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{what} must be a table, got {value!r}")
    return value
