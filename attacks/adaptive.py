"""Adaptive: an inner attack that also imitates the honest models, in weights and in updates."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from flower_dfl.attacks.backdoor import Backdoor
from flower_dfl.attacks.poisoning import base_of, learner_of, stamp_share
from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import Attack
from flower_dfl.strategies.kernels import weighted_mean
from flower_dfl.types import AttackContext, AttackView, Knowledge, LabelledData, NodeId, Trigger
from flower_dfl.vectors import all_finite

__all__ = ["Adaptive"]

_POISON_SHARE = 0.5
"""Stamped share of the data that the loss is measured on, for attacks that do not poison their training data."""


@dataclass(frozen=True, slots=True)
class Adaptive(Attack):
    r"""Trade the loss of an inner attack against the distance to the honest models, on the vector that is sent.

    .. math:: \min_\theta \; \beta L_k(\theta) + (1 - \beta) \Big[ \frac{\|\theta - \hat\theta\|}{\|\hat\theta\|}
              + \big(1 - \cos(\theta, \hat\theta)\big) + \frac{\|\hat g - g\|}{\|\hat g\|} \Big],
              \qquad \hat g = \hat\theta^t - \hat\theta, \quad g = \theta_k^t - \theta

    :math:`\hat\theta` is the mean of all honest half-steps of the round, :math:`\hat\theta^t` that of their
    start-of-round models, :math:`\theta_k^t` the attacker's own, and :math:`L_k` the loss on the inner attack's
    poisoned data. The search starts from what the inner attack would send, boosted or not, and takes ``steps``
    normalised gradient steps that shrink to zero; the best vector on the way is sent.

    ``beta = 1`` cares for the inner loss alone, ``beta = 0`` for imitation alone: it ends at :math:`\hat\theta` where
    the attacker starts from the honest models' mean, else near its own start moved by the honest mean update.

    As printed the cosine similarity is *added*, so that minimising pushes the directions apart
    (``similarity = "literal"``), and the distances are not divided by anything (``normalised = false``).

    Args:
        attack: The inner attack, which should be a targeted one; in configurations a name, or
            ``{name = "scaling", params = {}}``. It sees all that this one sees.
        beta: Weight of the inner loss, in [0, 1].
        similarity: ``corrected`` adds 1 - S, ``literal`` adds S.
        normalised: Whether distances are divided by the size of the honest model and of the honest update.
        steps: Gradient steps. At least 1.
        rate: First step's length, as a fraction of the larger of the honest mean update and the distance between the
            inner attack's vector and :math:`\hat\theta`. Positive.
        samples: Most poisoned samples that the loss is measured on. At least 1.

    References:
        Sun, Liu, Chen, Lu, *Byzantine-robust Decentralized Federated Learning via Dual-domain Clustering and Trust
        Bootstrapping*, CVPR 2024, equation (16).
        https://openaccess.thecvf.com/content/CVPR2024/html/Sun_Byzantine-robust_Decentralized_Federated_Learning_via_Dual-domain_Clustering_and_Trust_Bootstrapping_CVPR_2024_paper.html
    """

    knowledge: ClassVar[Knowledge] = Knowledge.OMNISCIENT
    attack: Attack = field(default_factory=Backdoor)
    beta: float = 0.5
    similarity: Literal["corrected", "literal"] = "corrected"
    normalised: bool = True
    steps: int = 50
    rate: float = 0.1
    samples: int = 256

    def __post_init__(self) -> None:
        if not isinstance(self.attack, Attack):
            raise ConfigurationError(f"attack must be an attack, got {self.attack!r}")
        if not 0 <= self.beta <= 1:
            raise ConfigurationError(f"beta must be in [0, 1], got {self.beta}")
        if min(self.steps, self.samples) < 1:
            raise ConfigurationError(f"steps and samples must be at least 1, got {self.steps} and {self.samples}")
        if not 0 < self.rate < float("inf"):
            raise ConfigurationError(f"rate must be positive and finite, got {self.rate}")

    @property
    def trigger(self) -> Trigger | None:
        """The inner attack's trigger."""
        return self.attack.trigger

    def poison(self, data: LabelledData, ctx: AttackContext) -> LabelledData:
        """Poison as the inner attack does."""
        return self.attack.poison(data, ctx)

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the vector that trades harm against likeness ``(d,)``."""
        start = self.attack.craft(view, receiver, ctx)
        honest = [u for u in view.honest if all_finite(u.vector)]
        if not honest:
            return start
        bases = [base_of(view.own) if u.base is None else u.base for u in honest]
        mean = weighted_mean([u.vector for u in honest], [1.0] * len(honest))
        update = mean - weighted_mean(bases, [1.0] * len(honest))
        goal = _Objective(self, mean, update, base_of(view.own), self._target(view, ctx), ctx)
        scale = max(float((start - mean).norm()), float(update.norm()))
        vector = best = start
        lowest = goal.cost(start)
        for step in range(self.steps):
            slope = goal.slope(vector)
            length = float(slope.norm())
            if length == 0:
                break
            vector = vector - self.rate * (1 - step / self.steps) * scale / length * slope
            cost = goal.cost(vector)
            if cost < lowest:
                best, lowest = vector, cost
        return best

    def _target(self, view: AttackView, ctx: AttackContext) -> LabelledData:
        """Return the poisoned samples on which the inner attack's loss is measured."""
        mine = next(k for k, update in enumerate(view.byzantine) if update.sender == view.own.sender)
        clean = view.byzantine_data[mine]
        poisoned = self.attack.poison(clean, ctx)
        if poisoned is clean and self.attack.trigger is not None:
            poisoned = stamp_share(clean, self.attack.trigger, _POISON_SHARE, ctx.generator("adaptive-poison"))
        order = torch.randperm(len(poisoned), generator=ctx.generator("adaptive"))
        return poisoned.subset(order[: self.samples].to(poisoned.labels.device))


@dataclass(frozen=True, slots=True, eq=False)
class _Objective:
    """The function that is minimised, and its gradient."""

    attack: Adaptive
    mean: Tensor
    update: Tensor
    base: Tensor
    target: LabelledData
    ctx: AttackContext

    def cost(self, vector: Tensor) -> float:
        beta, cost = self.attack.beta, 0.0
        if beta > 0:
            cost += beta * float(learner_of(self.ctx).loss(vector, self.target.inputs, self.target.labels))
        if beta < 1:
            cost += (1 - beta) * float(self._unlikeness(vector))
        return cost

    def slope(self, vector: Tensor) -> Tensor:
        beta, slope = self.attack.beta, torch.zeros_like(vector)
        if beta > 0:
            slope += beta * learner_of(self.ctx).gradient(vector, self.target.inputs, self.target.labels)
        if beta < 1:
            variable = vector.detach().requires_grad_()
            slope += (1 - beta) * torch.autograd.grad(self._unlikeness(variable), variable)[0]
        return slope

    def _unlikeness(self, vector: Tensor) -> Tensor:
        """Return the three terms in the bracket, a scalar."""
        model = (vector - self.mean).norm()
        update = (vector - self.base - self.update).norm()  # g - g_hat, both signs turned
        if self.attack.normalised:
            tiny = torch.finfo(vector.dtype).tiny
            model = model / self.mean.norm().clamp_min(tiny)
            update = update / self.update.norm().clamp_min(tiny)
        cosine = F.cosine_similarity(vector, self.mean, dim=0)
        bracket: Tensor = model + update + (1 - cosine if self.attack.similarity == "corrected" else cosine)
        return bracket
