"""DFL-Dual: dual-domain clustering and trust bootstrapping (Sun et al., CVPR 2024)."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.inversion import balanced_labels, invert, residual
from flower_dfl.strategies.kernels import cosines, distances_to, pairwise_distances, weighted_mean
from flower_dfl.strategies.two_median import two_median
from flower_dfl.strategies.wasserstein import pairwise_wasserstein, wasserstein
from flower_dfl.types import Aggregate, DigestContext, Inbox, Learner, Need, RoundContext, Update
from flower_dfl.validation import check_fields

__all__ = [
    "Decision",
    "DflDual",
    "dual_decision",
    "invert",
    "select_trusted",
    "two_median",
    "wasserstein",
]

_BY_PRESET: Any = None
"""Default of an option whose value comes from the preset."""

_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "calibrated": {
        "target": "descent",
        "s": 1.05,
        "steps": "nominal",
        "iterations": 10,
        "inversion_lr": 0.3,
        "c1": "1.5 median",
        "c2": 1.5,
        "q": "mean",
        "include_own": True,
    },
    "literal": {
        "target": "literal",
        "s": 1.1,
        "steps": "claimed",
        "iterations": 40,
        "inversion_lr": 0.1,
        "c1": float("inf"),
        "c2": 10.0,
        "q": "sum",
        "include_own": False,
    },
}

_LARGEST_AMPLIFICATION = 10.0
"""Bound on ``s ** t``, which would overflow in long runs."""


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """Whom one node trusts, and why. ``n`` members of the closed neighbourhood, ``j`` and ``k`` index them.

    Attributes:
        euclidean: Eq. 4, ``(n, n)``.
        distance: Eq. 7, the dual-domain distance ``(n, n)``, clipped at ``c1``, zero diagonal.
        trust: Eq. 8, similarity of each member with the node itself ``(n,)``.
        groups: Eqs. 10-11, ``groups[j, k]`` says that ``k`` is in the trusted cluster of ``j`` ``(n, n)``.
        q: Eq. 13, distance of each member to its trusted cluster ``(n,)``.
        divergence: Eq. 12, ``r_j = min(q_j / q_own, c2)`` ``(n,)``.
        clusters: Eq. 14, 0 for the cluster of small divergence, 1 for the other ``(n,)``.
        selected: Eq. 15, who is averaged ``(n,)``.
        flags: Where the rule could not discriminate.
    """

    euclidean: Tensor
    distance: Tensor
    trust: Tensor
    groups: Tensor
    q: Tensor
    divergence: Tensor
    clusters: Tensor
    selected: Tensor
    flags: tuple[str, ...]


def dual_decision(
    models: Tensor | Sequence[Tensor],
    wasserstein: Tensor | None,
    own: int,
    *,
    alpha: float | Literal["auto"] = "auto",
    c1: float | str = "1.5 median",
    c2: float = 1.5,
    q: Literal["mean", "sum"] = "mean",
    base: Tensor | None = None,
    trust_length: bool = False,
    trust_bootstrapping: bool = True,
    euclidean: bool = True,
    include_own: bool = True,
) -> Decision:
    r"""Decide whom to trust from models and dummy-set distances: eqs. 4 and 7-15.

    .. math:: D_{jk} = \min(W_{jk} + \alpha E_{jk}, C_1), \quad E_{jk} = \|h_j - h_k\|_2, \quad
              S_{ik} = \cos(h_i, h_k)

    Args:
        models: Half-steps of the closed neighbourhood, ``(n, d)`` or ``n`` rows ``(d,)``.
        wasserstein: Eq. 6, ``(n, n)``; None leaves the data domain out (the paper's *w/o WD*).
        own: Row of the node itself.
        alpha: Weight of the model domain. ``auto`` is median(W) / median(E) over the pairs: an equal say for both.
        c1: Upper bound of D: a number, ``"x median"`` for x times the median of D over the pairs, or ``"x nearest"``
            for x times the distance from the node to its nearest neighbour; none where that is 0.
        c2: Upper bound of the divergence ratio, above 1.
        q: Whether eq. 13 sums (as printed) or averages over the trusted cluster.
        base: Compare updates relative to this vector instead of models in eq. 8.
        trust_length: Multiply eq. 8 by the shorter of the two lengths over the longer.
        trust_bootstrapping: False always takes the nearer cluster (the paper's *w/o TB*).
        euclidean: False leaves the model domain out (the paper's *w/o ED*).
        include_own: Always keep the node itself.

    References:
        Sun, Liu, Chen, Lu, *Byzantine-robust Decentralized Federated Learning via Dual-domain Clustering and Trust
        Bootstrapping*, CVPR 2024.
        https://openaccess.thecvf.com/content/CVPR2024/html/Sun_Byzantine-robust_Decentralized_Federated_Learning_via_Dual-domain_Clustering_and_Trust_Bootstrapping_CVPR_2024_paper.html
    """
    rows = list(models)
    distances = pairwise_distances(rows, own).cpu()
    combined = _combine(distances if euclidean else None, wasserstein, alpha)
    pairs = _pairs(combined)
    bound = _bound(c1, pairs, np.delete(combined[own].numpy(), own))
    clipped = bool((pairs >= bound).all()) and len(rows) > 2 and bool((pairs > 0).any())
    combined = combined.clamp(max=bound).fill_diagonal_(0)
    trust = cosines(rows, own, base).cpu()
    if trust_length:
        lengths = distances_to(torch.zeros_like(rows[own]) if base is None else base, rows)
        longer = lengths.clamp(min=float(lengths[own]))
        trust *= torch.where(longer > 0, lengths.clamp(max=float(lengths[own])) / longer, 1.0)
    return select_trusted(
        combined,
        trust,
        own,
        c2=c2,
        q=q,
        trust_bootstrapping=trust_bootstrapping,
        include_own=include_own,
        euclidean=distances,
        flags=("all-distances-clipped",) if clipped else (),
    )


def select_trusted(
    distance: Tensor,
    trust: Tensor,
    own: int,
    *,
    c2: float = 1.5,
    q: Literal["mean", "sum"] = "mean",
    trust_bootstrapping: bool = True,
    include_own: bool = True,
    euclidean: Tensor | None = None,
    flags: tuple[str, ...] = (),
) -> Decision:
    """Decide from given distances ``(n, n)`` and similarities ``(n,)``: eqs. 9-15. See :func:`dual_decision`."""
    n = len(trust)
    d = distance.double().numpy()
    s = trust.double().numpy()
    groups = np.zeros((n, n), dtype=bool)
    q_values = np.zeros(n)
    for j in range(n):
        others = np.array([k for k in range(n) if k != j], dtype=int)
        near, far = two_median(d[others, j])
        groups[j, others[list(_trusted(near, far, s[others], trust_bootstrapping))]] = True
        q_values[j] = d[j, groups[j]].sum()
        if q == "mean" and groups[j].any():
            q_values[j] /= groups[j].sum()
    divergence = _divergence(q_values, own, c2)
    near, far = two_median(divergence)
    clusters = np.zeros(n, dtype=int)
    clusters[list(far)] = 1
    selected = np.zeros(n, dtype=bool)
    selected[list(_trusted(near, far, s, trust_bootstrapping))] = True
    return Decision(
        euclidean=torch.full((n, n), torch.nan, dtype=torch.float64) if euclidean is None else euclidean,
        distance=distance,
        trust=trust,
        groups=torch.from_numpy(groups),
        q=torch.from_numpy(q_values),
        divergence=torch.from_numpy(divergence),
        clusters=torch.from_numpy(clusters),
        selected=torch.from_numpy(selected | (np.arange(n) == own) if include_own else selected),
        flags=(*flags, *_remarks(d, far, selected, own)),
    )


def _trusted(
    near: tuple[int, ...], far: tuple[int, ...], trust: NDArray[np.float64], bootstrapping: bool
) -> tuple[int, ...]:
    """Eqs. 9, 11, 15: the cluster of the higher mean trust; the nearer one where they are equal."""
    if not far or not bootstrapping or trust[list(near)].mean() >= trust[list(far)].mean():
        return near
    return far


def _divergence(q: NDArray[np.float64], own: int, c2: float) -> NDArray[np.float64]:
    """Eq. 12. Where the node agrees perfectly with its cluster, anything else is as far as can be."""
    if q[own] == 0:
        return np.asarray(np.where(q == 0, 1.0, c2), dtype=np.float64)
    return np.asarray(np.minimum(q / q[own], c2), dtype=np.float64)


def _remarks(d: NDArray[np.float64], far: tuple[int, ...], selected: NDArray[np.bool_], own: int) -> tuple[str, ...]:
    remarks = []
    if len(selected) == 2:
        remarks.append("one-neighbour")  # both divergences are 1: whoever it is, it is accepted
    elif len(selected) > 2 and not far and d.any():
        remarks.append("no-split")
    if not selected[own]:
        remarks.append("own-not-selected")
    elif selected.sum() == 1 and len(selected) > 1:
        remarks.append("alone")
    return tuple(remarks)


def _combine(euclidean: Tensor | None, wasserstein: Tensor | None, alpha: float | Literal["auto"]) -> Tensor:
    """Eq. 7 before clipping."""
    if euclidean is None:
        if wasserstein is None:
            raise ConfigurationError("at least one of the two domains must be used, got neither")
        return wasserstein.double().clone()
    if wasserstein is None:
        return euclidean * (1.0 if alpha == "auto" else alpha)
    wasserstein = wasserstein.double()
    return wasserstein + euclidean * (_balance(wasserstein, euclidean) if alpha == "auto" else alpha)


def _balance(wasserstein: Tensor, euclidean: Tensor) -> float:
    ratio = _median(_pairs(wasserstein)), _median(_pairs(euclidean))
    return ratio[0] / ratio[1] if min(ratio) > 0 else 1.0


def _pairs(distance: Tensor) -> Tensor:
    """Return the distance of every pair once."""
    return distance[*torch.triu_indices(len(distance), len(distance), offset=1)]


def _median(values: Tensor) -> float:
    return float(np.median(values.numpy())) if len(values) else 0.0


def _bound(c1: float | str, pairs: Tensor, from_own: NDArray[np.float64]) -> float:
    """Return the bound of eq. 7; none where what it is a multiple of is 0, below which nobody can be told apart."""
    if not isinstance(c1, str):
        return float(c1)
    factor, unit = _multiple(c1)
    measure = _median(pairs) if unit == "median" else float(from_own.min(initial=math.inf))
    return factor * measure if measure > 0 else math.inf


def _multiple(text: str) -> tuple[float, str]:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s+(median|nearest)\s*", text)
    if match is None:
        raise ConfigurationError(f'c1 must be a positive number, "x median" or "x nearest", got {text!r}')
    return float(match[1]), match[2]


@dataclass(frozen=True, slots=True)
class DflDual(PeerStrategy[None]):
    r"""Average the neighbours that two distances and a bootstrapped trust agree on (Algorithm 1).

    Every member of the closed neighbourhood is explained by a dummy data set, fitted so that its gradient equals the
    member's update (eq. 5). Members are far apart if their models or their dummy sets are (eqs. 4, 6, 7). Twice the
    distances are split into two clusters by 2-median, and the cluster that is more similar to the node itself is
    believed: first to say how well each member fits its surroundings, then to say whose divergence is acceptable
    (eqs. 8-15). The own model counts in the trust, with similarity 1.

    Stateless, needs no Byzantine budget. With a single neighbour, or where every distance is clipped, nothing can be
    told apart and everybody is accepted; the result then carries a flag. Without attackers the forced split still drops
    about half of the neighbours. Trust is a cosine and knows no length: a magnified copy of the receiver's own model is
    trusted before any honest one (attack ``echo``), and nothing in eqs. 8-15 stops it. ``trust_length`` does.

    The paper leaves its constants to a supplement. The preset ``calibrated`` is what filtered label flipping, scaling,
    DBA and the Krum attack in our measurements; ``literal`` follows the printed equations (target with the printed
    sign, without the learning rate, sum in eq. 13, own model not protected). Every option below overrides its preset.

    Args:
        preset: ``calibrated`` or ``literal``; sets the defaults below, named in this order.
        base: Where the gradient of eq. 5 is taken. ``sender``: the start-of-round model that the sender claims, so
            that one inversion serves all its receivers (it might lie, which no attack of ours does); ``receiver``: the
            node's own, so that only half-steps travel.
        target: ``descent`` explains :math:`-u/(\eta K)`, the mean gradient; ``literal`` is :math:`+u/K` as printed.
        s: The target is multiplied by :math:`s^t` (at most 10), since updates shrink. Positive; 1.05 or 1.1.
        steps: K, the number of local steps. ``nominal``: of the protocol's average node; ``claimed``: by the sender,
            clipped to a factor of ten around nominal.
        optimizer: ``adam`` or ``lbfgs``.
        iterations: Steps of the inversion, 10 or 40. Positive.
        inversion_lr: Their size, 0.3 or 0.1. Positive.
        per_class: Dummy samples a class (the paper: 10 for MNIST, 5 for CIFAR-10). Positive.
        alpha: Weight of the model domain; ``auto`` gives both domains the same median.
        c1: Bound of the distance, positive: a number, ``"x median"`` of all pairs, or ``"x nearest"`` of the distance
            to the nearest neighbour. ``"1.5 median"`` or infinity. Where most pairs are pairs of colluders that are
            alike (8 Byzantine nodes of 10 on a complete graph), the median is theirs, and everybody else is clipped
            and accepted; ``"10 nearest"`` and infinity are not moved by them.
        c2: Bound of the divergence, finite and above 1: 1.5 or 10. Large values let the mildest attacker in.
        q: ``mean`` or ``sum`` of eq. 13.
        trust_space: Eq. 8 compares ``model`` (as printed) or ``update`` (fails: honest updates are near orthogonal).
        trust_length: Multiply eq. 8 by the shorter of the two lengths over the longer (not in the paper), so that what
            points the same way at another length is not the same.
        include_own: Always keep the own model; true or false.
        variant: ``full``, or the ablations of the paper's Table 3: ``without-ed``, ``without-wd``, ``without-tb``.
        residuals: Also record as a score how badly each member's dummy set explains its update: 0 perfectly, 1 not at
            all. One more gradient a member and receiver; decides nothing.

    References:
        Sun, Liu, Chen, Lu, *Byzantine-robust Decentralized Federated Learning via Dual-domain Clustering and Trust
        Bootstrapping*, CVPR 2024.
        https://openaccess.thecvf.com/content/CVPR2024/html/Sun_Byzantine-robust_Decentralized_Federated_Learning_via_Dual-domain_Clustering_and_Trust_Bootstrapping_CVPR_2024_paper.html
    """

    preset: Literal["calibrated", "literal"] = "calibrated"
    base: Literal["sender", "receiver"] = "sender"
    target: Literal["descent", "literal"] = _BY_PRESET
    s: float = _BY_PRESET
    steps: Literal["nominal", "claimed"] = _BY_PRESET
    optimizer: Literal["adam", "lbfgs"] = "adam"
    iterations: int = _BY_PRESET
    inversion_lr: float = _BY_PRESET
    per_class: int = 10
    alpha: float | Literal["auto"] = "auto"
    c1: float | str = _BY_PRESET
    c2: float = _BY_PRESET
    q: Literal["mean", "sum"] = _BY_PRESET
    trust_space: Literal["model", "update"] = "model"
    trust_length: bool = False
    include_own: bool = _BY_PRESET
    variant: Literal["full", "without-ed", "without-wd", "without-tb"] = "full"
    residuals: bool = False

    SHARED_START: ClassVar[str] = "dfl-dual-start"
    """Purpose of the draw of the dummy inputs, the same for every member and receiver of a round."""

    def __post_init__(self) -> None:
        if self.preset not in _PRESETS:
            raise ConfigurationError(f"preset must be one of {', '.join(_PRESETS)}, got {self.preset!r}")
        for entry in fields(self):
            if getattr(self, entry.name) is _BY_PRESET:
                object.__setattr__(self, entry.name, _PRESETS[self.preset][entry.name])
        check_fields(self)
        for name in ("s", "iterations", "inversion_lr", "per_class"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigurationError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if not (_multiple(self.c1)[0] if isinstance(self.c1, str) else self.c1) > 0:
            raise ConfigurationError(f"c1 must be positive, got {self.c1}")
        if not 1 < self.c2 < float("inf"):
            raise ConfigurationError(f"c2 must be above 1 and finite, otherwise everybody is accepted, got {self.c2}")
        if self.alpha != "auto" and not 0 <= self.alpha < float("inf"):
            raise ConfigurationError(f'alpha must be "auto" or a non-negative number, got {self.alpha}')

    @property
    def needs(self) -> frozenset[Need]:
        """The learner, and the senders' bases if gradients are taken there; neither without the data domain."""
        if self.variant == "without-wd":
            return frozenset()
        return frozenset({Need.LEARNER, Need.SENDER_BASE} if self.base == "sender" else {Need.LEARNER})

    def digest(self, update: Update, ctx: DigestContext) -> Tensor | None:
        """Return the dummy set ``(L, S, m)`` of a message; None if it depends on the receiver, or is not used."""
        if self.base == "receiver" or self.variant == "without-wd":
            return None
        return self._dummy_set(update, _claimed_base(update), ctx)

    def aggregate(self, inbox: Inbox, state: None, ctx: RoundContext) -> Aggregate[None]:
        """Return the uniform mean of the selected members."""
        members = inbox.members
        own = members.index(inbox.own)
        shared = ctx.for_digest()
        evidence = [] if self.variant == "without-wd" else [self._evidence(u, ctx.base, shared) for u in members]
        distances = pairwise_wasserstein(evidence).cpu() if evidence else None
        decision = dual_decision(
            [update.vector for update in members],
            distances,
            own,
            alpha=self.alpha,
            c1=self.c1,
            c2=self.c2,
            q=self.q,
            base=ctx.base if self.trust_space == "update" else None,
            trust_length=self.trust_length,
            trust_bootstrapping=self.variant != "without-tb",
            euclidean=self.variant != "without-ed",
            include_own=self.include_own,
        )
        selected = decision.selected.tolist()
        senders = [update.sender for update in members]
        kept = [update.vector for update, keep in zip(members, selected, strict=True) if keep]
        scores = {
            "euclidean": decision.euclidean[own],
            "distance": decision.distance[own],
            "trust": decision.trust,
            "divergence": decision.divergence,
        } | ({} if distances is None else {"wasserstein": distances[own]})
        if self.residuals and evidence:
            pairs = zip(members, evidence, strict=True)
            scores["residual"] = torch.tensor([self._residual(u, dummy, ctx.base, shared) for u, dummy in pairs])
        return Aggregate(
            vector=weighted_mean(kept, [1.0] * len(kept)),
            state=state,
            weights={sender: keep / len(kept) for sender, keep in zip(senders, selected, strict=True)},
            scores={name: dict(zip(senders, values.tolist(), strict=True)) for name, values in scores.items()},
            flags=decision.flags,
        )

    def _evidence(self, update: Update, own_base: Tensor, ctx: DigestContext) -> Tensor:
        if self.base == "sender" and update.digest is not None:
            return update.digest
        return self._dummy_set(update, self._base_of(update, own_base), ctx)

    def _base_of(self, update: Update, own_base: Tensor) -> Tensor:
        return own_base if self.base == "receiver" else _claimed_base(update)

    def _residual(self, update: Update, dummy: Tensor, own_base: Tensor, ctx: DigestContext) -> float:
        learner, base = _learner(ctx), self._base_of(update, own_base)
        labels = balanced_labels(learner.num_classes, self.per_class).to(base.device)
        return residual(
            learner, base, self._target(update, base, ctx), dummy.reshape(len(labels), *learner.input_shape), labels
        )

    def _dummy_set(self, update: Update, base: Tensor, ctx: DigestContext) -> Tensor:
        learner = _learner(ctx)
        labels = balanced_labels(learner.num_classes, self.per_class)
        start = torch.randn(len(labels), *learner.input_shape, generator=ctx.generator(self.SHARED_START))
        target = self._target(update, base, ctx)
        result = invert(
            learner,
            base,
            target,
            start.to(base.device),
            labels.to(base.device),
            optimizer=self.optimizer,
            iterations=self.iterations,
            lr=self.inversion_lr,
        )
        return result.inputs.reshape(learner.num_classes, self.per_class, -1)  # (L, S, m)

    def _target(self, update: Update, base: Tensor, ctx: DigestContext) -> Tensor:
        steps = ctx.num_steps
        if self.steps == "claimed":
            claimed = update.epochs * update.num_examples / update.batch_size
            steps = min(max(claimed, steps / 10), steps * 10)
        amplification = math.exp(min(ctx.round * math.log(self.s), math.log(_LARGEST_AMPLIFICATION)))
        sign_and_rate = -1 / ctx.lr if self.target == "descent" else 1.0
        return (update.vector - base) * (amplification * sign_and_rate / steps)


def _learner(ctx: DigestContext) -> Learner:
    if ctx.learner is None:
        raise ConfigurationError("the data domain needs a learner, got ctx.learner = None")
    return ctx.learner


def _claimed_base(update: Update) -> Tensor:
    if update.base is None:
        raise ConfigurationError("base = 'sender' needs messages that carry the sender's start-of-round model")
    return update.base
