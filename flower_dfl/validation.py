"""Checks of values against annotations, for settings that come from text."""

import types
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from flower_dfl.errors import ConfigurationError
from flower_dfl.wire import MOST_WORKERS_VARIABLE

__all__ = ["check_fields", "check_known", "check_type", "workers_allowed"]


def check_known(what: str, given: str, valid: list[str], error: type[ConfigurationError] = ConfigurationError) -> None:
    """Raise, with the nearest and all valid names, unless ``given`` is valid."""
    if given in valid:
        return
    near = get_close_matches(given, valid, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise error(f"unknown {what} {given!r}.{hint} Valid: {', '.join(sorted(valid)) or 'none'}")


def check_type(name: str, value: Any, annotation: Any) -> Any:  # noqa: ANN401 - settings are of any type by nature
    """Return ``value``, an int promoted where a float is wanted, or raise a :class:`ConfigurationError`.

    Understands plain classes, ``Literal`` and unions of these; every other annotation accepts anything.

    >>> check_type("lr", 1, float)
    1.0
    """
    for option in _options(annotation):
        if option is Any:
            return value
        if get_origin(option) is Literal:
            if value in get_args(option):
                return value
        elif option is float and isinstance(value, int | float) and not isinstance(value, bool):
            try:
                return float(value)
            except OverflowError:
                break
        elif option is int and isinstance(value, bool):
            continue
        elif not isinstance(option, type) or isinstance(value, option):
            return value
    raise ConfigurationError(f"{name} must be {_describe(annotation)}, got {value!r} ({type(value).__name__})")


def workers_allowed(environment: Mapping[str, str]) -> int | None:
    """Return how many workers a run may start at most, by the environment; None if that does not say.

    >>> workers_allowed({"FLOWER_DFL_MOST_WORKERS": "4"})
    4
    """
    most = environment.get(MOST_WORKERS_VARIABLE)
    if most is None:
        return None
    if not most.isdecimal() or int(most) < 1:
        raise ConfigurationError(f"expected {MOST_WORKERS_VARIABLE} = 1 or a larger whole number, got {most!r}")
    return int(most)


def check_fields(component: Any) -> None:  # noqa: ANN401 - any dataclass
    """Check every field of a dataclass against its annotation."""
    hints = get_type_hints(type(component))
    for entry in fields(component):
        check_type(entry.name, getattr(component, entry.name), hints[entry.name])


def _options(annotation: Any) -> tuple[Any, ...]:  # noqa: ANN401
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return tuple(part for option in get_args(annotation) for part in _options(option))
    if origin is Literal:
        return (annotation,)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return (Mapping,)
    return (origin or annotation,)


def _describe(annotation: Any) -> str:  # noqa: ANN401
    names = []
    for option in _options(annotation):
        if get_origin(option) is Literal:
            names += [repr(choice) for choice in get_args(option)]
        else:
            names.append(getattr(option, "__name__", str(option)))
    return " or ".join(names)
