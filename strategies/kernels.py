"""The numerical core that rules share: plain functions on rows of ``(d,)`` tensors, without settings or state.

Rows stay where they are: no function copies the whole stack. Columns are taken in blocks that fit the cache.
Differences are formed in float64 and relative to the receiver's own row, so that models which agree to five digits are
still told apart (Gram matrices in float32 cancel there) and one absurdly far row spoils only its own distances.

Whatever depends on distances alone needs the rows twice: once for their inner products, once for a weighted mean. Every
step between is arithmetic on ``(n, n)`` numbers. No result depends on the number of threads.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = [
    "coordinate_median",
    "cosines",
    "distances_to",
    "distances_to_mean",
    "distances_to_point",
    "geometric_median",
    "geometric_median_weights",
    "gram",
    "krum_order",
    "krum_scores",
    "mean_around_median",
    "mean_around_median_and_shares",
    "pairwise_distances",
    "repeated_krum",
    "sort_coordinates",
    "trimmed_mean",
    "trimmed_mean_and_shares",
    "weighted_mean",
]

_CANCELLED = 1e-8
"""Squared distances below this part of the terms that they are a difference of are mostly rounding."""

_PANEL = 1024
"""Most columns of one matrix product of a batch."""

_BATCH = 64
"""Fewest products of a batch: threads share them out, but never one product, whose bits would then depend on them."""

_BUFFER = 12 << 20
"""Bytes of rows in float64 at a time: few and large batches, since every batch waits for the slowest thread."""

_BLOCK = 32_768
"""Columns of an elementwise step on a CPU: a row takes 128 KiB, and torch starts no thread for so few.

Threads would gain little on an idle machine and lose much on a busy one, where each of many short steps waits for the
slowest; nodes that are simulated side by side make a busy machine.
"""

_ACCELERATOR_BLOCK = 1 << 20
"""The same elsewhere, where starting a kernel costs more than the cache saves."""

Comparator: TypeAlias = tuple[int, int, bool, bool]
"""Two lines, and whether their minimum (for the first) and their maximum (for the second) are used further on."""


def _panels(rows: Sequence[Tensor], origin: Tensor | None) -> Iterator[Tensor]:
    """Yield ``row - origin`` in float64 as ``(n, panels, width)``, padded with zeros; the buffer is reused."""
    n, d = len(rows), rows[0].numel()
    width = max(min(_PANEL, _BUFFER // (8 * n * _BATCH), -(-d // _BATCH)), 8)
    panels = min(max(_BUFFER // (8 * n * width), 1), -(-d // width))
    buffer = rows[0].new_empty(n, panels * width, dtype=torch.float64)
    for start in range(0, d, panels * width):
        wide = slice(start, min(start + panels * width, d))
        for part in _parts(rows[0][wide]):
            centre = None if origin is None else origin[wide][part].double()
            for line, row in zip(buffer, rows, strict=True):
                line[part].copy_(row[wide][part])
                if centre is not None:
                    line[part] -= centre
        buffer[:, wide.stop - start :] = 0
        yield buffer.view(n, panels, width)


def _parts(like: Tensor) -> Iterator[slice]:
    """Yield the column slices of elementwise steps."""
    step = _BLOCK if like.device.type == "cpu" else _ACCELERATOR_BLOCK
    for start in range(0, like.numel(), step):
        yield slice(start, min(start + step, like.numel()))


def gram(rows: Sequence[Tensor], origin: Tensor | None = None) -> Tensor:
    """Return the inner products of all rows relative to ``origin``, float64 ``(n, n)``.

    Args:
        rows: ``n`` vectors ``(d,)``. A row that is not finite spoils its own entries only.
        origin: Where the vectors start ``(d,)``: the receiver's own row, unless told otherwise; None is zero.
    """
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows[0].device)
    for panels in _panels(rows, origin):
        batch = panels.transpose(0, 1)  # (panels, n, width)
        total += torch.bmm(batch, batch.transpose(1, 2)).sum(dim=0)
    return (total + total.T) / 2


def pairwise_distances(rows: Sequence[Tensor], own: int) -> Tensor:
    """Return the Euclidean distances between all rows, float64 ``(n, n)``, symmetric with a zero diagonal.

    They come from products of offsets from one row. Rows that are near to one another and far from that one would be
    lost in the rounding of these; such pairs are subtracted.

    Args:
        rows: ``n`` vectors ``(d,)``. A row that is not finite is infinitely far from all others.
        own: Index of the row that the others are centred on.
    """
    products = gram(rows, rows[own])
    squared_norms = products.diagonal()
    scale = squared_norms[:, None] + squared_norms[None, :]
    squared = scale - 2 * products
    distances = squared.nan_to_num(nan=torch.inf, posinf=torch.inf).clamp_(min=0).sqrt_().fill_diagonal_(0)
    for j, k in torch.nonzero((squared < _CANCELLED * scale).triu(diagonal=1)).tolist():
        distances[j, k] = distances[k, j] = distances_to(rows[j], [rows[k]])
    return distances


def distances_to(origin: Tensor, rows: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean distances of rows ``(d,)`` from ``origin``, float64 ``(n,)``, by differences in float64."""
    squares = torch.zeros(len(rows), dtype=torch.float64, device=origin.device)
    for part in _parts(origin) if rows else ():
        block = torch.stack([row[part] for row in rows]).double()  # (n, block)
        squares += (block - origin[part].double()).square().sum(dim=1)
    return squares.sqrt().cpu()


