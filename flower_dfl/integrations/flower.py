"""Any peer rule of this package as a Flower strategy, for a usual ServerApp with a server in the middle."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias, Unpack

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from torch import Tensor

from flower_dfl import registry
from flower_dfl.errors import ByzantineBudgetError, ConfigurationError
from flower_dfl.integrations.screening import SERVER, FedAvgOptions, Layout, ScreenedFedAvg, TrainRoot
from flower_dfl.protocols import PeerStrategy
from flower_dfl.strategies.average import Average
from flower_dfl.strategies.bulyan import Bulyan
from flower_dfl.strategies.centered_clipping import CenteredClipping
from flower_dfl.strategies.clip_first import ClipFirst
from flower_dfl.strategies.dfl_detector import DflDetector
from flower_dfl.strategies.dfl_dual import DflDual
from flower_dfl.strategies.dfl_trust import DflTrust
from flower_dfl.strategies.geometric_median import GeometricMedian
from flower_dfl.strategies.kernels import distances_to
from flower_dfl.strategies.krum import Krum
from flower_dfl.strategies.median import Median
from flower_dfl.strategies.multi_krum import MultiKrum
from flower_dfl.strategies.nnm import NearestNeighbourMixing
from flower_dfl.strategies.trimmed_mean import TrimmedMean
from flower_dfl.types import Aggregate, Inbox, Need, RoundContext, Update

__all__ = ["Anchor", "PeerRuleStrategy", "as_flower_strategy"]

Anchor: TypeAlias = Literal["auto", "none", "global"]
"""Who plays the part of the node itself: see :func:`as_flower_strategy`."""

_logger = logging.getLogger(__name__)

_MEMBERS_ALIKE = (Average, Bulyan, GeometricMedian, Krum, Median, MultiKrum, TrimmedMean)
"""Rules that treat all members of the closed neighbourhood alike."""

_COMPARE_UPDATES = (ClipFirst, DflDetector, DflDual, DflTrust)
"""Rules that hold everybody's update against the node's own, which must not be zero."""

_SUPPLIED = frozenset({Need.SENDER_BASE})


def as_flower_strategy(
    rule: PeerStrategy[Any] | str,
    *,
    params: Mapping[str, Any] | None = None,
    budget: int = 0,
    anchor: Anchor = "auto",
    train_root: TrainRoot | None = None,
    weighted_by_examples: bool = False,
    seed: int = 0,
    **fedavg_options: Unpack[FedAvgOptions],
) -> "PeerRuleStrategy":
    r"""Return a Flower strategy that aggregates the clients' replies with a peer rule.

    The replies are the neighbourhood. A server has no half-step of its own, so who plays the node itself is a choice,
    ``anchor``:

    * ``none``: nobody. The result is the rule on the replies alone,

      .. math:: w^{t+1} = \mathrm{rule}(\{h_1, \dots, h_n\})

      The reply nearest to the global model stands in the place of the node itself, which a rule that treats all
      members alike cannot tell (but for the ties that it gives to the node).
    * ``global``: the global model :math:`w^t`, as one more member. For rules that start from the own model: clipping,
      BALANCE, CS+ and their like then move the global model towards those replies that they accept.
    * ``auto``, the default: ``none`` for the average, Krum, Multi-Krum, Bulyan, the median, the trimmed mean, the
      geometric median, centred clipping from the base and nearest-neighbour mixing before any of these; ``global`` for
      every other rule, also for one of your own. Set ``none`` for your own if it treats all members alike.

    With ``train_root`` the server does have a half-step: what this function trains from the global model on clean data
    of the server's own. It then plays the node itself in any rule. Rules that hold others' updates against the own one
    (DFLTrust, DFLDetector, DFL-Dual, clip-first) need it; :class:`~flower_dfl.integrations.FLTrust` and
    :class:`~flower_dfl.integrations.FLDetector` are the servers' versions of the first two.

    Replies are screened as in :class:`~flower_dfl.integrations.screening.ScreenedFedAvg`: what is malformed, missing
    or not finite is dropped and counted, and never raises. A malformed reply is taken for one of the ``budget``, which
    is lowered by it for the round. If the rest is still too small for the rule, the global model stays for this round
    (metric ``flower-dfl-skipped``); if nothing was dropped, the configuration is wrong and the rule's error is raised.
    Rule state is kept in the strategy between rounds. Metrics of a round: the clients' own, ``flower-dfl-rejected``,
    ``flower-dfl-kept`` (replies that counted), and ``flower-dfl-skipped`` (0 or 1).

    The vector is the server's float32 arrays by sorted key, running statistics of normalisation layers included;
    integer arrays keep the server's values.

    Args:
        rule: The rule: an object, a registered name, or a reference ``"package.module:Class"``.
        params: Its parameters, if it is given by name or reference.
        budget: Number of Byzantine clients that the rule should withstand, ``f``. Not negative.
        anchor: Who plays the node itself.
        train_root: Trains the server's own half-step; goes with ``anchor = "auto"`` only.
        weighted_by_examples: Make the mixing weights proportional to the numbers of examples that the clients claim
            (``weighted_by_key``). Off by default: claims are untrusted. Only rules with mixing weights see them:
            ``Average(weights="metropolis")`` is then Flower's FedAvg. An own model keeps the weight 1/(n + 1).
        seed: Seed of the rule's draws.
        fedavg_options: Sampling and record keys, as for :class:`flwr.serverapp.strategy.FedAvg`.

    Returns:
        A strategy for ``strategy.start(grid, initial_arrays, ...)``.

    Raises:
        ConfigurationError: A parameter is out of range; the rule needs what a server cannot have (data, a learner,
            who is honest) or a ``train_root`` that is not given.
        UnknownComponentError: There is no such rule.

    Example:
        ``as_flower_strategy("krum", budget=1, fraction_evaluate=0.0).start(grid, arrays, num_rounds=10)``
    """
    built = registry.build("strategy", rule, params) if isinstance(rule, str) else rule
    if params and not isinstance(rule, str):
        raise ConfigurationError("params go with a rule given by name; an object has its own")
    if budget < 0:
        raise ConfigurationError(f"budget must not be negative, got {budget}")
    if anchor not in ("auto", "none", "global") or (train_root is not None and anchor != "auto"):
        raise ConfigurationError(
            f"anchor must be 'auto', 'none' or 'global', and 'auto' with train_root; got {anchor!r}"
        )
    missing = ", ".join(sorted(need.name for need in built.needs - _SUPPLIED))
    if missing:
        raise ConfigurationError(f"{type(built).__name__} needs {missing}, which a server does not have")
    comparing = [type(layer).__name__ for layer in _layers(built) if isinstance(layer, _COMPARE_UPDATES)]
    if comparing and train_root is None:
        raise ConfigurationError(f"{comparing[0]} compares with an update of the server's own: give train_root")
    alone = train_root is None and (anchor == "none" or (anchor == "auto" and _treats_members_alike(built)))
    return PeerRuleStrategy(
        built,
        budget=budget,
        alone=alone,
        train_root=train_root,
        seed=seed,
        weighted_by_examples=weighted_by_examples,
        **fedavg_options,
    )


def _layers(rule: PeerStrategy[Any]) -> Iterator[PeerStrategy[Any]]:
    """Yield a rule, the one that it is wrapped around, and so on."""
    yield rule
    inner = getattr(rule, "rule", None)
    if isinstance(inner, PeerStrategy):
        yield from _layers(inner)


def _treats_members_alike(rule: PeerStrategy[Any]) -> bool:
    if isinstance(rule, NearestNeighbourMixing):
        return _treats_members_alike(rule.rule)
    return isinstance(rule, _MEMBERS_ALIKE) or (isinstance(rule, CenteredClipping) and rule.start == "base")


class PeerRuleStrategy(ScreenedFedAvg):
    """FedAvg's sampling around a peer rule; made by :func:`as_flower_strategy`."""

    def __init__(
        self,
        rule: PeerStrategy[Any],
        *,
        budget: int,
        alone: bool,
        train_root: TrainRoot | None,
        seed: int,
        weighted_by_examples: bool,
        **options: Unpack[FedAvgOptions],
    ) -> None:
        super().__init__(weighted_by_examples=weighted_by_examples, **options)
        self.rule = rule
        self.budget = budget
        self.seed = seed
        self.state: Any = None
        """What the rule remembers."""
        self._alone = alone
        self._train_root = train_root
        self._num_rounds = 1
        self._started = False

    def start(  # noqa: PLR0917 - Flower's signature
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run as every Flower strategy; rules whose bounds shrink with time are told how many rounds there are."""
        self._num_rounds, self._started = num_rounds, False
        return super().start(grid, initial_arrays, num_rounds, timeout, train_config, evaluate_config, evaluate_fn)

    def combine(
        self, server_round: int, updates: tuple[Update, ...], layout: Layout, malformed: int, lost: int
    ) -> tuple[Tensor | None, Mapping[str, float]]:
        """Apply the rule to the replies."""
        base = None if self.global_arrays is None else layout.own_vector(self.global_arrays)
        own, received = self._cast(server_round, updates, layout, base)
        base = own.vector if base is None else base
        context = RoundContext(
            node=SERVER,
            round=server_round,
            num_rounds=max(self._num_rounds, server_round),
            base=base,
            budget=max(0, self.budget - malformed),
            lr=math.nan,  # only rules that invert updates ask, and these need a learner
            num_steps=math.nan,
            seed=self.seed,
        )
        if not self._started:
            self.state, self._started = self.rule.init(own.vector), True
        try:
            result = self.rule.aggregate(self._inbox(own, received, base, context), self.state, context)
        except ByzantineBudgetError as error:
            if not malformed and not lost:
                raise
            _logger.warning("round %d: the global model stays: %s", server_round, error)
            return None, {"flower-dfl-kept": 0, "flower-dfl-skipped": 1}
        self.state = result.state
        return result.vector, {"flower-dfl-kept": _kept(result, updates), "flower-dfl-skipped": 0}

    def _cast(
        self, server_round: int, updates: tuple[Update, ...], layout: Layout, base: Tensor | None
    ) -> tuple[Update, tuple[Update, ...]]:
        """Return who plays the node itself, and its neighbours."""
        if self._alone:
            origin = torch.zeros_like(updates[0].vector) if base is None else base
            # The nearest, because distances are measured from here, and a far row would blur the others.
            nearest = int(distances_to(origin, [update.vector for update in updates]).argmin())
            return updates[nearest], (*updates[:nearest], *updates[nearest + 1 :])
        if self.global_arrays is None or base is None:
            raise ConfigurationError("this rule starts from the global model: call start or configure_train first")
        if self._train_root is not None:
            base = layout.own_vector(self._train_root(self.global_arrays, server_round))
        return Update(SERVER, server_round, base), updates

    def _inbox(self, own: Update, received: tuple[Update, ...], base: Tensor, context: RoundContext) -> Inbox:
        """Return the inbox: every client trained from the global model, so that is everybody's base."""
        own, *others = (self._completed(update, base, context) for update in (own, *received))
        claims = torch.tensor([float(update.num_examples) for update in received], dtype=torch.float64)
        total = float(claims.sum())
        if own.sender == SERVER:
            total *= (len(received) + 1) / max(len(received), 1)
        else:
            total += own.num_examples
        return Inbox(own, tuple(others), claims / total)

    def _completed(self, update: Update, base: Tensor, context: RoundContext) -> Update:
        if Need.SENDER_BASE in self.rule.needs:
            update = replace(update, base=base)
        return replace(update, digest=self.rule.digest(update, context.for_digest()))


def _kept(result: Aggregate[Any], updates: tuple[Update, ...]) -> int:
    return sum(result.weights.get(update.sender, 0.0) > 0 for update in updates)
