"""Sketchguard: BALANCE's acceptance test on short sketches instead of whole models."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.balance import acceptance_bound, blend, check_acceptance
from flower_dfl.strategies.clipping import anchored, by_sender
from flower_dfl.strategies.kernels import distances_to
from flower_dfl.types import Aggregate, DigestContext, Inbox, Need, RoundContext, Update

__all__ = ["Sketchguard", "count_sketch"]


def count_sketch(vector: Tensor, size: int, generator: torch.Generator) -> Tensor:
    r"""Return :math:`y_b = \sum_{c : h(c) = b} s(c) x_c`, float64 ``(size,)``: every coordinate in one random bucket.

    Linear, and of the vector's squared norm in expectation. Summed on the CPU in a fixed order, since parallel sums on
    a GPU differ from run to run.

    Args:
        vector: ``x`` ``(d,)``.
        size: Number of buckets.
        generator: Draws buckets ``h`` and signs ``s``; the same state gives comparable sketches.
    """
    buckets = torch.randint(size, (vector.numel(),), generator=generator)
    signs = torch.randint(2, (vector.numel(),), generator=generator, dtype=torch.int8) * 2 - 1
    return torch.bincount(buckets, weights=vector.cpu().double() * signs, minlength=size)


@dataclass(frozen=True, slots=True)
class Sketchguard(PeerStrategy[None]):
    r"""Average the neighbours whose sketch is near the own one, and mix the result with the own model.

    .. math:: A_i = \{j \in N_i : \|y_j - y_i\| \le \gamma e^{-\kappa t / T} \|y_i\|\}, \qquad
              \theta_i^{t+1} = \alpha h_i + \frac{1 - \alpha}{|A_i|} \sum_{j \in A_i} h_j

    with the count sketch :math:`y_j` ``(k,)`` of :math:`h_j` (:func:`count_sketch`), whose draws all nodes share in a
    round. For models that do not depend on these draws squared sketch distances are unbiased with a relative standard
    deviation of about :math:`\sqrt{2 / k}`, and decisions differ from
    :class:`~flower_dfl.strategies.balance.Balance` only near the bound. An attacker who knows the draws can add any
    vector that they map to 0, unseen; none of our attacks does. Stateless, needs no Byzantine budget. With nobody
    accepted, and with an empty inbox, the node stays at its own half-step; as for BALANCE, there is no fallback on the
    nearest neighbour.

    The sketch is computed from the message itself, never taken from the sender. In the published protocol models are
    fetched from accepted neighbours only; here they have already arrived, and the traffic is that of BALANCE.

    Args:
        size: Length ``k`` of a sketch. Positive.
        gamma: Bound of the relative distance before training. Positive.
        kappa: How fast the bound shrinks with :math:`t / T`. Not negative.
        alpha: Share of the own model. In [0, 1].

    Raises:
        ConfigurationError: A parameter is out of range.

    References:
        Rangwala, Azzedin, Sinnott, Buyya, *SketchGuard: Scaling Byzantine-Robust Decentralized Federated Learning via
        Sketch-Based Screening*, 2025. https://arxiv.org/abs/2510.07922
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    size: int = 1000
    gamma: float = 0.3
    kappa: float = 1.0
    alpha: float = 0.5

    SHARED_HASH: ClassVar[str] = "sketchguard-hash"
    """Purpose of the draw of buckets and signs, the same for every message of a round."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigurationError(f"size must be at least 1, got {self.size}")
        check_acceptance(self.gamma, self.kappa, self.alpha)

    def digest(self, update: Update, ctx: DigestContext) -> Tensor | None:
        """Return the sketch ``(k,)`` of a message."""
        return count_sketch(update.vector, self.size, ctx.generator(self.SHARED_HASH))

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return the blend of the own model and the mean of the accepted ones."""
        shared = ctx.for_digest()
        own = self._sketch(inbox.own, shared)
        distances = distances_to(own, [self._sketch(update, shared) for update in inbox.received])
        bound = acceptance_bound(self.gamma, self.kappa, float(own.norm()), ctx)
        scores = {"sketch-distance": by_sender(inbox, 0.0, distances)}
        return anchored(inbox, blend(distances <= bound, self.alpha), state, scores)

    def _sketch(self, update: Update, ctx: DigestContext) -> Tensor:
        if update.digest is not None:
            return update.digest.cpu()  # as the others are, wherever an engine keeps what was received
        return count_sketch(update.vector, self.size, ctx.generator(self.SHARED_HASH))
