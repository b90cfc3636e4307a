"""Back-gradient poisoning: training points that are optimised to spoil the model trained on them."""

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from flower_dfl.attacks.poisoning import Gamma, boost_for, boosted, check_gamma, check_share, learner_of, pick_share
from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import Attack
from flower_dfl.types import AttackContext, AttackView, Knowledge, LabelledData, Learner, NodeId

__all__ = ["BackGradient"]

_Batch: TypeAlias = tuple[Tensor, Tensor]
"""Inputs and labels."""

_NUDGE = 1e-3
"""Step of the finite difference, relative to the size of the model."""


@dataclass(frozen=True, slots=True)
class BackGradient(Attack):
    r"""Replace a share of the local samples by points that maximise the validation loss (untargeted data poisoning).

    .. math:: \max_{X_p} A(w_S), \qquad w_{\tau+1} = w_\tau - \alpha \nabla_w L(w_\tau; D \cup (X_p, Y_p)), \quad
              w_0 = \theta_b^t

    The points start from local samples and keep the flipped labels :math:`L - 1 - y` while their inputs climb the
    hyper-gradient, found in reverse through the inner steps:

    .. math:: v \leftarrow \nabla A(w_S); \qquad \text{for } \tau = S-1 \dots 0: \quad
              dx \leftarrow dx - \alpha \nabla_x \langle \nabla_w L(w_\tau), v \rangle, \quad
              v \leftarrow v - \alpha \nabla_w^2 L(w_\tau) \, v

    Every point then moves by ``rate`` along its own normalised gradient and is projected on the input range; the best
    of all rounds of points is kept, so that on the surrogate they are never worse than flipped labels.

    Differences from the paper: the points are optimised jointly, the trajectory is kept instead of replayed backwards
    (``steps`` vectors of memory), the surrogate starts from the attacker's current model and takes few full-batch steps
    on at most ``samples`` samples. Hessian products are central differences of gradients, as there. All of it is
    computed anew in every round, at the price of about ``4 * steps * outer_steps`` gradients of some hundred samples:
    more than the local training of a small node.

    Args:
        share: Fraction of the local samples that become poison points, in (0, 1].
        steps: Inner steps S. At least 1; 1 is the one-step look-ahead.
        outer_steps: Moves of the points. Not negative; 0 is label flipping of the share.
        lr: Inner learning rate :math:`\alpha`; ``auto`` is that of local training.
        rate: Length of a point's move, in units of the input range. Positive.
        samples: Most clean samples that the surrogate trains on, and most that it is judged by. At least 1.
        gamma: Boost of what is sent, as in :class:`~flower_dfl.attacks.scaling.Scaling`; 1 follows the protocol.

    References:
        Muñoz-González, Biggio, Demontis, Paudice, Wongrassamee, Lupu, Roli, *Towards Poisoning of Deep Learning
        Algorithms with Back-gradient Optimization*, AISec 2017. https://arxiv.org/abs/1708.08689
    """

    knowledge: ClassVar[Knowledge] = Knowledge.LOCAL
    share: float = 0.15
    steps: int = 10
    outer_steps: int = 10
    lr: float | Literal["auto"] = "auto"
    rate: float = 1.0
    samples: int = 256
    gamma: Gamma = 1.0

    def __post_init__(self) -> None:
        check_share(self.share, "share")
        check_gamma(self.gamma)
        if self.lr != "auto" and not 0 < self.lr < float("inf"):
            raise ConfigurationError(f'lr must be "auto" or positive and finite, got {self.lr}')
        if min(self.steps, self.samples) < 1 or self.outer_steps < 0:
            raise ConfigurationError(
                "steps and samples must be at least 1 and outer_steps not negative, "
                f"got {self.steps}, {self.samples} and {self.outer_steps}"
            )
        if not 0 < self.rate < float("inf"):
            raise ConfigurationError(f"rate must be positive and finite, got {self.rate}")

    def poison(self, data: LabelledData, ctx: AttackContext) -> LabelledData:
        """Return the data with a random share replaced by poison points."""
        learner = learner_of(ctx)
        if ctx.base is None:
            raise ConfigurationError("back-gradient needs the attacker's own start-of-round model")
        chosen, rest = (
            part.to(data.labels.device) for part in pick_share(len(data), self.share, ctx.generator("poison"))
        )
        clean = rest if len(rest) > 1 else torch.cat([rest, chosen])
        training, validation = clean[::2][: self.samples], clean[1::2][: self.samples]
        labels = data.num_classes - 1 - data.labels[chosen]
        problem = _Surrogate(
            learner=learner,
            start=ctx.base,
            training=(data.inputs[training], data.labels[training]),
            validation=(data.inputs[validation], data.labels[validation]),
            labels=labels,
            share=len(chosen) / len(data),
            lr=ctx.lr if self.lr == "auto" else self.lr,
            steps=self.steps,
        )
        poisoned = LabelledData(data.inputs.clone(), data.labels.clone(), data.num_classes, data.input_range)
        poisoned.labels[chosen] = labels
        if len(validation):
            poisoned.inputs[chosen] = self._climb(problem, data.inputs[chosen], data.input_range)
        return poisoned

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the half-step, boosted if so asked ``(d,)``."""
        if self.gamma == 1:
            return view.own.vector
        return boosted(view.own, boost_for(self.gamma, receiver, ctx))

    def _climb(self, problem: "_Surrogate", points: Tensor, input_range: tuple[float, float]) -> Tensor:
        """Return the best points on the way up the validation loss."""
        low, high = input_range
        best, highest = points, float("-inf")
        for step in range(self.outer_steps + 1):
            path = problem.train(points)
            harm = problem.harm(path[-1])
            if harm > highest:
                best, highest = points, harm
            if step < self.outer_steps:
                slope = problem.slope(points, path).flatten(1)  # (p, pixels)
                slope = slope / slope.norm(dim=1, keepdim=True).clamp_min(torch.finfo(slope.dtype).tiny)
                points = (points + self.rate * (high - low) * slope.view_as(points)).clamp(low, high)
        return best


@dataclass(frozen=True, slots=True, eq=False)
class _Surrogate:
    """Training as the attacker imagines it: full-batch steps on clean samples and poison points.

    The poison points weigh ``share`` in the loss, however few clean samples stand for the others.
    """

    learner: Learner
    start: Tensor
    training: _Batch
    validation: _Batch
    labels: Tensor
    share: float
    lr: float
    steps: int

    def train(self, points: Tensor) -> list[Tensor]:
        """Return the models on the way, ``steps + 1`` vectors."""
        path = [self.start]
        for _ in range(self.steps):
            path.append(path[-1] - self.lr * self._gradient(path[-1], points))
        return path

    def harm(self, vector: Tensor) -> float:
        """Return the validation loss; what is not finite counts as no harm, because no rule would take it."""
        loss = float(self.learner.loss(vector, *self.validation))
        return loss if loss < float("inf") else float("-inf")

    def slope(self, points: Tensor, path: list[Tensor]) -> Tensor:
        """Return the gradient of the validation loss of the last model with respect to the points."""
        slope = torch.zeros_like(points)
        pull = self.learner.gradient(path[-1], *self.validation)  # (d,)
        for vector in reversed(path[:-1]):
            inputs = points.detach().requires_grad_()
            along = self.learner.gradient(vector, inputs, self.labels) @ pull
            slope -= self.lr * self.share * torch.autograd.grad(along, inputs)[0]
            pull = pull - self.lr * self._hessian_product(vector, points, pull)
        return slope

    def _gradient(self, vector: Tensor, points: Tensor) -> Tensor:
        clean = self.learner.gradient(vector, *self.training)
        return torch.lerp(clean, self.learner.gradient(vector, points, self.labels), self.share)

    def _hessian_product(self, vector: Tensor, points: Tensor, direction: Tensor) -> Tensor:
        length = float(direction.norm())
        if length == 0:
            return direction
        nudge = _NUDGE * (1 + float(vector.norm())) / length
        ahead = self._gradient(vector + nudge * direction, points)
        return (ahead - self._gradient(vector - nudge * direction, points)) / (2 * nudge)
