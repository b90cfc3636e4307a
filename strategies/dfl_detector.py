"""DFLDetector: FLDetector in every neighbourhood; whoever is not where its past says it should be is suspected."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flower_dfl.errors import ConfigurationError
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.kernels import distances_to, weighted_mean
from flower_dfl.types import Aggregate, Inbox, Need, NodeId, RoundContext

__all__ = ["DflDetector", "has_two_clusters", "hessian_vector_product", "two_means"]

State: TypeAlias = dict[str, Any]
"""A tree that :mod:`flower_dfl.codec` packs:

``points``   the last ``window + 1`` rounds, ``(round, start-of-round model)``
``changes``  how the mean update changed from each of these rounds to the next, at most ``window`` vectors
``last``     by sender, ``(round, update)`` of its latest message
``errors``   by sender, its latest ``window`` relative prediction errors
``flagged``  the senders that are removed
"""

Errors: TypeAlias = dict[NodeId, tuple[float, ...]]

_BLOCK = 65_536
_LARGEST = 1e37
"""Of an update's coordinates: what is taken from them, twice, is finite in float32 whatever a peer sends."""
_LEAST_INERTIA = 1e-12
"""Of scores in [0, 1]; keeps the logarithm of a perfect clustering finite."""


def hessian_vector_product(points: Sequence[Tensor], changes: Sequence[Tensor], v: Tensor) -> Tensor:
    r"""Return ``H v``, float64 ``(d,)``, for the L-BFGS approximation ``H`` of the Hessian (not its inverse).

    .. math:: H v = \sigma v - [\sigma S \; Y]
              \begin{bmatrix} \sigma S^T S & L \\ L^T & -D \end{bmatrix}^{+}
              \begin{bmatrix} \sigma S^T v \\ Y^T v \end{bmatrix}, \qquad
              \sigma = \frac{y_N^T s_N}{s_N^T s_N}

    with the steps :math:`s_\tau = w^\tau - w^{\tau-1}` as columns of ``S``, the gradient's changes over them as columns
    of ``Y``, and ``L`` the part of :math:`S^T Y` below its diagonal ``D``. :math:`H s_N = y_N` always; on a quadratic
    with Hessian ``A``, :math:`H v = A v` once the steps are ``d`` conjugate directions. The pseudo-inverse takes care
    of steps that depend on one another. Without any movement ``H`` is zero.

    Args:
        points: ``N + 1`` successive points ``(d,)``, oldest first.
        changes: The gradient's ``N`` changes from each point to the next ``(d,)``.
        v: ``(d,)``.

    References:
        Byrd, Nocedal, Schnabel, *Representations of quasi-Newton matrices and their use in limited memory methods*,
        1994. https://doi.org/10.1007/BF01582063
    """
    pairs = len(points) - 1
    gram = torch.zeros(2 * pairs + 1, 2 * pairs + 1, dtype=torch.float64, device=v.device)
    for part in _parts(v):
        rows = torch.cat([_stack(points, part).diff(dim=0), _stack(changes, part), v[part].double()[None]])
        gram += rows @ rows.T
    sizes = gram.diagonal()[:pairs]
    moved = torch.nonzero(sizes > 0)
    result = torch.zeros_like(v, dtype=torch.float64)
    if len(moved) == 0:
        return result
    newest = int(moved[-1])
    sigma = gram[newest, pairs + newest] / sizes[newest]
    # H is the same for c s and c y: with all steps of one length, none is lost beside a longer one in the inverse.
    lengths = torch.where(sizes > 0, sizes.sqrt(), 1.0)
    scale = torch.cat([lengths, lengths, lengths.new_ones(1)])
    gram /= scale[:, None] * scale
    ss, sy = gram[:pairs, :pairs], gram[:pairs, pairs:-1]
    lower = sy.tril(-1)
    middle = torch.cat([torch.cat([sigma * ss, lower], 1), torch.cat([lower.T, -sy.diagonal().diag()], 1)])
    right = torch.cat([sigma * gram[:pairs, -1], gram[pairs:-1, -1]])
    weights = torch.linalg.pinv(middle, hermitian=True, rtol=1e-12) @ right / scale[:-1]  # (2N,)
    for part in _parts(v):
        steps = _stack(points, part).diff(dim=0)  # (N, block)
        result[part] = sigma * (v[part].double() - weights[:pairs] @ steps) - weights[pairs:] @ _stack(changes, part)
    return result


