"""Packages that only some commands need."""

from collections.abc import Iterator
from contextlib import contextmanager

from flower_dfl.errors import ConfigurationError

__all__ = ["needs_extra"]


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn the failed import of an optional package into an error that names the extra that holds it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"this needs the package {error.name!r}: pip install 'flower-dfl[{extra}]'") from error
