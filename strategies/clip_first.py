"""Clipping as pre-aggregation: bring every neighbour within reach, then apply any rule."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.clipping import clip_factors
from flower_dfl.strategies.kernels import distances_to
from flower_dfl.strategies.mixing import mixed
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["ClipFirst"]


@dataclass(frozen=True, slots=True)
class ClipFirst(PeerStrategy[Any]):
    r"""Clip every neighbour's difference from the own model to a radius, then apply a rule.

    .. math:: y_j = h_i + (h_j - h_i) \min(1, \tau / \|h_j - h_i\|)

    The inner rule sees :math:`y_j` under the sender's id, with the same mixing weights and budget; its state passes
    through. ``tau = inf`` is the inner rule itself, ``tau -> 0`` leaves the own model. Around averaging it is
    self-centred clipping. The weights it reports are the inner rule's, times :math:`\min(1, \tau / \|h_j - h_i\|)`;
    what is clipped off counts for the own model. Digests are of messages, not of clipped ones, so a rule that uses
    them computes its own.

    Args:
        rule: The rule that follows; in configurations a name, or ``{name = "krum", params = {}}``.
        tau: Clipping radius: positive, or ``own-update`` for the length :math:`\|h_i - \theta_i^t\|` of the own local
            training, which no neighbour can move.

    Raises:
        ConfigurationError: ``tau`` is not positive, or ``rule`` is no strategy.
        ByzantineBudgetError: The inner rule's requirement fails.

    References:
        Allouah, Guerraoui, Gupta, Jellouli, Rizk, Stephan, *Adaptive Gradient Clipping for Robust Federated Learning*,
        ICLR 2025, for clipping before a robust rule; the radius and the centre are ours. https://arxiv.org/abs/2405.14432
    """

    rule: PeerStrategy[Any]
    tau: float | Literal["own-update"] = "own-update"

    def __post_init__(self) -> None:
        if not isinstance(self.rule, PeerStrategy):
            raise ConfigurationError(f"rule must be a strategy, got {self.rule!r}")
        if self.tau != "own-update" and not self.tau > 0:
            raise ConfigurationError(f"tau must be positive, got {self.tau}")

    @property
    def needs(self) -> frozenset[Need]:
        """What the inner rule needs."""
        return self.rule.needs

    def init(self, own: Tensor) -> Any:  # noqa: ANN401 - the inner rule's state
        """Return the inner rule's state."""
        return self.rule.init(own)

    def aggregate(self, inbox: Inbox, state: Any, ctx: RoundContext) -> Aggregate[Any]:  # noqa: ANN401
        """Clip, and apply the inner rule."""
        own = inbox.own.vector
        tau = float(distances_to(ctx.base, [own])) if self.tau == "own-update" else self.tau
        factors = clip_factors(distances_to(own, [update.vector for update in inbox.received]), tau).tolist()
        clipped = tuple(
            update if factor == 1 else mixed(update, [inbox.own, update], [1 - factor, factor])
            for update, factor in zip(inbox.received, factors, strict=True)
        )
        result = self.rule.aggregate(replace(inbox, received=clipped), state, ctx)
        weights = dict(result.weights)
        for update, factor in zip(inbox.received, factors, strict=True):
            weights[update.sender] *= factor
        weights[inbox.own.sender] += sum(result.weights.values()) - sum(weights.values())
        return replace(result, weights=weights)
