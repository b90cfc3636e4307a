"""Trust anchored in what a node has itself: its own data, and a model that it never let anybody touch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, get_args

import torch
from torch import Tensor

from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.randomness import even_draws
from flower_dfl.strategies.clipping import by_sender
from flower_dfl.strategies.kernels import distances_to, weighted_mean
from flower_dfl.strategies.own_data import data_of, learner_of
from flower_dfl.strategies.trigger_audit import Auditor, Finding, Patch, Search, class_sample
from flower_dfl.types import Aggregate, Inbox, LabelledData, Learner, Need, NodeId, RoundContext
from flower_dfl.vectors import all_finite

__all__ = ["TrustAnchored"]

State: TypeAlias = dict[str, Any]
"""``anchor``: the never-mixed model ``(d,)``; ``gaps``: smoothed audit gap by neighbour; ``step``: longest own step."""

_UNMOVED = 1e-6
"""A node that its neighbours moved by less than this share of its model has nothing to repair."""


@dataclass(frozen=True, slots=True)
class TrustAnchored(PeerStrategy[State]):
    r"""Audit every neighbour against a model that was never mixed, average those that pass, and repair what slipped by.

    For a node whose neighbours are mostly Byzantine: nothing is decided by a majority or by comparing neighbours with
    one another. Node i keeps an *anchor* :math:`a_i`, trained on its own data alone, every label drawn equally often.
    In each round t, with own half-step :math:`h_i` and own step :math:`u_i^t = \|h_i - \theta_i^t\|`:

    1. The anchor is trained for as long as the half-step was, and stays what it was if that ends in numbers that are
       not finite (flag ``anchor-failed``). If the half-step's accuracy on a few own samples of every label is below
       ``accuracy_share`` of :math:`\theta_i^t`'s, local training has failed (SGD can leap), and
       :math:`h_i := \theta_i^t` (flag ``training-failed``): measured from a leap, all neighbours are far away.
    2. Neighbour j passes if it is at most ``radius`` times :math:`\max_{s \le t} u_i^s` away (steps shrink as training
       goes on, distances between honest nodes do not), if its accuracy on the same samples is at least
       :math:`t / (t + 1)` times ``accuracy_share`` of :math:`h_i`'s (a young model of skewed data knows little of other
       labels), and if its *gap* is at most ``largest_gap``. The gap :math:`g_j` is how much more often than the anchor
       :math:`h_j` follows the worst patch that can be found for it (:mod:`~flower_dfl.strategies.trigger_audit`),
       smoothed over the rounds from half of what is allowed,
       :math:`\bar g_j \leftarrow \mu \bar g_j + (1 - \mu) g_j`: honest gaps come and go, a backdoor's stay.
    3. The half-step and those who pass are averaged, all with the same weight.
    4. The average :math:`\bar\theta` is audited in the same way: weak poison that no single message betrays adds up and
       shows here. Patches with a gap above ``alarm`` are pasted on half of each of ``repair_steps`` batches of own
       samples; the average is trained to answer on all of them as :math:`\bar\theta` does on the clean samples
       (cross-entropy with its class probabilities), and audited again, at most ``repairs`` times. Whatever is no answer
       to a patch stays as it is, so that a false alarm costs little, and the node stays near its honest neighbours,
       from which mixing with the anchor would drive it away.

    Needs no Byzantine budget. Where nobody passes, and with an empty inbox, the node stays at :math:`h_i`. Honest
    nodes should train with ``train.sampling = "class-balanced"``: gaps between models trained on skewed data are large
    without any backdoor.

    What it cannot see: a backdoor whose trigger is no small pattern of extreme values (a blend over the whole image, a
    natural feature), and untargeted poison that keeps a model's accuracy. Both are bounded by the radius alone.

    Cost: one local training (the anchor), and for each audit three gradients by the inputs, and forward passes of both
    models on four patched copies, of ``L * per_class`` samples. A sweep adds a forward pass of a few samples for every
    square, 162 on images of 28 by 28 pixels.

    Args:
        accuracy_share: Least accuracy of a neighbour relative to the own one, after many rounds, and of the half-step
            relative to the start-of-round model. In [0, 1].
        largest_gap: Largest smoothed gap of a neighbour. In [0, 1].
        memory: Share of the old in a smoothed gap. In [0, 1).
        radius: Largest distance of a neighbour, in units of the longest own step so far. Positive.
        alarm: Gap of the average above which it is repaired. In [0, 1].
        repairs: Most repairs of one average. Not negative; 0 repairs nothing.
        repair_steps: Gradient steps of a repair. Positive.
        batch_size: Samples of such a step. At least 2.
        pixels: Size of the patches that are searched for. Positive.
        per_class: Own samples of each label that accuracy and audits are measured on. Positive.
        search: How patches are searched for: ``slopes``, or ``sweep``, which convolutional networks need.

    Raises:
        ConfigurationError: A parameter is out of range.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.LEARNER, Need.OWN_DATA})
    accuracy_share: float = 0.75
    largest_gap: float = 0.2
    memory: float = 0.7
    radius: float = 0.9
    alarm: float = 0.04
    repairs: int = 3
    repair_steps: int = 20
    batch_size: int = 64
    pixels: int = 16
    per_class: int = 20
    search: Search = "slopes"

    ANCHOR: ClassVar[str] = "trust-anchored-anchor"
    """Purpose of the draws of the anchor's batches."""
    REPAIR: ClassVar[str] = "trust-anchored-repair"
    """Purpose of the draws of the repair."""
    AUDIT: ClassVar[str] = "trust-anchored-audit"
    """Purpose of the draws of the audits."""

    def __post_init__(self) -> None:
        for name in ("accuracy_share", "largest_gap", "alarm"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigurationError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.memory < 1:
            raise ConfigurationError(f"memory must be in [0, 1), got {self.memory}")
        if not 0 < self.radius < float("inf"):
            raise ConfigurationError(f"radius must be positive and finite, got {self.radius}")
        if self.search not in get_args(Search):
            raise ConfigurationError(f"search must be one of {', '.join(get_args(Search))}, got {self.search!r}")
        if self.repairs < 0 or self.batch_size < 2 or min(self.repair_steps, self.pixels, self.per_class) < 1:
            raise ConfigurationError(
                "repairs must not be negative, batch_size at least 2, repair_steps, pixels and per_class positive, "
                f"got {self.repairs}, {self.batch_size}, {self.repair_steps}, {self.pixels} and {self.per_class}"
            )

    def init(self, own: Tensor) -> State:
        """Return the anchor, which starts where the node does, no gaps, and no step."""
        return {"anchor": own.clone(), "gaps": {}, "step": 0.0}

    def aggregate(self, inbox: Inbox, state: State, ctx: RoundContext) -> Aggregate[State]:
        """Return the repaired average of those who pass."""
        learner, sample = learner_of(ctx), class_sample(data_of(ctx), self.per_class)
        anchor = self._trained_anchor(inbox, state["anchor"], ctx)
        own, accuracy = self._measure(inbox.own.vector, sample, ctx)
        flags = [] if own is inbox.own.vector else ["training-failed"]
        if anchor is state["anchor"]:
            flags.append("anchor-failed")
        step = max(state["step"], float((own - ctx.base).double().norm()))
        state = {"anchor": anchor, "gaps": state["gaps"], "step": step}
        if not inbox.received:
            return Aggregate(own.clone(), state, {inbox.own.sender: 1.0}, flags=tuple(flags))
        auditor = Auditor(
            learner, anchor, sample, pixels=self.pixels, generator=ctx.generator(self.AUDIT), search=self.search
        )
        rows = [update.vector for update in inbox.received]
        accuracies = torch.tensor([_accuracy(learner, row, sample) for row in rows], dtype=torch.float64)
        distances = distances_to(own, rows)
        share = self.accuracy_share * ctx.round / (ctx.round + 1)
        able = (accuracies >= share * accuracy) & (distances <= self.radius * step)
        gaps = self._smoothed(inbox, able, auditor, state["gaps"])
        passed = torch.tensor(
            [bool(fit) and gaps[u.sender] <= self.largest_gap for u, fit in zip(inbox.received, able, strict=True)]
        )
        weight = 1 / (1 + int(passed.sum()))
        vector = weighted_mean([own, *rows], [weight, *(passed * weight).tolist()])
        moved = float((vector - own).double().norm()) > _UNMOVED * float(own.double().norm())
        finding = auditor.audit(vector)
        repaired = self._repaired(vector, finding, auditor, ctx) if moved else vector
        if repaired is not vector:
            flags.append("repaired")
        return Aggregate(
            repaired,
            state | {"gaps": state["gaps"] | gaps},
            by_sender(inbox, weight, passed * weight),
            scores={
                "accuracy": by_sender(inbox, accuracy, accuracies),
                "distance": by_sender(inbox, 0.0, distances / max(step, torch.finfo(torch.float64).tiny)),
                "gap": {inbox.own.sender: finding.gap} | gaps,
            },
            flags=tuple(flags),
        )

    def _measure(self, half_step: Tensor, sample: LabelledData, ctx: RoundContext) -> tuple[Tensor, float]:
        """Return what neighbours are measured by and its accuracy: the half-step, or where it began if spoiled."""
        reached, began = (_accuracy(learner_of(ctx), vector, sample) for vector in (half_step, ctx.base))
        return (ctx.base, began) if reached < self.accuracy_share * began else (half_step, reached)

    def _smoothed(
        self, inbox: Inbox, able: Tensor, auditor: Auditor, before: Mapping[NodeId, float]
    ) -> dict[NodeId, float]:
        """Return the smoothed gap of every neighbour that is accurate enough to be audited."""
        found = {
            update.sender: auditor.audit(update.vector).gap
            for update, fit in zip(inbox.received, able.tolist(), strict=True)
            if fit
        }
        return {
            sender: self.memory * before.get(sender, self.largest_gap / 2) + (1 - self.memory) * gap
            for sender, gap in found.items()
        }

    def _trained_anchor(self, inbox: Inbox, anchor: Tensor, ctx: RoundContext) -> Tensor:
        """Train the anchor for as many steps as the half-step, every label drawn equally often.

        The old one stays if that ends in numbers that are not finite, as running statistics from a peer can make it.
        """
        data, learner, draw = data_of(ctx), learner_of(ctx), ctx.generator(self.ANCHOR)
        vector = anchor.clone()
        for _ in range(inbox.own.epochs):
            order = even_draws(data.labels, len(data), draw)
            for batch in torch.split(order, inbox.own.batch_size):
                vector -= ctx.lr * learner.gradient(vector, data.inputs[batch], data.labels[batch])
        return vector if all_finite(vector) else anchor

    def _repaired(self, vector: Tensor, finding: Finding, auditor: Auditor, ctx: RoundContext) -> Tensor:
        """Train the patches away that an audit finds, and audit again; return ``vector`` itself if it finds none."""
        draw, average = ctx.generator(self.REPAIR), vector
        for done in range(self.repairs):
            if done:
                finding = auditor.audit(vector)
            patches = [patch for patch, gap in zip(finding.patches, finding.gaps, strict=True) if gap > self.alarm]
            if not patches:
                break
            vector = self._trained_against(patches, vector, average, draw, ctx)
        return vector

    def _trained_against(
        self, patches: Sequence[Patch], vector: Tensor, average: Tensor, draw: torch.Generator, ctx: RoundContext
    ) -> Tensor:
        """Train ``vector`` on own samples, half with the patches, to answer as the average does without them."""
        data, learner, vector = data_of(ctx), learner_of(ctx), vector.clone()
        for _ in range(self.repair_steps):
            batch = even_draws(data.labels, self.batch_size, draw)
            which = torch.randint(len(patches), (self.batch_size // 2,), generator=draw).to(batch.device)
            inputs = data.inputs[batch]
            answers = learner.logits(average, inputs).softmax(dim=1)
            for number, patch in enumerate(patches):
                carriers = (which == number).nonzero().flatten()
                inputs[carriers] = patch.stamp(inputs[carriers])
            vector -= ctx.lr * learner.gradient(vector, inputs, answers)
        return vector


def _accuracy(learner: Learner, vector: Tensor, sample: LabelledData) -> float:
    """Return the mean over labels of the accuracy on their samples."""
    right = (learner.logits(vector, sample.inputs).argmax(dim=1) == sample.labels).cpu()
    labels = sample.labels.cpu()
    return float(torch.stack([right[labels == label].double().mean() for label in set(labels.tolist())]).mean())
