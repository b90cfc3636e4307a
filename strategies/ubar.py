"""UBAR (Mozi): the nearest neighbours, of which those that the own data find no worse than the own model."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.balance import blend
from flower_dfl.strategies.clipping import anchored, by_sender
from flower_dfl.strategies.kernels import distances_to
from flower_dfl.strategies.own_data import losses, own_batch
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["Ubar"]


@dataclass(frozen=True, slots=True)
class Ubar(PeerStrategy[None]):
    r"""Screen neighbours by distance, then by loss on own data, and mix the mean of the survivors with the own model.

    .. math:: S_i = \text{the } \max(1, \lfloor \rho |N_i| \rfloor) \text{ neighbours nearest to } h_i, \qquad
              R_i = \{j \in S_i : \ell_i(h_j) \le \ell_i(h_i)\}, \qquad
              \theta_i^{t+1} = \alpha h_i + \frac{1 - \alpha}{|R_i|} \sum_{j \in R_i} h_j

    where :math:`\ell_i` is the cross-entropy on a batch of own data, drawn anew each round. Stateless, needs no
    Byzantine budget: ``rho`` is what it assumes. An empty inbox leaves the node at its own half-step. ``rho = 1``
    leaves the screening to the losses.

    Where nobody passes the loss test, :math:`R_i` is the one of :math:`S_i` with the lowest loss (``best``, as
    published), which lets an attacker in if all of :math:`S_i` are attackers, or is empty (``own``), which on non-IID
    data leaves the node alone most of the time: a half-step is hard to beat on the data that it was just trained on.

    Convention: the rule is applied to half-steps, so the published gradient step is the training before it.

    Args:
        rho: Share of the neighbours believed to be honest. In (0, 1].
        alpha: Share of the own model. In [0, 1].
        samples: Size of the batch; 0 takes all own data. Not negative.
        fallback: ``best`` or ``own``.

    Raises:
        ConfigurationError: A parameter is out of range.

    References:
        Guo, Zhang, Yu, Xie, Ma, Xiang, Liu, *Byzantine-Resilient Decentralized Stochastic Gradient Descent*, IEEE
        TCSVT 2022. https://ieeexplore.ieee.org/document/9555632
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.LEARNER, Need.OWN_DATA})
    rho: float = 0.4
    alpha: float = 0.5
    samples: int = 100
    fallback: Literal["best", "own"] = "best"

    BATCH: ClassVar[str] = "ubar-batch"
    """Purpose of the draw of own data."""

    def __post_init__(self) -> None:
        if not 0 < self.rho <= 1:
            raise ConfigurationError(f"rho must be in (0, 1], got {self.rho}")
        if not 0 <= self.alpha <= 1:
            raise ConfigurationError(f"alpha must be in [0, 1], got {self.alpha}")
        if self.samples < 0:
            raise ConfigurationError(f"samples must not be negative, got {self.samples}")
        if self.fallback not in ("best", "own"):
            raise ConfigurationError(f"fallback must be 'best' or 'own', got {self.fallback!r}")

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return the blend of the own model and the mean of the survivors."""
        vectors = [update.vector for update in inbox.received]
        distances = distances_to(inbox.own.vector, vectors)
        near = distances.argsort(stable=True)[: max(1, int(self.rho * len(vectors) + 1e-9))]
        batch = own_batch(ctx, self.BATCH, self.samples)
        own_loss, *near_losses = losses(ctx, [inbox.own.vector, *(vectors[j] for j in near)], batch).tolist()
        chosen = self._survivors(near, torch.tensor(near_losses, dtype=torch.float64), own_loss)
        accepted = torch.zeros(len(vectors), dtype=torch.bool).index_fill(0, chosen, value=True)
        measured = {inbox.received[j].sender: loss for j, loss in zip(near.tolist(), near_losses, strict=True)}
        scores = {
            "distance": by_sender(inbox, 0.0, distances),
            "loss": {inbox.own.sender: own_loss} | measured,
        }
        return anchored(inbox, blend(accepted, self.alpha), state, scores)

    def _survivors(self, near: Tensor, near_losses: Tensor, own_loss: float) -> Tensor:
        """Return the indices of the accepted neighbours."""
        measured = near_losses.isfinite()
        passed = near[measured & (near_losses <= own_loss)]
        if self.fallback == "best" and len(passed) == 0 and bool(measured.any()):
            return near[near_losses.argmin()].reshape(1)
        return passed
