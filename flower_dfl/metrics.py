"""Metrics on held-out data: accuracy, attack success rate, consensus. All are fractions, or norms of models.

A model with a value that is not finite, or whose class scores are not, has *diverged*: it counts as accuracy 0 and as
no backdoor. (The argmax of a row of NaN is 0, which would look like a perfect backdoor to label 0.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flower_dfl.strategies.kernels import distances_to_mean
from flower_dfl.types import LabelledData, Learner
from flower_dfl.vectors import all_finite

__all__ = ["Evaluation", "StampedTest", "consensus_distance", "distances_to_mean", "evaluate"]

_NO_PREDICTION = -1


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one model does on the test data.

    Attributes:
        accuracy: Share of test samples that get their own label.
        attack_success_rate: Share of stamped non-target samples that get the target label; None without a trigger.
        diverged: Whether the model or any of its class scores is not finite.
    """

    accuracy: float
    attack_success_rate: float | None
    diverged: bool


@dataclass(frozen=True, slots=True, eq=False)
class StampedTest:
    """Test samples of the non-target classes, with the global trigger.

    Attributes:
        inputs: Stamped inputs.
        target: Label that the backdoor leads to.
    """

    inputs: Tensor
    target: int


def evaluate(
    learner: Learner, vector: Tensor, test: LabelledData, stamped: StampedTest | None, batch_size: int = 1_000
) -> Evaluation:
    """Evaluate one model.

    Args:
        learner: The model.
        vector: Its parameters ``(d,)``.
        test: Held-out samples.
        stamped: The stamped ones; None where the attack has no trigger.
        batch_size: Samples a forward pass.
    """
    if not all_finite(vector):
        return Evaluation(0.0, None if stamped is None else 0.0, diverged=True)
    predicted = _predict(learner, vector, test.inputs, batch_size)
    diverged = bool((predicted == _NO_PREDICTION).any())
    rate = None
    if stamped is not None:
        on_stamped = _predict(learner, vector, stamped.inputs, batch_size)
        diverged |= bool((on_stamped == _NO_PREDICTION).any())
        rate = 0.0 if diverged else _share(on_stamped == stamped.target)
    return Evaluation(0.0 if diverged else _share(predicted == test.labels), rate, diverged)


def _predict(learner: Learner, vector: Tensor, inputs: Tensor, batch_size: int) -> Tensor:
    """Return predicted labels ``(n,)``, -1 where a class score is not finite."""
    parts = []
    for batch in torch.split(inputs, batch_size):
        scores = learner.logits(vector, batch)
        finite = torch.isfinite(scores).all(dim=1)
        parts.append(torch.where(finite, scores.argmax(dim=1), _NO_PREDICTION))
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)


def _share(hits: Tensor) -> float:
    return float(hits.double().mean()) if len(hits) else 0.0


def consensus_distance(distances: Sequence[float]) -> float:
    r"""Return :math:`\Xi = \sqrt{\frac{1}{|H|} \sum_{i \in H} \|\theta_i - \bar\theta_H\|^2}` from the distances."""
    return float(torch.tensor(distances, dtype=torch.float64).square().mean().sqrt()) if distances else 0.0