def distances_to_point(products: Tensor, weights: Tensor) -> Tensor:
    r"""Return the distance of each row from :math:`\sum_k w_k x_k / \sum_k w_k`, float64 ``(n,)``, without the rows.

    .. math:: \|x_j - z\|^2 = G_{jj} - 2 (G w)_j + w^\top G w

    Args:
        products: :func:`gram` of the rows ``(n, n)``, relative to any origin near them.
        weights: ``(n,)``; rows that are not finite are infinitely far and left out of the point.
    """
    norms = products.diagonal()
    finite = norms.isfinite()
    share = torch.where(finite, weights, 0.0)
    share = share / share.sum()
    products = torch.where(finite[:, None] & finite[None, :], products, 0.0)
    projection = products @ share
    squared = norms - 2 * projection + share @ projection
    return torch.where(finite, squared.clamp(min=0).sqrt(), torch.inf)


def cosines(rows: Sequence[Tensor], own: int, origin: Tensor | None = None) -> Tensor:
    """Return the cosine similarity of each row with row ``own``, float64 ``(n,)``; 0 where a row has norm zero.

    Args:
        rows: ``n`` finite vectors ``(d,)``.
        own: Index of the reference row; its own entry is 1.
        origin: Where the vectors start ``(d,)``; None is zero.
    """
    products = gram(rows, origin)
    norms = products.diagonal().sqrt()
    scale = norms * norms[own]
    smallest = torch.finfo(torch.float64).tiny
    result = torch.where(scale > 0, products[own] / scale.clamp(min=smallest), 0.0).clamp_(-1, 1)
    result[own] = 1.0
    return result


