"""Bucketing: average neighbours in small random groups, then apply any rule to the groups."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.kernels import distances_to
from flower_dfl.strategies.mixing import mixed
from flower_dfl.types import Aggregate, Inbox, Need, NodeId, RoundContext, Update

__all__ = ["Bucketing"]


@dataclass(frozen=True, slots=True)
class Bucketing(PeerStrategy[Any]):
    r"""Put the neighbours into random buckets of ``size`` and let a rule see the buckets' means.

    .. math:: y_b = \frac{1}{|b|} \sum_{j \in b} h_j, \qquad N_i = b_1 \cup \dots \cup b_{\lceil m / s \rceil}

    The own model is never in a bucket. The inner rule sees a bucket under its lowest id, with the sum of its members'
    mixing weights, and the same budget: ``f`` attackers spoil at most ``f`` buckets. What the rule gives a bucket is
    shared equally by its members; scores are those of the bucket. Its state passes through, so a rule that remembers
    senders does not fit here. ``size = 1`` is the inner rule itself. Digests are of messages, not of means, so a rule
    that uses them computes its own.

    Buckets are drawn anew each round over the neighbours in order of their distance from the own model, so that the
    draw does not depend on ids.

    Convention: the paper puts all workers into buckets; a node knows that its own model is honest and keeps it apart.

    Args:
        rule: The rule that follows; in configurations a name, or ``{name = "krum", params = {}}``.
        size: Neighbours in a bucket, ``s``; the last one may be smaller. At least 1.

    Raises:
        ConfigurationError: ``size`` is below 1, or ``rule`` is no strategy.
        ByzantineBudgetError: There are too few buckets for the inner rule.

    References:
        Karimireddy, He, Jaggi, *Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing*, ICLR 2022.
        https://arxiv.org/abs/2006.09365
    """

    rule: PeerStrategy[Any]
    size: int = 2

    DRAW: ClassVar[str] = "bucketing"
    """Purpose of the draw of the buckets."""

    def __post_init__(self) -> None:
        if not isinstance(self.rule, PeerStrategy):
            raise ConfigurationError(f"rule must be a strategy, got {self.rule!r}")
        if self.size < 1:
            raise ConfigurationError(f"size must be at least 1, got {self.size}")

    @property
    def needs(self) -> frozenset[Need]:
        """What the inner rule needs."""
        return self.rule.needs

    def init(self, own: Tensor) -> Any:  # noqa: ANN401 - the inner rule's state
        """Return the inner rule's state."""
        return self.rule.init(own)

    def aggregate(self, inbox: Inbox, state: Any, ctx: RoundContext) -> Aggregate[Any]:  # noqa: ANN401
        """Draw buckets, and apply the inner rule to their means."""
        buckets = self._buckets(inbox, ctx)
        means = [_mean([inbox.received[j] for j in bucket]) for bucket in buckets]
        mixing = [float(inbox.mixing_weights[bucket].sum()) for bucket in buckets]
        seen = replace(inbox, received=tuple(means), mixing_weights=torch.tensor(mixing, dtype=torch.float64))
        result = self.rule.aggregate(seen, state, ctx)
        groups = [(mean.sender, [inbox.received[j].sender for j in b]) for mean, b in zip(means, buckets, strict=True)]
        own = inbox.own.sender
        shares = {name: value / size for name, value, size in _spread(result.weights, groups, own)}
        scores = {
            score: {name: value for name, value, _ in _spread(values, groups, own)}
            for score, values in result.scores.items()
        }
        return replace(result, weights=shares, scores=scores)

    def _buckets(self, inbox: Inbox, ctx: RoundContext) -> list[list[int]]:
        """Return the buckets as ascending indices of received messages, in order of their lowest one."""
        count = len(inbox.received)
        if self.size == 1 or count == 0:
            return [[j] for j in range(count)]
        ranked = distances_to(inbox.own.vector, [update.vector for update in inbox.received]).argsort(stable=True)
        drawn = ranked[torch.randperm(count, generator=ctx.generator(self.DRAW))]
        return sorted(sorted(part.tolist()) for part in torch.split(drawn, self.size))


def _mean(updates: list[Update]) -> Update:
    """Return the mean of some messages, under the first one's id."""
    return mixed(updates[0], updates, [1.0] * len(updates)) if len(updates) > 1 else updates[0]


def _spread(
    values: Mapping[NodeId, float], groups: list[tuple[NodeId, list[NodeId]]], own: NodeId
) -> list[tuple[NodeId, float, int]]:
    """Return (member, its bucket's value, the bucket's size) for everybody who has one."""
    everyone = [(own, [own]), *groups]
    return [(name, values[bucket], len(names)) for bucket, names in everyone if bucket in values for name in names]
