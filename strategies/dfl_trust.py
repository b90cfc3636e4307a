"""DFLTrust: FLTrust with the node's own update in the role of the server's."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.clipping import by_sender
from flower_dfl.strategies.kernels import cosines, distances_to
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["DflTrust"]


@dataclass(frozen=True, slots=True)
class DflTrust(PeerStrategy[None]):
    r"""Scale every update to the own one's length and weigh it by its cosine with it, if that is positive.

    .. math:: TS_j = \max(0, \cos(g_j, g_i)), \qquad
              \theta_i^{t+1} = \theta_i^t + \alpha \,
              \frac{\sum_k TS_k \frac{\|g_i\|}{\|g_k\|} g_k}{\sum_k TS_k}

    over the neighbours and, with ``include_root``, the node itself, whose :math:`TS_i = 1`. With ``space = update``,
    :math:`g_k = h_k - \theta_i^t`: the receiver's own start-of-round model is everybody's base. The result does not
    depend on the length of any :math:`g_j`. Stateless, needs no Byzantine budget. An empty inbox, and a total trust of
    zero, leave the node at its own half-step; an update of length zero has no trust.

    With ``space = model``, :math:`g_k = h_k` are whole models and the sum is where the node goes from
    :math:`\theta_i^t` by a step ``alpha``. The DFL-Dual paper describes its baseline so; models of one task nearly
    agree in direction, so it trusts almost everybody.

    Convention: FLTrust's server adds no update of its own to the sum (``include_root = false``), and has its own clean
    data; a node has only what it trains on. FLTrust's text subtracts and adds updates in different places; here an
    update points where training went.

    Args:
        space: ``update`` or ``model``.
        include_root: Whether the own update is in the sum.
        alpha: Step size; 1 takes the weighted mean as it is. Positive.

    Raises:
        ConfigurationError: ``alpha`` is not positive, or ``space`` is unknown.

    References:
        Cao, Fang, Liu, Gong, *FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping*, NDSS 2021.
        https://arxiv.org/abs/2012.13995
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    space: Literal["update", "model"] = "update"
    include_root: bool = True
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if self.space not in ("update", "model"):
            raise ConfigurationError(f"space must be 'update' or 'model', got {self.space!r}")
        if not 0 < self.alpha < float("inf"):
            raise ConfigurationError(f"alpha must be positive and finite, got {self.alpha}")

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return the start-of-round model plus the trusted mean of the rescaled updates."""
        rows = [inbox.own.vector, *(update.vector for update in inbox.received)]  # own first
        origin = ctx.base if self.space == "update" else torch.zeros_like(ctx.base)
        similarity = cosines(rows, 0, origin).cpu()
        trust = similarity.clamp(min=0)
        if not self.include_root:
            trust[0] = 0
        scores = {"cosine": by_sender(inbox, 1.0, similarity[1:])}
        total = float(trust.sum())
        if not inbox.received or total == 0:
            return Aggregate(inbox.own.vector.clone(), state, by_sender(inbox, 1.0, torch.zeros(len(rows) - 1)), scores)
        shares = trust / total
        vector = self._step(rows, shares, distances_to(origin, rows), ctx.base)
        return Aggregate(vector, state, by_sender(inbox, float(shares[0]), shares[1:]), scores)

    def _step(self, rows: list[Tensor], shares: Tensor, norms: Tensor, base: Tensor) -> Tensor:
        """Return the start-of-round model plus the step.

        Differences are summed, not rows with coefficients: the coefficient of a tiny update is huge, and would cancel.
        """
        scaled = torch.where(shares > 0, norms[0] / norms.clamp(min=torch.finfo(norms.dtype).tiny), 1.0)
        coefficients = [self.alpha * c for c in (shares * scaled).tolist()]
        start = base.double()
        origin, reached = (start, start.clone()) if self.space == "update" else (0.0, (1 - self.alpha) * start)
        for row, coefficient in zip(rows, coefficients, strict=True):
            reached += coefficient * (row.double() - origin)
        largest = torch.finfo(base.dtype).max
        return reached.clamp_(-largest, largest).to(base.dtype)
