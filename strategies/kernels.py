"""The numerical core that rules share: plain functions on rows of ``(d,)`` tensors, without settings or state.

Rows stay where they are: no function copies the whole stack. Columns are taken in blocks that fit the cache, differences
are formed in float64 and relative to the receiver's own row, so that models which agree to five digits are still told
apart (Gram matrices in float32 cancel there) and one absurdly far row spoils only its own distances.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["cosines", "distances_to_mean", "pairwise_distances", "weighted_mean"]

_BLOCK = 16_384
"""Columns a block: ten rows in float64 take 1.3 MB."""


def _blocks(rows: Sequence[Tensor]) -> Iterator[tuple[slice, Tensor]]:
    """Yield column slices and the rows' values there in float64 ``(n, block)``."""
    for start in range(0, rows[0].numel(), _BLOCK):
        part = slice(start, start + _BLOCK)
        yield part, torch.stack([row[part] for row in rows]).double()


def pairwise_distances(rows: Sequence[Tensor], own: int) -> Tensor:
    """Return the Euclidean distances between all rows, float64 ``(n, n)``, symmetric with a zero diagonal.

    Args:
        rows: ``n`` finite vectors ``(d,)``.
        own: Index of the row that the others are centred on.
    """
    n = len(rows)
    gram = torch.zeros(n, n, dtype=torch.float64, device=rows[0].device)
    for _, block in _blocks(rows):
        centred = block - block[own]  # (n, block)
        gram += centred @ centred.T
    squared_norms = gram.diagonal()
    squared = squared_norms[:, None] + squared_norms[None, :] - 2 * gram
    distances = ((squared + squared.T) / 2).clamp_(min=0).sqrt_()
    return distances.fill_diagonal_(0)


def cosines(rows: Sequence[Tensor], own: int, origin: Tensor | None = None) -> Tensor:
    """Return the cosine similarity of each row with row ``own``, float64 ``(n,)``; 0 where a row has norm zero.

    Args:
        rows: ``n`` finite vectors ``(d,)``.
        own: Index of the reference row; its own entry is 1.
        origin: Where the vectors start ``(d,)``; None is zero.
    """
    products = torch.zeros(len(rows), dtype=torch.float64, device=rows[0].device)
    squares = torch.zeros_like(products)
    for part, block in _blocks(rows):
        offset = block if origin is None else block - origin[part].double()
        products += offset @ offset[own]
        squares += offset.square().sum(dim=1)
    norms = squares.sqrt()
    scale = norms * norms[own]
    result = torch.where(scale > 0, products / scale.clamp(min=torch.finfo(torch.float64).tiny), 0.0).clamp_(-1, 1)
    result[own] = 1.0
    return result


def weighted_mean(rows: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    r"""Return :math:`\sum_k w_k x_k / \sum_k w_k`, accumulated in float64, ``(d,)`` of the rows' type.

    Rows of weight zero are not read. Equal rows are returned to the last bit.
    """
    kept = [(row, weight) for row, weight in zip(rows, weights, strict=True) if weight != 0]
    column = torch.tensor([weight for _, weight in kept], dtype=torch.float64, device=rows[0].device)
    column /= column.sum()
    chosen = [row for row, _ in kept]
    mean = torch.empty_like(chosen[0])
    for part, block in _blocks(chosen):
        mean[part] = column @ block
    return mean


def distances_to_mean(rows: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean distance of each row from the mean of all, float64 ``(n,)``."""
    squares = torch.zeros(len(rows), dtype=torch.float64, device=rows[0].device)
    for _, block in _blocks(rows):
        squares += (block - block.mean(dim=0)).square().sum(dim=1)
    return squares.sqrt()
