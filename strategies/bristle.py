"""Bristle: a sample of models, near and far, integrated by what they do well on the own data."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.clipping import anchored, by_sender
from flower_dfl.strategies.kernels import distances_to
from flower_dfl.strategies.own_data import learner_of, own_batch
from flower_dfl.types import Aggregate, Inbox, LabelledData, Need, RoundContext

__all__ = ["Bristle", "f1_scores", "stratified_sample"]


def f1_scores(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the F1 score of each class that occurs in ``labels``, float64 ``(c,)``, by ascending class.

    >>> f1_scores(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]), 3)
    tensor([0.6667, 0.8000], dtype=torch.float64)
    """
    actual = labels.bincount(minlength=num_classes)
    hits = labels[predicted == labels].bincount(minlength=num_classes)
    claimed = predicted.bincount(minlength=num_classes)
    scores = 2 * hits / (actual + claimed).clamp(min=1).double()  # (L,)
    return scores[actual > 0].cpu()


def stratified_sample(distances: Tensor, count: int, alpha: float, generator: torch.Generator) -> Tensor:
    """Return the indices of ``count`` models: the nearest ``ceil(alpha * count)``, and one from each stratum behind.

    The remaining models, by ascending distance, are cut into as many strata of nearly equal size as places are left,
    and one model is drawn from each.

    Args:
        distances: ``(m,)``.
        count: How many to take; all if there are no more.
        alpha: Share of the nearest.
        generator: Draws one model a stratum.
    """
    order = distances.argsort(stable=True)
    if len(order) <= count:
        return order
    near = math.ceil(alpha * count - 1e-9)
    strata = order[near:].tensor_split(count - near) if count > near else ()
    drawn = [stratum[torch.randint(len(stratum), (1,), generator=generator)] for stratum in strata]
    return torch.cat([order[:near], *drawn])


@dataclass(frozen=True, slots=True)
class Bristle(PeerStrategy[None]):
    r"""Take near and far models into the sample, and let their F1 scores on own data decide.

    Prioritiser: of the received models, ``candidates`` are looked at: the share ``alpha`` of them are the nearest to
    the own model (exploit), the others are drawn from the rest, one from each stratum of distance (explore), so that
    nodes with other classes are heard. Integrator: with :math:`F_{kc}` the F1 score of model ``k`` for class ``c`` on
    own data, over the classes :math:`C_i` that the node has,

    .. math:: a_j = \frac{1}{|C_i|} \sum_{c \in C_i} F_{jc} \, [F_{jc} \ge F_{ic}] \;
              \Big[ \sum_c F_{jc} \ge (1 - \mathrm{slack}) \sum_c F_{ic} \Big], \qquad
              \theta_i^{t+1} = \frac{h_i + \sum_j a_j h_j}{1 + \sum_j a_j}

    Stateless, needs no Byzantine budget. An empty inbox leaves the node where it is. What own data cannot see passes: a
    backdoor, or an offset that changes no prediction.

    Convention: the publication names a distance-based prioritiser with a trade-off between near and far (0.4), and
    integration of each class by its performance on a small set of test samples. The strata, the formula for
    :math:`a_j`, the slack, and the use of own training data in place of that test set are ours. It exchanges only the
    output layer above frozen, pre-trained features and weighs every class's row apart; vectors here are whole models,
    so a model has one weight.

    Args:
        alpha: Share of the sample that are the nearest models. In [0, 1].
        candidates: Size of the sample. At least 1.
        slack: How far a model's mean F1 score may be below the own one, relatively. In [0, 1].
        samples: Own samples, drawn anew each round; 0 takes all. Not negative.

    Raises:
        ConfigurationError: A parameter is out of range.

    References:
        Verbraeken, de Vos, Pouwelse, *Bristle: Decentralized Federated Learning in Byzantine, Non-i.i.d. Environments*,
        2021. https://arxiv.org/abs/2110.11006
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.LEARNER, Need.OWN_DATA})
    alpha: float = 0.4
    candidates: int = 10
    slack: float = 0.5
    samples: int = 0

    BATCH: ClassVar[str] = "bristle-batch"
    """Purpose of the draw of own data."""
    SAMPLE: ClassVar[str] = "bristle-sample"
    """Purpose of the draw of far models."""

    def __post_init__(self) -> None:
        for name in ("alpha", "slack"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigurationError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.candidates < 1:
            raise ConfigurationError(f"candidates must be at least 1, got {self.candidates}")
        if self.samples < 0:
            raise ConfigurationError(f"samples must not be negative, got {self.samples}")

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return the own model and the integrated ones, averaged by their merits."""
        batch = own_batch(ctx, self.BATCH, self.samples)
        distances = distances_to(inbox.own.vector, [update.vector for update in inbox.received])
        sample = stratified_sample(distances, self.candidates, self.alpha, ctx.generator(self.SAMPLE)).tolist()
        own = _classwise(ctx, inbox.own.vector, batch)
        seen = {j: _classwise(ctx, inbox.received[j].vector, batch) for j in sorted(sample)}
        merits = torch.zeros(len(inbox.received), dtype=torch.float64)
        for j, scores in seen.items():
            if scores.sum() >= (1 - self.slack) * own.sum():
                merits[j] = torch.where(scores >= own, scores, 0.0).mean()
        f1 = {inbox.received[j].sender: float(scores.mean()) for j, scores in seen.items()}
        return anchored(
            inbox,
            merits / (1 + merits.sum()),
            state,
            {"distance": by_sender(inbox, 0.0, distances), "f1": {inbox.own.sender: float(own.mean())} | f1},
        )


def _classwise(ctx: RoundContext, vector: Tensor, batch: LabelledData) -> Tensor:
    """Return the F1 scores of a model ``(c,)``; 0 where it has no opinion, since the argmax of NaN is a class."""
    logits = learner_of(ctx).logits(vector, batch.inputs)
    scores = f1_scores(logits.argmax(dim=1), batch.labels, batch.num_classes)
    return scores if bool(torch.isfinite(logits).all()) else torch.zeros_like(scores)
