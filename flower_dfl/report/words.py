"""Numbers as text."""

import math

__all__ = ["NOTHING", "SPACE", "amount", "per_cent", "size"]

SPACE = "\N{NARROW NO-BREAK SPACE}"
NOTHING = "\N{EN DASH}"


def per_cent(share: float | None) -> str:
    """Write a fraction as per cent; a dash where there is none."""
    return NOTHING if share is None else f"{100 * share:.1f}{SPACE}%"


def amount(value: float | None) -> str:
    """Write a number with three digits, counts in full.

    >>> amount(0.0123456), amount(12345), amount(None)
    ('0.0123', '12,345', '–')
    """
    if value is None:
        return NOTHING
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def size(count: float | None) -> str:
    r"""Write a number of bytes.

    >>> size(0), size(999), size(130_265_600)
    ('0\u202fB', '999\u202fB', '130\u202fMB')
    """
    if count is None:
        return NOTHING
    power = min(int(math.log10(max(count, 1)) / 3), 4)
    return f"{count / 1000**power:.3g}{SPACE}{('B', 'kB', 'MB', 'GB', 'TB')[power]}"
