"""Gradient inversion: dummy data that explain an update (Sun et al., CVPR 2024, eq. 5)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.optim.adam import adam

from flower_dfl.types import Learner

__all__ = ["Inversion", "balanced_labels", "invert", "residual"]

_BOUND = 1e6
"""Dummy values are kept in this range, so that distances stay finite whatever a peer sent."""

_LONGEST_TARGET = 1e4
"""Longer targets are shortened to this: far beyond any gradient, and its square leaves float32 room for digits."""

_Error: TypeAlias = Callable[[Tensor], Tensor]
"""What is made small, as a function of the dummy inputs."""


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

    def error(inputs: Tensor) -> Tensor:
        return (learner.gradient(base, inputs, labels) - target).square().sum()

    search = _by_adam if optimizer == "adam" else _by_lbfgs
    inputs, loss = search(error, start, iterations, lr)
    result = inputs.nan_to_num(nan=_BOUND, posinf=_BOUND, neginf=-_BOUND).clamp_(-_BOUND, _BOUND)
    return Inversion(result, float(loss) / _size(target))


def _by_adam(error: _Error, start: Tensor, iterations: int, lr: float) -> tuple[Tensor, Tensor]:
    """Return what the steps of ``torch.optim.Adam`` find, and the error before the last of them.

    They are called as a function, as the class imports torch's compiler: three seconds of a processor in every process.
    """
    inputs = start.clone().requires_grad_()
    mean, square, step = torch.zeros_like(start), torch.zeros_like(start), torch.zeros(())
    loss = start.new_tensor(torch.inf)
    for _ in range(iterations):
        loss = error(inputs)
        (gradient,) = torch.autograd.grad(loss, inputs)
        with torch.no_grad():
            adam(
                [inputs], [gradient], [mean], [square], [], [step], lr=lr, beta1=0.9, beta2=0.999, eps=1e-8,
                weight_decay=0.0, amsgrad=False, maximize=False,
            )  # fmt: skip
    return inputs.detach(), loss.detach()  # read only at the end, since an accelerator would wait for it


def _by_lbfgs(error: _Error, start: Tensor, iterations: int, lr: float) -> tuple[Tensor, Tensor]:
    """Return what ``torch.optim.LBFGS`` finds with a strong-Wolfe line search, and the last error that it measured."""
    inputs = start.clone().requires_grad_()
    steps = torch.optim.LBFGS([inputs], lr=lr, max_iter=iterations, line_search_fn="strong_wolfe")
    loss = start.new_tensor(torch.inf)

    def closure() -> Tensor:
        nonlocal loss
        loss = error(inputs)
        (inputs.grad,) = torch.autograd.grad(loss, inputs)
        return loss

    steps.step(closure)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    return inputs.detach(), loss.detach()


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