def two_means(values: NDArray[np.float64]) -> tuple[NDArray[np.bool_], float]:
    """Split numbers ``(n,)`` at the cut of least squared deviation: exact 2-means in one dimension.

    Returns:
        Who is in the cluster of the larger mean ``(n,)``, nobody if all are equal; and the sum of squared deviations
        from the clusters' means.

    >>> two_means(np.array([1.0, 5.0, 1.5, 4.5]))
    (array([False,  True, False,  True]), 0.25)
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order] - values.mean()
    best, cut = float((ordered**2).sum()), len(values)
    for k in np.flatnonzero(np.diff(ordered) > 0) + 1:
        left, right = ordered[:k], ordered[k:]
        inertia = float(((left - left.mean()) ** 2).sum() + ((right - right.mean()) ** 2).sum())
        if inertia < best:
            best, cut = inertia, int(k)
    far = np.zeros(len(values), dtype=bool)
    far[order[cut:]] = True
    return far, best


def has_two_clusters(scores: NDArray[np.float64], generator: torch.Generator, references: int = 10) -> bool:
    r"""Return whether the gap statistic prefers more than one cluster.

    .. math:: \mathrm{Gap}_k = \frac{1}{B} \sum_b \log W_{kb} - \log W_k, \qquad
              \text{no: } \mathrm{Gap}_1 \ge \mathrm{Gap}_2 - s_2, \quad
              s_2 = \sqrt{1 + 1/B} \, \mathrm{sd}_b(\log W_{2b})

    The smallest ``k`` with :math:`\mathrm{Gap}_k \ge \mathrm{Gap}_{k+1} - s_{k+1}` is above 1 exactly if the first test
    fails, so no larger ``k`` is tried. ``W`` are inertias of exact 2-means (and of one cluster) of the scores, shifted
    and stretched to [0, 1], and of ``B`` uniform samples of the same size on [0, 1].

    Convention: the mean of logarithms, as Tibshirani, Walther, Hastie; FLDetector's code has the logarithm of the mean.

    Args:
        scores: ``(n,)``; fewer than three, or equal ones, are one cluster.
        generator: Draws the samples.
        references: ``B``.
    """
    spread = float(np.ptp(scores)) if len(scores) else 0.0
    if len(scores) < 3 or spread <= 1e-12 * float(np.abs(scores).max()):
        return False
    samples = torch.rand(references, len(scores), generator=generator, dtype=torch.float64).numpy()
    logs = np.log([_inertias(sample) for sample in samples])  # (B, 2)
    gaps = logs.mean(axis=0) - np.log(_inertias((scores - scores.min()) / spread))
    return bool(gaps[0] < gaps[1] - math.sqrt(1 + 1 / references) * logs[:, 1].std())


@dataclass(frozen=True, slots=True)
class DflDetector(PeerStrategy[State]):
    r"""Predict every member's update from its last one and remove those that keep surprising.

    .. math:: \hat g_j^t = g_j^\tau + H (\theta_i^t - \theta_i^\tau), \qquad
              e_j^t = \frac{\|\hat g_j^t - g_j^t\|}{\mathrm{mean}_k \|\hat g_k^t - g_k^t\|}, \qquad
              s_j = \text{mean of the last } N \text{ errors } e_j

    with :math:`g_j^t = \theta_i^t - h_j`, the receiver's own start-of-round model being everybody's base, and ``tau``
    the last round in which ``j`` was heard, usually ``t - 1``. ``H`` comes from what the node itself has seen
    (:func:`hessian_vector_product`): the steps between its models of the last ``N + 1`` rounds, and how the mean update
    changed over each of them. Where the same neighbours are averaged in both rounds, that mean is the aggregated
    update :math:`\theta_i^t - \theta_i^{t+1}`; otherwise only those heard in both count, for the coming and going of
    neighbours is no curvature. If the gap statistic finds more than one cluster of scores
    (:func:`has_two_clusters`), the cluster of the larger mean in exact 2-means is suspected, provided that its mean is
    more than ``margin`` times the other one's. The rest is averaged.

    The first score exists in round 3, from one pair; the window then fills to ``N``. Before, and for a neighbour that
    has no score yet, everybody is averaged: this rule does not protect the first rounds. The node never suspects
    itself; where its own score is in the larger cluster the result is flagged ``own-suspicious``. Needs no Byzantine
    budget. An empty inbox leaves the node where it is. History is kept by sender; one who falls silent for more than
    ``N`` rounds starts anew, but keeps its errors. State: at most ``2 (N + 1) + |G_i|`` vectors.

    Convention: FLDetector normalises errors by their sum; the mean keeps rounds with absent neighbours comparable.
    It starts at round 50 or 30 and restarts training without those it removed; here training goes on. It was made
    for one full-batch step a round; with several local steps honest updates surprise as well, and where noise drowns
    the curvature ``H`` can be arbitrarily wrong, for all alike. The margin is ours
    (1 is without): of seven scores drawn alike, the gap statistic sees two clusters one time in ten, and a test every
    round with removal for good would soon have removed honest neighbours whose scores differ by a few percent.

    Args:
        window: ``N``, pairs of models and updates, and errors, that are remembered. At least 1.
        start: First round in which somebody may be suspected. At least 3.
        sticky: Suspected neighbours stay removed; False judges anew every round.
        margin: How many times larger the suspected cluster's mean score must be. At least 1.

    Raises:
        ConfigurationError: A parameter is out of range.

    References:
        Zhang, Cao, Jia, Gong, *FLDetector: Defending Federated Learning Against Model Poisoning Attacks via Detecting
        Malicious Clients*, KDD 2022. https://arxiv.org/abs/2207.09209
        Tibshirani, Walther, Hastie, *Estimating the number of clusters in a data set via the gap statistic*, 2001.
        https://doi.org/10.1111/1467-9868.00293
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    window: int = 10
    start: int = 3
    sticky: bool = True
    margin: float = 1.5

    REFERENCES: ClassVar[str] = "dfl-detector-references"
    """Purpose of the draw of the gap statistic's uniform samples."""

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ConfigurationError(f"window must be at least 1, got {self.window}")
        if self.start < 3:
            raise ConfigurationError(f"start must be at least 3, the first round with a score, got {self.start}")
        if not self.margin >= 1:
            raise ConfigurationError(f"margin must be at least 1, got {self.margin}")

    def init(self, own: Tensor) -> State:
        """Return the empty history."""
        del own
        return {"points": (), "changes": (), "last": {}, "errors": {}, "flagged": ()}

    def aggregate(self, inbox: Inbox, state: State, ctx: RoundContext) -> Aggregate[State]:
        """Return the uniform mean of everybody who is not suspected."""
        own = inbox.own.sender
        removed = set(state["flagged"]) if self.sticky else set()
        updates = {
            u.sender: (ctx.base - u.vector).clamp(-_LARGEST, _LARGEST) for u in inbox.members if u.sender not in removed
        }
        surprise = _prediction_errors(state, updates, ctx.base)
        errors = self._remember(state["errors"], surprise)
        suspicion = {sender: sum(errors[sender]) / len(errors[sender]) for sender in updates if sender in errors}
        far = self._suspects(suspicion, ctx) if ctx.round >= self.start else set()
        removed |= far - {own}
        kept = [update for update in inbox.members if update.sender not in removed]
        vector = weighted_mean([update.vector for update in kept], [1.0] * len(kept))
        change = _mean_change(state, {sender: u for sender, u in updates.items() if sender not in removed})
        here = (ctx.round, ctx.base.clone())
        points = (*state["points"], here)[-self.window - 1 :] if change else (here,)
        rounds = {entry[0] for entry in points}
        last = state["last"] | {sender: (ctx.round, update) for sender, update in updates.items()}
        return Aggregate(
            vector=vector,
            state={
                "points": points,
                "changes": (*state["changes"], *change)[-self.window :] if change else (),
                "last": {
                    s: last[s] for s in sorted(last) if last[s][0] in rounds and (s not in removed or not self.sticky)
                },
                "errors": errors,
                "flagged": tuple(sorted(removed)) if self.sticky else (),
            },
            weights={u.sender: 0.0 if u.sender in removed else 1 / len(kept) for u in inbox.members},
            scores={"prediction-error": surprise, "suspicion": suspicion},
            flags=("own-suspicious",) if own in far else (),
        )

    def _remember(self, errors: Errors, new: dict[NodeId, float]) -> Errors:
        """Return the windows of relative errors with this round's added."""
        scale = sum(new.values()) / len(new) if new else 0.0
        relative = {sender: (error / scale if scale > 0 else 1.0,) for sender, error in new.items()}
        return {s: (*errors.get(s, ()), *relative.get(s, ()))[-self.window :] for s in sorted(errors | relative)}

    def _suspects(self, suspicion: dict[NodeId, float], ctx: RoundContext) -> set[NodeId]:
        """Return the cluster of much larger scores, own included; nobody if there is only one cluster."""
        values = np.array(list(suspicion.values()))
        if not has_two_clusters(values, ctx.generator(self.REFERENCES)):
            return set()
        far, _ = two_means(values)
        if values[far].mean() <= self.margin * values[~far].mean():
            return set()
        return {sender for sender, suspected in zip(suspicion, far, strict=True) if suspected}


