"""Rule in the loop: go as far as the receiver's own rule lets the attackers go."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from flower_dfl.attacks.backdoor import Backdoor
from flower_dfl.attacks.observation import leader, led_by, mixing_weights, neighbourhood
from flower_dfl.errors import ByzantineBudgetError, ConfigurationError
from flower_dfl.protocols import Attack, PeerStrategy
from flower_dfl.strategies.kernels import weighted_mean
from flower_dfl.types import (
    AttackContext,
    AttackView,
    DigestContext,
    Inbox,
    Knowledge,
    LabelledData,
    Need,
    NodeId,
    RoundContext,
    Trigger,
    Update,
)
from flower_dfl.vectors import all_finite

__all__ = ["RuleInTheLoop"]


@dataclass(frozen=True, slots=True)
class RuleInTheLoop(Attack):
    r"""Send the point nearest to an inner attack's model at which the receiver's rule still counts the attackers.

    .. math:: h'(\rho) = (1 - \rho) \, \hat\theta_i + \rho \, h_{\mathrm{mal}}, \qquad
              \rho^* = \max \{ \rho \in [0, 1] : \textstyle\sum_{b \in N_i \cap B} w_{ib}(\rho) > 0 \}

    :math:`\hat\theta_i` is the mean of the honest half-steps in the receiver's closed neighbourhood,
    :math:`h_{\mathrm{mal}}` what the inner attack would send from the receiver's first Byzantine neighbour. All
    Byzantine neighbours send the same vector; each finds it for itself by running the rule ``steps + 1`` times on
    exactly the messages that the receiver will get. ``steps`` halvings of [0, 1] find :math:`\rho^*` where acceptance
    falls with :math:`\rho`, else one of its borders. If the rule takes the attackers nowhere, :math:`\hat\theta_i` is
    sent; if it takes them everywhere (plain averaging), the inner attack's vector.

    What the attackers cannot know is replaced: a rule's memory by that of a first round, the receiver's training data
    by that of its first Byzantine neighbour, running statistics of normalisation layers by the sender's own. Where
    these decide, the bound is an estimate: a rule whose memory widens what it accepts is attacked less than it could
    be.

    Args:
        rule: The receivers' rule; in configurations a name, or ``{name = "krum", params = {}}``.
        attack: The inner attack, likewise. It sees all that this one sees.
        steps: Halvings. At least 1; 10 find :math:`\rho^*` to one part in a thousand.

    References:
        Fang, Cao, Jia, Gong, *Local Model Poisoning Attacks to Byzantine-Robust Federated Learning*, USENIX Security
        2020, for the search with the rule in hand. https://www.usenix.org/conference/usenixsecurity20/presentation/fang
    """

    knowledge: ClassVar[Knowledge] = Knowledge.OMNISCIENT
    rule: PeerStrategy[Any]
    attack: Attack = field(default_factory=Backdoor)
    steps: int = 10

    def __post_init__(self) -> None:
        if not isinstance(self.rule, PeerStrategy):
            raise ConfigurationError(f"rule must be a strategy, got {self.rule!r}")
        if not isinstance(self.attack, Attack):
            raise ConfigurationError(f"attack must be an attack, got {self.attack!r}")
        if self.steps < 1:
            raise ConfigurationError(f"steps must be at least 1, got {self.steps}")

    @property
    def trigger(self) -> Trigger | None:
        """The inner attack's trigger."""
        return self.attack.trigger

    def poison(self, data: LabelledData, ctx: AttackContext) -> LabelledData:
        """Poison as the inner attack does."""
        return self.attack.poison(data, ctx)

    def craft(self, view: AttackView, receiver: NodeId, ctx: AttackContext) -> Tensor:
        """Return the farthest vector that the receiver's rule accepts ``(d,)``."""
        borrowed, told = led_by(view, ctx, leader(view, ctx.neighbours[receiver]), self.knowledge)
        wanted = self.attack.craft(borrowed, receiver, told)
        honest = neighbourhood(view, receiver, ctx)
        if receiver not in (update.sender for update in honest):
            return wanted  # a receiver that has diverged judges nobody
        mean = weighted_mean([update.vector for update in honest], [1.0] * len(honest))
        letters = tuple(self._letter(update, ctx) for update in honest)  # once, since a digest can be dear
        if self._accepts(wanted, letters, view, receiver, ctx):
            return wanted
        low, high = 0.0, 1.0
        for _ in range(self.steps):
            middle = (low + high) / 2
            if self._accepts(torch.lerp(mean, wanted, middle), letters, view, receiver, ctx):
                low = middle
            else:
                high = middle
        return torch.lerp(mean, wanted, low) if low > 0 else mean  # wanted may not be finite

    def _accepts(
        self, vector: Tensor, honest: tuple[Update, ...], view: AttackView, receiver: NodeId, ctx: AttackContext
    ) -> bool:
        """Return whether the receiver's rule gives the attackers weight if all its Byzantine neighbours send this."""
        if not all_finite(vector):
            return False
        around = ctx.neighbours[receiver]
        lies = tuple(
            self._letter(replace(update, vector=vector), ctx) for update in view.byzantine if update.sender in around
        )
        own = next(update for update in honest if update.sender == receiver)
        received = sorted((u for u in (*honest, *lies) if u is not own), key=lambda update: update.sender)
        mixing = mixing_weights(ctx, receiver, "metropolis", {u.sender for u in received})
        inbox = Inbox(
            own=own,
            received=tuple(received),
            mixing_weights=torch.tensor([mixing[u.sender] for u in received], dtype=torch.float64),
        )
        own = next(update for update in view.honest if update.sender == receiver)  # with its base
        weights = self._weights(inbox, own, view, ctx)
        return sum(weights[update.sender] for update in lies) > 0

    def _letter(self, update: Update, ctx: AttackContext) -> Update:
        """Return what the receiver has of a message: the base if the rule asks for it, and the rule's digest."""
        needs = self.rule.needs
        letter = replace(update, digest=None, base=update.base if Need.SENDER_BASE in needs else None)
        learner = ctx.learner if Need.LEARNER in needs else None
        shared = DigestContext(ctx.round, ctx.num_rounds, ctx.lr, ctx.num_steps, ctx.seed, learner)
        return replace(letter, digest=self.rule.digest(letter, shared))

    def _weights(self, inbox: Inbox, own: Update, view: AttackView, ctx: AttackContext) -> Mapping[NodeId, float]:
        """Run the rule as the receiver does, with the largest budget that it can carry."""
        needs = self.rule.needs
        budget = len(ctx.neighbours[own.sender] & ctx.byzantine)
        data = view.byzantine_data[leader(view, ctx.neighbours[own.sender])] if Need.OWN_DATA in needs else None
        while True:
            context = RoundContext(
                node=own.sender,
                round=ctx.round,
                num_rounds=ctx.num_rounds,
                base=own.vector if own.base is None else own.base,
                budget=budget,
                lr=ctx.lr,
                num_steps=ctx.num_steps,
                seed=ctx.seed,
                learner=ctx.learner if Need.LEARNER in needs else None,
                data=data,
                honest=frozenset(ctx.neighbours) - ctx.byzantine if Need.HONEST_NODES in needs else None,
            )
            try:
                return self.rule.aggregate(inbox, self.rule.init(context.base), context).weights
            except ByzantineBudgetError:
                if budget == 0:
                    raise
                budget -= 1
