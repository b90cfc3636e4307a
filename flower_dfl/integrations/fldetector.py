"""FLDetector as a Flower strategy: clients that are not where their past says they should be are removed."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Unpack

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from torch import Tensor

from flower_dfl.errors import ConfigurationError
from flower_dfl.integrations.screening import SERVER, FedAvgOptions, Layout, ScreenedFedAvg
from flower_dfl.strategies.dfl_detector import DflDetector
from flower_dfl.types import Aggregate, Inbox, NodeId, RoundContext, Update

__all__ = ["FLDetector"]


class FLDetector(ScreenedFedAvg):
    r"""Predict every client's update from its last one, remove for good those that keep surprising, average the rest.

    .. math:: g_j^t = w^t - w_j, \qquad \hat g_j^t = g_j^{t-1} + H (w^t - w^{t-1}), \qquad
              e_j^t = \frac{\|\hat g_j^t - g_j^t\|}{\mathrm{mean}_k \|\hat g_k^t - g_k^t\|}

    A client's score is the mean of its last ``window`` errors; where the gap statistic sees more than one cluster of
    scores, the cluster of the larger mean is removed. Prediction, scores and decision are those of
    :class:`~flower_dfl.strategies.dfl_detector.DflDetector`, whose documentation states the conventions and how they
    differ from the authors' code. Here all clients are judged alike: the server has no update of its own.

    Made for clients that take one full-batch step a round: with several mini-batch steps honest updates surprise as
    well. The first scores exist in round 3; before, everybody is averaged. Removed clients are asked no more. Without a
    good reply the global model stays. Replies are screened as in
    :class:`~flower_dfl.integrations.screening.ScreenedFedAvg`; claims of the clients weigh nothing. Metrics of a round:
    the clients' own, ``flower-dfl-rejected``, ``flower-dfl-kept`` and ``flower-dfl-removed``, all removed so far.

    Args:
        window: Rounds that are remembered. At least 1.
        start: First round in which somebody may be removed. At least 3.
        margin: How many times larger the removed cluster's mean score must be. At least 1.
        restart: Whether training starts over from the first round's model after each removal, as in the paper; False
            goes on.
        seed: Seed of the gap statistic's samples.
        fedavg_options: Sampling and record keys, as for :class:`flwr.serverapp.strategy.FedAvg`.

    Raises:
        ConfigurationError: A parameter is out of range.

    References:
        Zhang, Cao, Jia, Gong, *FLDetector: Defending Federated Learning Against Model Poisoning Attacks via Detecting
        Malicious Clients*, KDD 2022. https://arxiv.org/abs/2207.09209
    """

    def __init__(
        self,
        *,
        window: int = 10,
        start: int = 3,
        margin: float = 1.5,
        restart: bool = False,
        seed: int = 0,
        **fedavg_options: Unpack[FedAvgOptions],
    ) -> None:
        self.rule = DflDetector(window=window, start=start, sticky=True, margin=margin)
        super().__init__(**fedavg_options)
        self.restart = restart
        self.seed = seed
        self._state = self.rule.init(torch.empty(0))
        self._first: ArrayRecord | None = None

    @property
    def removed(self) -> frozenset[NodeId]:
        """The clients removed so far, by Flower's node id."""
        return frozenset(self._state["flagged"])

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure the round as FedAvg does, without the clients that are removed; round 1 begins a run."""
        if server_round == 1:
            self._first, self._state = arrays, self.rule.init(torch.empty(0))
        messages = list(super().configure_train(server_round, arrays, config, grid))
        kept = [message for message in messages if message.metadata.dst_node_id not in self.removed]
        self._asked = len(kept)
        return kept

    def combine(
        self, server_round: int, updates: tuple[Update, ...], layout: Layout, malformed: int, lost: int
    ) -> tuple[Tensor | None, Mapping[str, float]]:
        """Judge the clients and average those that are left; start over if somebody was removed and so it is set."""
        del malformed, lost
        if self.global_arrays is None or self._first is None:
            raise ConfigurationError("FLDetector starts from the global model: call start or configure_train first")
        candidates = tuple(update for update in updates if update.sender not in self.removed)
        if not candidates:
            return None, {"flower-dfl-kept": 0, "flower-dfl-removed": len(self.removed)}
        context = RoundContext(
            node=SERVER,
            round=server_round,
            num_rounds=server_round,
            base=layout.own_vector(self.global_arrays),
            budget=0,
            lr=math.nan,  # the rule uses neither
            num_steps=math.nan,
            seed=self.seed,
        )
        result = self._judge(candidates, context)
        caught = len(result.state["flagged"]) > len(self.removed)
        self._state = result.state
        kept = sum(weight > 0 for weight in result.weights.values())
        vector = result.vector
        if caught and self.restart:
            self._state = self.rule.init(vector) | {"flagged": result.state["flagged"]}
            vector = layout.own_vector(self._first)
        return vector, {"flower-dfl-kept": kept, "flower-dfl-removed": len(self.removed)}

    def _judge(self, updates: tuple[Update, ...], context: RoundContext) -> Aggregate[Any]:
        """Apply the rule to clients alone.

        The rule never removes the node that applies it, so one client stands in that place. If it turns out to be
        suspected, a client that is not takes the place: the suspects are the same whoever it is.
        """
        result = self._judge_as(updates[0].sender, updates, context)
        if "own-suspicious" in result.flags:
            trusted = next(s for s, w in result.weights.items() if w > 0 and s != updates[0].sender)
            result = self._judge_as(trusted, updates, context)
        return result

    def _judge_as(self, own: NodeId, updates: tuple[Update, ...], context: RoundContext) -> Aggregate[Any]:
        received = tuple(update for update in updates if update.sender != own)
        (first,) = (update for update in updates if update.sender == own)
        mixing = torch.full((len(received),), 1 / len(updates), dtype=torch.float64)  # the rule does not mix by these
        return self.rule.aggregate(Inbox(first, received, mixing), self._state, context)
