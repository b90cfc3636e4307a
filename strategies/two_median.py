"""2-median clustering of numbers, exact: the clustering step of DFL-Dual (Sun et al., CVPR 2024, eqs. 10 and 14)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["two_median"]

_RELATIVE_TOLERANCE = 1e-9


def two_median(values: Sequence[float] | NDArray[np.float64]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    r"""Split numbers into a near (small) and a far (large) cluster.

    .. math:: \min_{A, B} \sum_{a \in A} |v_a - \mathrm{med}(A)| + \sum_{b \in B} |v_b - \mathrm{med}(B)|

    In one dimension the best clusters are contiguous in sorted order, so all cuts are tried with prefix sums,
    O(n log n), and no random start is needed. Equal numbers (relative tolerance 1e-9) always fall on the same side: if
    all are equal there is no split and the far cluster is empty. Of two cuts with equal cost the one with the wider gap
    is taken, then the one with fewer near members.

    Args:
        values: Finite numbers ``(n,)``; none and one are allowed.

    Returns:
        Indices of the near and of the far cluster, ascending.

    >>> two_median([1, 1.1, 5, 5.2, 5.1])
    ((0, 1), (2, 3, 4))
    >>> two_median([3, 3, 3])
    ((0, 1, 2), ())
    """
    numbers = np.asarray(values, dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"expected finite values, got {numbers}")
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    gaps = np.diff(ordered)
    scale = float(np.abs(numbers).max(initial=0.0))
    cuts = np.flatnonzero(gaps > _RELATIVE_TOLERANCE * scale) + 1
    if cuts.size == 0:
        return tuple(range(len(numbers))), ()
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    tolerance = 1e-12 * scale * len(numbers)
    costs = np.array([_spread(sums, 0, cut) + _spread(sums, cut, len(numbers)) for cut in cuts.tolist()])
    best = cuts[costs <= costs.min() + tolerance]
    cut = int(best[np.argmax(gaps[best - 1])])
    return tuple(sorted(map(int, order[:cut]))), tuple(sorted(map(int, order[cut:])))


def _spread(sums: NDArray[np.float64], start: int, stop: int) -> float:
    """Return the sum of absolute deviations of a sorted run from its median, by prefix sums."""
    half = (stop - start) // 2
    return float(sums[stop] - sums[stop - half] - sums[start + half] + sums[start])
