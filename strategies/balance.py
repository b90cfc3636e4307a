"""BALANCE: accept whoever is near enough, by a bound that shrinks as training converges (Fang et al., CCS 2024)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.clipping import anchored, by_sender
from flower_dfl.strategies.kernels import distances_to
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["Balance", "acceptance_bound", "blend", "check_acceptance"]


def acceptance_bound(gamma: float, kappa: float, norm: float, ctx: RoundContext) -> float:
    r"""Return :math:`\gamma \exp(-\kappa t / T) \|h_i\|`; infinity for ``gamma = inf``, whatever the norm."""
    return math.inf if math.isinf(gamma) else gamma * math.exp(-kappa * ctx.round / ctx.num_rounds) * norm


def blend(accepted: Tensor, alpha: float) -> Tensor:
    """Return the neighbours' weights ``(m,)``: ``1 - alpha`` shared equally by the accepted ones, 0 for the others."""
    return accepted.double() * ((1 - alpha) / max(int(accepted.sum()), 1))


def check_acceptance(gamma: float, kappa: float, alpha: float) -> None:
    """Raise unless the parameters of the acceptance test are in range."""
    if not gamma > 0:
        raise ConfigurationError(f"gamma must be positive, got {gamma}")
    if not 0 <= kappa < math.inf:
        raise ConfigurationError(f"kappa must be non-negative and finite, got {kappa}")
    if not 0 <= alpha <= 1:
        raise ConfigurationError(f"alpha must be in [0, 1], got {alpha}")


@dataclass(frozen=True, slots=True)
class Balance(PeerStrategy[None]):
    r"""Average the neighbours that are near the own model, and mix the result with it.

    .. math:: A_i = \{j \in N_i : \|h_j - h_i\| \le \gamma e^{-\kappa t / T} \|h_i\|\}, \qquad
              \theta_i^{t+1} = \alpha h_i + \frac{1 - \alpha}{|A_i|} \sum_{j \in A_i} h_j

    Distances are of half-steps. Stateless, needs no Byzantine budget: only the own model is believed, so the share of
    attackers does not matter, but one that stays within the bound is accepted. With nobody accepted, and with an empty
    inbox, the node stays at its own half-step; ``gamma = inf`` accepts everybody.

    Convention: some re-implementations accept the nearest neighbour where nobody passes. Under domination that is an
    attacker; there is no such fallback here.

    Args:
        gamma: Bound of the relative distance before training. Positive.
        kappa: How fast the bound shrinks with :math:`t / T`. Not negative; 0 keeps it.
        alpha: Share of the own model. In [0, 1].

    Raises:
        ConfigurationError: A parameter is out of range.

    References:
        Fang, Zhang, Hairi, Khanduri, Liu, Lu, Liu, Gong, *Byzantine-Robust Decentralized Federated Learning*, CCS 2024.
        https://arxiv.org/abs/2406.10416
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    gamma: float = 0.3
    kappa: float = 1.0
    alpha: float = 0.5

    def __post_init__(self) -> None:
        check_acceptance(self.gamma, self.kappa, self.alpha)

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return the blend of the own model and the mean of the accepted ones."""
        own = inbox.own.vector
        distances = distances_to(own, [update.vector for update in inbox.received])
        bound = acceptance_bound(self.gamma, self.kappa, float(distances_to(torch.zeros_like(own), [own])), ctx)
        scores = {
            "distance": by_sender(inbox, 0.0, distances),
            "bound": by_sender(inbox, bound, [bound] * len(distances)),
        }
        return anchored(inbox, blend(distances <= bound, self.alpha), state, scores)
