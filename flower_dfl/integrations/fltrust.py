"""FLTrust as a Flower strategy: the server trains on a small clean data set and trusts who goes its way."""

from collections.abc import Mapping
from typing import Unpack

import torch
from torch import Tensor

from flower_dfl.errors import ConfigurationError
from flower_dfl.integrations.screening import FedAvgOptions, Layout, ScreenedFedAvg, TrainRoot
from flower_dfl.strategies.fltrust import fltrust_update
from flower_dfl.types import NodeId, Update

__all__ = ["FLTrust"]


class FLTrust(ScreenedFedAvg):
    r"""Weigh every client's update by its cosine with the server's own, and scale it to the same length.

    .. math:: g_j = w_j - w^t, \quad TS_j = \max(0, \cos(g_j, g_0)), \quad
              w^{t+1} = w^t + \frac{\alpha}{\sum_k TS_k} \sum_j TS_j \frac{\|g_0\|}{\|g_j\|} g_j

    :math:`g_0` is the server's update: what ``train_root`` makes of the global model, by the clients' local procedure,
    on a root data set of about a hundred clean samples. It needs no Byzantine budget and holds against a majority of
    attackers, but is no better than its root data. Without any trust, and without a good reply, the global model stays.
    Replies are screened as in :class:`~flower_dfl.integrations.screening.ScreenedFedAvg`; claims of the clients weigh
    nothing. Metrics of a round: the clients' own, ``flower-dfl-rejected`` and ``flower-dfl-kept``, the replies with
    any trust.

    Args:
        train_root: Returns the model that the server trained; gets the global model and the round. It must not change
            what it gets.
        alpha: Step size of the server. Positive.
        fedavg_options: Sampling and record keys, as for :class:`flwr.serverapp.strategy.FedAvg`.

    Raises:
        ConfigurationError: ``alpha`` is not positive; in a round, ``train_root`` returned another layout than it got,
            or values that are not finite.

    References:
        Cao, Fang, Liu, Gong, *FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping*, NDSS 2021.
        https://arxiv.org/abs/2012.13995
    """

    def __init__(self, train_root: TrainRoot, *, alpha: float = 1.0, **fedavg_options: Unpack[FedAvgOptions]) -> None:
        if not 0 < alpha < float("inf"):
            raise ConfigurationError(f"alpha must be positive and finite, got {alpha}")
        super().__init__(**fedavg_options)
        self.train_root = train_root
        self.alpha = alpha
        self.trust: dict[NodeId, float] = {}
        """Trust scores of the last round, by Flower's node id."""

    def combine(
        self, server_round: int, updates: tuple[Update, ...], layout: Layout, malformed: int, lost: int
    ) -> tuple[Tensor | None, Mapping[str, float]]:
        """Return the global model plus the trusted update."""
        del malformed, lost
        if self.global_arrays is None:
            raise ConfigurationError("FLTrust starts from the global model: call start or configure_train first")
        base = layout.own_vector(self.global_arrays).double()  # differences of huge values overflow in float32
        root = layout.own_vector(self.train_root(self.global_arrays, server_round)).double()
        step, trust = fltrust_update(root - base, [update.vector.double() - base for update in updates])
        self.trust = {update.sender: score for update, score in zip(updates, trust.tolist(), strict=True)}
        return (base + self.alpha * step).to(torch.float32), {"flower-dfl-kept": int((trust > 0).sum())}
