"""Nearest-neighbour mixing: pre-aggregation for any rule."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from flower_dfl.errors import ByzantineBudgetError, ConfigurationError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.kernels import pairwise_distances
from flower_dfl.strategies.mixing import mixed
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext

__all__ = ["NearestNeighbourMixing"]


@dataclass(frozen=True, slots=True)
class NearestNeighbourMixing(PeerStrategy[Any]):
    r"""Replace every model by the mean of the ``n - f`` models nearest to it, then apply a rule.

    .. math:: y_k = \frac{1}{n - f} \sum_{l \in K_k} h_l, \qquad
              K_k = \text{the } n - f \text{ members of } G_i \text{ nearest to } h_k \text{, itself included}

    The own model is mixed like the others. The inner rule sees :math:`y_k` under the sender's id, with the senders'
    mixing weights and the same budget; its state passes through. ``f = 0`` turns every model into the plain mean of
    the neighbourhood. The weights it reports are those of the unmixed models, ``sum_k w_k [l in K_k] / (n - f)``.
    Digests are of messages, not of mixtures, so a rule that uses them computes its own for each mixture.

    Args:
        rule: The rule that follows; in configurations a name, or ``{name = "krum", params = {}}``.

    Raises:
        ByzantineBudgetError: The closed neighbourhood has no honest majority, ``n <= 2f``, with ``f > 0``; or the inner
            rule's requirement fails.

    References:
        Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan, *Fixing by Mixing: A Recipe for Optimal Byzantine ML
        under Heterogeneity*, AISTATS 2023. https://arxiv.org/abs/2302.01772
    """

    rule: PeerStrategy[Any]

    def __post_init__(self) -> None:
        if not isinstance(self.rule, PeerStrategy):
            raise ConfigurationError(f"rule must be a strategy, got {self.rule!r}")

    @property
    def needs(self) -> frozenset[Need]:
        """What the inner rule needs."""
        return self.rule.needs

    def init(self, own: Tensor) -> Any:  # noqa: ANN401 - the inner rule's state
        """Return the inner rule's state."""
        return self.rule.init(own)

    def aggregate(self, inbox: Inbox, state: Any, ctx: RoundContext) -> Aggregate[Any]:  # noqa: ANN401
        """Mix, and apply the inner rule."""
        members = inbox.members
        n, f = len(members), ctx.budget
        if f and n <= 2 * f:
            raise ByzantineBudgetError(f"NNM needs n > 2f, got n={n}, f={f}")
        rows = [update.vector for update in members]
        distances = pairwise_distances(rows, members.index(inbox.own)).cpu().fill_diagonal_(-1)  # itself first, always
        nearest = distances.argsort(dim=1, stable=True)[:, : n - f].tolist()  # (n, n - f)
        models = {
            update.sender: mixed(update, [members[k] for k in near], [1.0] * (n - f))
            for update, near in zip(members, nearest, strict=True)
        }
        mixture = replace(inbox, own=models[inbox.own.sender], received=tuple(models[u.sender] for u in inbox.received))
        result = self.rule.aggregate(mixture, state, ctx)
        weights = dict.fromkeys((update.sender for update in members), 0.0)
        for update, near in zip(members, nearest, strict=True):
            for k in near:
                weights[members[k].sender] += result.weights[update.sender] / (n - f)
        return replace(result, weights=weights)
