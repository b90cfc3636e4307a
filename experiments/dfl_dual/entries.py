"""Entries of a table: what several seeds found, written as columns and read back to add seeds to them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

__all__ = ["COLUMNS", "Entry", "Key", "Spread", "columns_of", "pooled", "read_entries", "spread_of", "spread_text"]

COLUMNS = ("accuracy", "ASR", "kept", "seeds", "seconds a run")


class Key(NamedTuple):
    """What tells an entry from the others, each as the study calls it."""

    data: str
    model: str
    variation: str
    attack: str
    rule: str


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean, sample standard deviation (0 for one value) and worst of several values, in per cent."""

    mean: float
    deviation: float
    worst: float


@dataclass(frozen=True, slots=True)
class Entry:
    """What the seeds of one entry found.

    Attributes:
        seeds: The seeds.
        accuracy: Of the honest nodes; the lowest is the worst.
        rate: Attack success rate; the highest is the worst. None where nothing is inserted.
        kept: Shares of honest and of Byzantine neighbours with a positive weight, or one share of all of them;
            None where there are no such neighbours.
        seconds: Mean over the seeds.
    """

    seeds: frozenset[int]
    accuracy: Spread | None
    rate: Spread | None
    kept: tuple[float | None, ...]
    seconds: float


def spread_of(values: Sequence[float], worst: Callable[[Sequence[float]], float]) -> Spread | None:
    """Return mean, deviation and worst; None of nothing."""
    if not values:
        return None
    return Spread(fmean(values), stdev(values) if len(values) > 1 else 0.0, worst(values))


def pooled(first: Entry, second: Entry) -> Entry:
    """Return the entry of both entries' seeds, of which they share none.

    With sums of squares about the means, M = (n - 1) s², those of the union are M1 + M2 + (m1 - m2)² n1 n2 / (n1 + n2).
    """
    if common := first.seeds & second.seeds:
        raise ValueError(f"entries with different seeds are pooled, but both have seed {min(common)}")
    sizes = (len(first.seeds), len(second.seeds))
    return Entry(
        first.seeds | second.seeds,
        _pooled(first.accuracy, second.accuracy, sizes, min),
        _pooled(first.rate, second.rate, sizes, max),
        tuple(_mean(pair, sizes) for pair in zip(first.kept, second.kept, strict=True)),
        fmean((first.seconds, second.seconds), weights=sizes),
    )


def _pooled(
    first: Spread | None, second: Spread | None, sizes: tuple[int, int], worst: Callable[[float, float], float]
) -> Spread | None:
    if first is None or second is None:
        return first or second
    one, two = sizes
    squares = (one - 1) * first.deviation**2 + (two - 1) * second.deviation**2
    squares += (first.mean - second.mean) ** 2 * one * two / (one + two)
    mean = fmean((first.mean, second.mean), weights=sizes)
    return Spread(mean, sqrt(squares / (one + two - 1)), worst(first.worst, second.worst))


def _mean(pair: tuple[float | None, float | None], sizes: tuple[int, int]) -> float | None:
    known = [(value, size) for value, size in zip(pair, sizes, strict=True) if value is not None]
    return fmean([value for value, _ in known], weights=[size for _, size in known]) if known else None


def columns_of(entry: Entry) -> list[str]:
    """Return what stands in :data:`COLUMNS`."""
    return [
        spread_text(entry.accuracy, len(entry.seeds)),
        spread_text(entry.rate, len(entry.seeds)),
        " / ".join("-" if share is None else f"{share:.2f}" for share in entry.kept),
        _seeds_text(entry.seeds),
        f"{entry.seconds:.0f}",
    ]


def spread_text(spread: Spread | None, count: int) -> str:
    """Return mean ± deviation (worst); without a deviation for one seed."""
    if spread is None:
        return "-"
    deviation = f" ± {spread.deviation:.1f}" if count > 1 else ""
    return f"{spread.mean:.1f}{deviation} ({spread.worst:.1f})"


def _seeds_text(seeds: frozenset[int]) -> str:
    ordered = sorted(seeds)
    if len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{ordered[0]} to {ordered[-1]}"
    return ", ".join(map(str, ordered))


def read_entries(table: Path) -> Mapping[Key, Entry]:
    """Return the entries that a table holds, to the digits that it prints; none if there is no table.

    Raises:
        ValueError: A row is not what :func:`columns_of` writes; the message has its line.
    """
    if not table.exists():
        return {}
    found: dict[Key, Entry] = {}
    head: list[str] = []
    for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), start=1):
        row = [text.strip() for text in line.split("|")[1:-1]]
        if not row:
            head = []
        elif not head:
            head = row
        elif set(COLUMNS) <= set(head) and not row[0].startswith("---"):
            texts = dict(zip(head, row, strict=False))
            try:
                key = Key(texts["data"], texts["model"], texts.get("setting", ""), texts["attack"], texts["rule"])
                found[key] = _entry_in(*(texts[column] for column in COLUMNS))
            except (KeyError, ValueError) as error:
                raise ValueError(f"{table}, line {number}: expected a row of {', '.join(head)}; got {line}") from error
    return found


def _entry_in(accuracy: str, rate: str, kept: str, seeds: str, seconds: str) -> Entry:
    first, to, last = seeds.partition(" to ")
    numbers = range(int(first), int(last) + 1) if to else [int(seed) for seed in seeds.split(", ")]
    shares = tuple(None if share == "-" else float(share) for share in kept.split(" / "))
    return Entry(frozenset(numbers), _spread_in(accuracy), _spread_in(rate), shares, float(seconds))


def _spread_in(text: str) -> Spread | None:
    if text == "-":
        return None
    value, _, worst = text.removesuffix(")").partition(" (")
    mean, _, deviation = value.partition(" ± ")
    return Spread(float(mean), float(deviation or 0), float(worst))