def weighted_mean(rows: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    r"""Return :math:`\sum_k w_k x_k / \sum_k w_k`, accumulated in float64, ``(d,)`` of the rows' type.

    Rows of weight zero are not read. Equal rows are returned to the last bit.
    """
    kept = [(row, weight) for row, weight in zip(rows, weights, strict=True) if weight != 0]
    total = sum(weight for _, weight in kept)
    mean = torch.empty_like(kept[0][0])
    for part in _parts(mean):
        value = torch.zeros_like(mean[part], dtype=torch.float64)
        converted = torch.empty_like(value)
        for row, weight in kept:
            value.add_(converted.copy_(row[part]), alpha=weight / total)
        mean[part] = value
    return mean


def distances_to_mean(rows: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean distance of each row from the mean of all, float64 ``(n,)``."""
    squares = torch.zeros(len(rows), dtype=torch.float64, device=rows[0].device)
    for part in _parts(rows[0]):
        mean = torch.zeros_like(rows[0][part], dtype=torch.float64)
        for row in rows:
            mean += row[part]
        mean /= len(rows)
        squares += torch.stack([(row[part] - mean).square_().sum() for row in rows])
    return squares.sqrt()


def krum_scores(distances: Tensor, num_neighbours: int) -> Tensor:
    """Return the sum of each row's squared distances to its nearest others, float64 ``(n,)``.

    Args:
        distances: ``(n, n)`` with a zero diagonal.
        num_neighbours: How many others count, at most n - 1; where fewer than one is asked for, one is taken.
    """
    return _to_others(distances)[:, : max(num_neighbours, 1)].square().sum(dim=1)


def krum_order(distances: Tensor, num_neighbours: int, own: int | None = None) -> list[int]:
    """Return all rows by :func:`krum_scores`, smallest first.

    Where one neighbour counts, two rows that are each other's nearest always tie. Ties go to the row that is nearer to
    its further neighbours, one after the other; then to ``own``, then to the lower index.
    """
    scores, others = krum_scores(distances, num_neighbours).tolist(), _to_others(distances).tolist()
    return sorted(range(len(scores)), key=lambda k: (scores[k], others[k], k != own, k))


def _to_others(distances: Tensor) -> Tensor:
    """Return each row's distances to all others, ascending ``(n, n - 1)``."""
    return distances.clone().fill_diagonal_(-1).sort(dim=1).values[:, 1:]


def repeated_krum(distances: Tensor, f: int, count: int, own: int | None = None) -> list[int]:
    """Return ``count`` rows in the order in which Krum picks them, each among those that are left.

    Args:
        distances: ``(n, n)``, computed once: a pick only removes a row and a column.
        f: Byzantine budget. Of ``r`` rows left, the ``r - f - 2`` nearest others count, but at least one.
        count: Number of picks, at most n.
        own: Who wins ties that :func:`krum_order` leaves; None is the lower index.
    """
    left = list(range(len(distances)))
    picked: list[int] = []
    for _ in range(count):
        order = krum_order(distances[left][:, left], len(left) - f - 2, left.index(own) if own in left else None)
        picked.append(left.pop(order[0]))
    return picked


def geometric_median_weights(products: Tensor, *, smoothing: float = 1e-6, iterations: int = 100) -> Tensor:
    r"""Return the weights ``(n,)`` with which the rows make up their geometric median: smoothed Weiszfeld.

    .. math:: z = \sum_k w_k x_k, \quad w_k \propto 1 / \max(\nu, \|x_k - z\|)

    Every iterate is a mean of the rows, so inner products are all it takes. It starts from weights that are inverse to
    the median distance of each row from the others: a far row then never pulls the first iterate away with it.

    Args:
        products: :func:`gram` of the rows ``(n, n)``, relative to one of them.
        smoothing: The smallest distance that counts, :math:`\nu`. Positive.
        iterations: Most steps; it stops before once no weight moves by more than 1e-12.
    """
    norms = products.diagonal()
    squared = norms[:, None] + norms[None, :] - 2 * products
    distances = squared.nan_to_num(nan=torch.inf, posinf=torch.inf).clamp_(min=0).sqrt_()
    weights = _inverse(distances.fill_diagonal_(0).median(dim=1).values, smoothing)
    for _ in range(iterations):
        previous, weights = weights, _inverse(distances_to_point(products, weights), smoothing)
        if float((weights - previous).abs().max()) <= 1e-12:
            break
    return weights


def _inverse(distances: Tensor, smoothing: float) -> Tensor:
    inverse = distances.clamp(min=smoothing).reciprocal()
    return inverse / inverse.sum()


def geometric_median(rows: Sequence[Tensor], own: int = 0, *, smoothing: float = 1e-6, iterations: int = 100) -> Tensor:
    """Return the point with the smallest sum of distances to the rows, ``(d,)``; see :func:`geometric_median_weights`.

    Args:
        rows: ``n`` vectors ``(d,)``.
        own: Index of a finite row that the others are centred on.
        smoothing: The smallest distance that counts. Positive.
        iterations: Most steps.
    """
    weights = geometric_median_weights(gram(rows, rows[own]).cpu(), smoothing=smoothing, iterations=iterations)
    return weighted_mean(rows, weights.tolist())


def coordinate_median(rows: Sequence[Tensor]) -> Tensor:
    """Return the median of each coordinate ``(d,)``; of an even number of rows the mean of the two middle values."""
    return trimmed_mean(rows, (len(rows) - 1) // 2)


def trimmed_mean(rows: Sequence[Tensor], trim: int) -> Tensor:
    """Return the mean of each coordinate ``(d,)`` without its ``trim`` smallest and ``trim`` largest values.

    Args:
        rows: ``n`` vectors ``(d,)``.
        trim: Values dropped at each end, below n / 2.
    """
    return _coordinatewise(rows, trim, None, with_shares=False)[0]


def trimmed_mean_and_shares(rows: Sequence[Tensor], trim: int) -> tuple[Tensor, Tensor]:
    """Return :func:`trimmed_mean`, and each row's share of all values that were kept, float64 ``(n,)``, summing to 1.

    A value equal to a kept one counts as kept.
    """
    return _coordinatewise(rows, trim, None, with_shares=True)


def mean_around_median(rows: Sequence[Tensor], count: int) -> Tensor:
    """Return for each coordinate the mean of the ``count`` values nearest to the median, ``(d,)``.

    Args:
        rows: ``n`` vectors ``(d,)``.
        count: Values kept, 1 to n. Of two equally near ones the smaller stays.
    """
    return _coordinatewise(rows, 0, count, with_shares=False)[0]


def mean_around_median_and_shares(rows: Sequence[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Return :func:`mean_around_median`, and each row's share as in :func:`trimmed_mean_and_shares`."""
    return _coordinatewise(rows, 0, count, with_shares=True)


def sort_coordinates(rows: Sequence[Tensor]) -> list[Tensor]:
    """Return the smallest value of each coordinate, the second smallest, and so on: ``n`` tensors of the rows' shape.

    Args:
        rows: ``n`` tensors of one shape. A single one is handed back itself, not copied.
    """
    return _ranks(rows, 0, len(rows))


def _coordinatewise(
    rows: Sequence[Tensor], trim: int, count: int | None, *, with_shares: bool
) -> tuple[Tensor, Tensor]:
    """Sort each coordinate, drop ``trim`` values at each end, keep the middle ``count``, and average them."""
    mean = torch.empty_like(rows[0])
    kept = torch.zeros(len(rows), dtype=torch.float64, device=mean.device)
    for part in _parts(mean):
        parts = [row[part] for row in rows]
        values = _ranks(parts, trim, len(rows) - trim)
        if count is not None:
            values = _around_median(values, count)
        total = torch.zeros_like(mean[part], dtype=torch.float64)
        for rank in values:
            total += rank
        mean[part] = total.div_(len(values))
        if with_shares:
            kept += _count_within(parts, values[0], values[-1])
    return mean, kept.div_(kept.sum())


def _count_within(parts: Sequence[Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Return how many coordinates of each row lie in ``[low, high]``, float64 ``(n,)``."""
    clamped, inside = torch.empty_like(low), torch.empty_like(low)
    counts = [torch.eq(torch.clamp(x, low, high, out=clamped), x, out=inside).sum(dtype=torch.float64) for x in parts]
    return torch.stack(counts)


def _around_median(ordered: list[Tensor], count: int) -> list[Tensor]:
    """Return the ``count`` values nearest to the median of each coordinate, in order.

    They are neighbours in the order: a window that starts at the smallest value and moves on while the value it would
    leave behind is farther from the median than the one it would take in. Moving on is written with minima and maxima,
    many times faster than a choice by mask.
    """
    n = len(ordered)
    twice_median = ordered[(n - 1) // 2].double() + ordered[n // 2]
    window = [values.clone() for values in ordered[:count]]
    farther = torch.empty_like(ordered[0])
    for start in range(n - count):
        torch.gt(twice_median, ordered[start].double() + ordered[start + count], out=farther)
        gate = farther.sub_(0.5).mul_(torch.inf)  # infinite where the window moves on, minus infinity where it stays
        for values, following in zip(window, ordered[start + 1 :], strict=False):
            torch.maximum(values, torch.minimum(following, gate), out=values)
    return window


def _ranks(parts: Sequence[Tensor], first: int, last: int) -> list[Tensor]:
    """Return the values of ranks ``first`` to ``last - 1`` of each coordinate; they may alias the rows."""
    lines: list[Tensor] = list(parts)
    spare: list[Tensor] = []
    ours = [False] * len(lines)
    for a, b, use_low, use_high in _network(len(lines), first, last):
        x, y = lines[a], lines[b]
        if use_low:
            lines[a] = torch.minimum(x, y, out=spare.pop() if spare else torch.empty_like(x))
        if use_high:
            lines[b] = torch.maximum(x, y, out=spare.pop() if spare else torch.empty_like(x))
        spare += [line for line, owned in ((x, ours[a]), (y, ours[b])) if owned]
        ours[a] = ours[b] = True
    return lines[first:last]


@functools.cache
def _network(n: int, first: int, last: int) -> tuple[Comparator, ...]:
    """Return Batcher's odd-even merge sort of ``n`` lines, without what ranks ``first`` to ``last - 1`` do not need.

    References:
        Batcher, *Sorting networks and their applications*, 1968. https://doi.org/10.1145/1468075.1468121
    """
    needed = set(range(first, last))
    kept: list[Comparator] = []
    for a, b in reversed(list(_odd_even_merge_sort(n))):
        if a in needed or b in needed:
            kept.append((a, b, a in needed, b in needed))
            needed |= {a, b}
    return tuple(reversed(kept))


def _odd_even_merge_sort(n: int) -> Iterator[tuple[int, int]]:
    """Yield the comparators ``(a, b)``, a < b, of runs of 1, 2, 4, ... lines that are merged pairwise."""
    run = 1
    while run < n:
        step = run
        while step:
            for start in range(step % run, n - step, 2 * step):
                for a in range(start, min(start + step, n - step)):
                    if a // (2 * run) == (a + step) // (2 * run):
                        yield a, a + step
            step //= 2
        run *= 2
