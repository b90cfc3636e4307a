"""FLTrust's aggregation: a server's own clean update decides how much every other one is trusted."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flower_dfl.strategies.kernels import cosines, distances_to

__all__ = ["fltrust_update"]


def fltrust_update(root_update: Tensor, updates: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    r"""Return the trusted mean of the updates, each scaled to the root update's length, and everybody's trust.

    .. math:: TS_j = \max(0, \cos(g_j, g_0)), \qquad
              g = \frac{1}{\sum_k TS_k} \sum_j TS_j \frac{\|g_0\|}{\|g_j\|} g_j

    The root update :math:`g_0` is not in the sum. The result is never longer than :math:`g_0`, and does not depend on
    the length of any :math:`g_j`. Without any trust it is zero; an update of length zero has no trust. Inputs are not
    changed.

    Convention: updates point where training went, :math:`g_j = w_j - w`, and the server adds ``g``; the paper's text
    has both signs. DFLTrust (:class:`~flower_dfl.strategies.dfl_trust.DflTrust`) is the rule for nodes, on models.

    Args:
        root_update: The server's update :math:`g_0`, ``(d,)``, finite.
        updates: The clients' ``(d,)``, finite; none is allowed.

    Returns:
        The update ``(d,)`` of the root update's type, and the trust scores float64 ``(m,)`` on the CPU.

    References:
        Cao, Fang, Liu, Gong, *FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping*, NDSS 2021.
        https://arxiv.org/abs/2012.13995
    """
    rows = [root_update, *updates]
    trust = cosines(rows, 0)[1:].clamp(min=0).cpu()
    total = float(trust.sum())
    if total == 0:
        return torch.zeros_like(root_update), trust
    root_norm, *norms = distances_to(torch.zeros_like(root_update), rows).tolist()
    shares = [float(t) / total * root_norm / norm if t > 0 else 0.0 for t, norm in zip(trust, norms, strict=True)]
    step = torch.zeros_like(root_update, dtype=torch.float64)  # the share of a tiny update is beyond float32
    for share, update in zip(shares, updates, strict=True):
        if share:
            step += share * update.double()
    return step.to(root_update.dtype), trust
