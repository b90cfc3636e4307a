"""Wasserstein distance between dummy data sets: DFL-Dual's data domain (Sun et al., CVPR 2024, eq. 6)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flower_dfl.strategies.kernels import sort_coordinates

__all__ = ["pairwise_wasserstein", "wasserstein"]


def wasserstein(first: Tensor, second: Tensor) -> float:
    r"""Return the sum over classes and features of the one-dimensional 1-Wasserstein distance.

    .. math:: W_{jk} = \sum_{c=1}^{L} \sum_{d=1}^{m} W_1(x'_{j,c,\cdot,d}, x'_{k,c,\cdot,d})

    Both sets have the same number of samples ``S`` a class, so that
    :math:`W_1 = \frac{1}{S} \sum_r |x_{(r)} - z_{(r)}|` over sorted values. A distance of marginals only.

    Args:
        first: Dummy samples ``(L, S, m)``; leading axes may be missing, and a flat ``(S,)`` is one feature.
        second: Likewise, of the same shape.

    >>> wasserstein(torch.tensor([0.0, 1.0, 3.0]), torch.tensor([8.0, 5.0, 6.0]))
    5.0
    """
    return float(pairwise_wasserstein([first, second])[0, 1])


def pairwise_wasserstein(sets: Sequence[Tensor]) -> Tensor:
    """Return :func:`wasserstein` between all pairs, float64 ``(n, n)``, symmetric with a zero diagonal.

    Args:
        sets: ``n`` dummy sets ``(L, S, m)`` of one shape.
    """
    shapes = {tuple(s.shape) for s in sets}
    if len(shapes) > 1:
        raise ValueError(f"expected dummy sets of one shape, got {sorted(shapes)}")
    ordered = [_sort_samples(s) for s in sets]
    n = len(sets)
    result = torch.zeros(n, n, dtype=torch.float64)
    for j in range(n):
        for k in range(j + 1, n):
            difference = (ordered[j] - ordered[k]).abs_().mean(dim=-2)  # (L, m)
            result[j, k] = result[k, j] = difference.sum(dtype=torch.float64)
    return result


def _sort_samples(samples: Tensor) -> Tensor:
    """Sort along the samples, axis -2."""
    samples = samples[:, None] if samples.ndim == 1 else samples
    return torch.stack(sort_coordinates(samples.unbind(-2)), dim=-2)