def _prediction_errors(state: State, updates: dict[NodeId, Tensor], base: Tensor) -> dict[NodeId, float]:
    """Return, for everybody with a remembered update, how far this one is from its prediction."""
    points: dict[int, Tensor] = dict(state["points"])
    if len(points) < 2:
        return {}
    moves: dict[int, Tensor] = {}
    errors = {}
    for sender, update in updates.items():
        heard, previous = state["last"].get(sender, (None, None))
        if heard is None:
            continue
        if heard not in moves:
            v = base.double() - points[heard]
            moves[heard] = hessian_vector_product(list(points.values()), state["changes"], v)
        errors[sender] = float(distances_to(moves[heard], [update.double() - previous]))
    return errors


def _mean_change(state: State, updates: dict[NodeId, Tensor]) -> tuple[Tensor, ...]:
    """Return how the mean update of those changed who were heard in the last round and are now: one vector.

    None in a first round, or where nobody was heard in both: then the history begins anew.
    """
    if not state["points"]:
        return ()
    newest = state["points"][-1][0]
    heard = [sender for sender in updates if sender in state["last"] and state["last"][sender][0] == newest]
    if not heard:
        return ()
    return (weighted_mean([updates[sender] - state["last"][sender][1] for sender in heard], [1.0] * len(heard)),)


def _inertias(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the inertia of one cluster and of two."""
    one = float(((values - values.mean()) ** 2).sum())
    return max(one, _LEAST_INERTIA), max(two_means(values)[1], _LEAST_INERTIA)


def _parts(vector: Tensor) -> list[slice]:
    return [slice(start, start + _BLOCK) for start in range(0, vector.numel(), _BLOCK)]


def _stack(rows: Sequence[Tensor], part: slice) -> Tensor:
    """Return some columns of the rows in float64 ``(N, block)``."""
    return torch.stack([row[part] for row in rows]).double()
