"""Gradient inversion: dummy data that explain an update (Sun et al., CVPR 2024, eq. 5)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flower_dfl.types import Learner

__all__ = ["Inversion", "balanced_labels", "invert", "residual"]

_BOUND = 1e6
"""Dummy values are kept in this range, so that distances stay finite whatever a peer sent."""

_LONGEST_TARGET = 1e4
"""Longer targets are shortened to this: far beyond any gradient, and its square leaves float32 room for digits."""


@dataclass(frozen=True, slots=True, eq=False)
class Inversion:
    r"""Result of an inversion.

    Attributes:
        inputs: Dummy inputs, of the shape of the start.
        residual: :math:`\|\nabla_\theta \ell - g\|^2 / \|g\|^2` before the last step; 0 is a perfect match.
    """

    inputs: Tensor
    residual: float


def balanced_labels(num_classes: int, per_class: int) -> Tensor:
    """Return fixed labels ``(num_classes * per_class,)``, class by class: equal for all nodes and rounds.

    >>> balanced_labels(3, 2)
    tensor([0, 0, 1, 1, 2, 2])
    """
    return torch.arange(num_classes).repeat_interleave(per_class)


def invert(
    learner: Learner,
    base: Tensor,
    target: Tensor,
    start: Tensor,
    labels: Tensor,
    *,
    optimizer: Literal["adam", "lbfgs"] = "adam",
    iterations: int = 10,
    lr: float = 0.3,
) -> Inversion:
    r"""Fit dummy inputs whose gradient at ``base`` is ``target``.

    .. math:: x'^* = \arg\min_{x'} \|\nabla_\theta \ell(x', y'; \theta) - g\|_2^2

    with the mean cross-entropy over all dummy samples jointly: one gradient of the whole batch against one target. The
    inputs are neither clamped nor regularised, since they are meant to be compared, not recognised.

    Args:
        learner: The model.
        base: Where the gradient is taken ``(d,)``.
        target: Mean gradient to explain, :math:`g` ``(d,)``. Beyond a length of 1e4 only its direction counts: float32
            has no digits for such an error, and the search would stand still at inputs like an honest node's.
        start: Initial dummy inputs ``(L * S, ...)``; left unchanged.
        labels: Their fixed labels ``(L * S,)``.
        optimizer: ``adam``, or ``lbfgs`` with a strong-Wolfe line search.
        iterations: Steps of the optimiser.
        lr: Step size, in units of the standardised inputs.

    Returns:
        The dummy inputs and the residual; values that are not finite or beyond 1e6 are set to that bound.
    """
    target = _shortened(target)
    inputs = start.clone().requires_grad_()
    steps = (
        torch.optim.Adam([inputs], lr=lr)
        if optimizer == "adam"
        else torch.optim.LBFGS([inputs], lr=lr, max_iter=iterations, line_search_fn="strong_wolfe")
    )
    loss = inputs.new_tensor(torch.inf)

    def closure() -> Tensor:
        nonlocal loss
        loss = (learner.gradient(base, inputs, labels) - target).square().sum()
        (inputs.grad,) = torch.autograd.grad(loss, inputs)
        loss = loss.detach()  # read only at the end, since an accelerator would wait for it
        return loss

    for _ in range(iterations if optimizer == "adam" else 1):
        steps.step(closure)  # type: ignore[no-untyped-call]  # torch leaves LBFGS.step unannotated
    result = inputs.detach().nan_to_num(nan=_BOUND, posinf=_BOUND, neginf=-_BOUND).clamp_(-_BOUND, _BOUND)
    return Inversion(result, float(loss) / _size(target))


def residual(learner: Learner, base: Tensor, target: Tensor, inputs: Tensor, labels: Tensor) -> float:
    """Return how badly given dummy inputs explain a target. See :class:`Inversion` and :func:`invert`."""
    target = _shortened(target)
    gradient = learner.gradient(base, inputs, labels)
    return float((gradient.double() - target.double()).square().sum()) / _size(target)


def _shortened(target: Tensor) -> Tensor:
    finite = target.nan_to_num(nan=torch.nan).double()  # what overflowed is the largest number
    return finite.mul_((_LONGEST_TARGET / finite.norm()).clamp(max=1)).to(target.dtype)


def _size(target: Tensor) -> float:
    return float(target.double().square().sum().clamp(min=torch.finfo(torch.float32).tiny))
