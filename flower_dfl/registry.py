"""Components by name.

``build("strategy", "dfl-dual", {"c2": 1.5})`` returns a strategy object, likewise for attacks. A topology, schedule,
model, data set or partition is a function; building it binds the parameters and leaves the arguments that the engine
supplies.

A name with a colon is a reference, ``"my_pkg.rules:MyRule"``, so that components of a user's own need no registration.
Parameters are written in kebab-case or snake_case. Unknown names and keys are errors that list the valid ones. A
parameter that is itself a strategy or an attack is a name, or a table ``{name = "multi-krum", params = {m = 3}}``.
"""

import functools
import importlib
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, get_origin, get_type_hints

from flower_dfl.errors import ConfigurationError, UnknownComponentError
from flower_dfl.protocols import Attack, PeerStrategy
from flower_dfl.validation import check_known, check_type

__all__ = ["COMPONENTS", "build", "describe", "names"]

COMPONENTS: Mapping[str, Mapping[str, str]] = {
    "strategy": {
        "average": "flower_dfl.strategies.average:Average",
        "balance": "flower_dfl.strategies.balance:Balance",
        "bridge-b": "flower_dfl.strategies.bridge_b:BridgeB",
        "bridge-k": "flower_dfl.strategies.bridge_k:BridgeK",
        "bridge-m": "flower_dfl.strategies.bridge_m:BridgeM",
        "bridge-t": "flower_dfl.strategies.bridge_t:BridgeT",
        "bristle": "flower_dfl.strategies.bristle:Bristle",
        "bucketing": "flower_dfl.strategies.bucketing:Bucketing",
        "bulyan": "flower_dfl.strategies.bulyan:Bulyan",
        "centered-clipping": "flower_dfl.strategies.centered_clipping:CenteredClipping",
        "clip-first": "flower_dfl.strategies.clip_first:ClipFirst",
        "cs-plus": "flower_dfl.strategies.cs_plus:CsPlus",
        "dfl-detector": "flower_dfl.strategies.dfl_detector:DflDetector",
        "dfl-dual": "flower_dfl.strategies.dfl_dual:DflDual",
        "dfl-trust": "flower_dfl.strategies.dfl_trust:DflTrust",
        "geometric-median": "flower_dfl.strategies.geometric_median:GeometricMedian",
        "gts": "flower_dfl.strategies.gts:Gts",
        "ios": "flower_dfl.strategies.ios:Ios",
        "krum": "flower_dfl.strategies.krum:Krum",
        "local-only": "flower_dfl.strategies.local_only:LocalOnly",
        "loss-weighted": "flower_dfl.strategies.loss_weighted:LossWeighted",
        "median": "flower_dfl.strategies.median:Median",
        "multi-krum": "flower_dfl.strategies.multi_krum:MultiKrum",
        "nna": "flower_dfl.strategies.nna:NearestNeighbourAveraging",
        "nnm": "flower_dfl.strategies.nnm:NearestNeighbourMixing",
        "oracle": "flower_dfl.strategies.oracle:Oracle",
        "self-centered-clipping": "flower_dfl.strategies.self_centered_clipping:SelfCenteredClipping",
        "sketchguard": "flower_dfl.strategies.sketchguard:Sketchguard",
        "trimmed-mean": "flower_dfl.strategies.trimmed_mean:TrimmedMean",
        "trust-anchored": "flower_dfl.strategies.trust_anchored:TrustAnchored",
        "ubar": "flower_dfl.strategies.ubar:Ubar",
    },
    "attack": {
        "adaptive": "flower_dfl.attacks.adaptive:Adaptive",
        "alie": "flower_dfl.attacks.alie:Alie",
        "alie-backdoor": "flower_dfl.attacks.alie_backdoor:AlieBackdoor",
        "back-gradient": "flower_dfl.attacks.back_gradient:BackGradient",
        "backdoor": "flower_dfl.attacks.backdoor:Backdoor",
        "dba": "flower_dfl.attacks.dba:Dba",
        "dissensus": "flower_dfl.attacks.dissensus:Dissensus",
        "echo": "flower_dfl.attacks.echo:Echo",
        "equivocate": "flower_dfl.attacks.equivocate:Equivocate",
        "gaussian": "flower_dfl.attacks.gaussian:Gaussian",
        "ipm": "flower_dfl.attacks.ipm:InnerProductManipulation",
        "isolation": "flower_dfl.attacks.isolation:Isolation",
        "krum-attack": "flower_dfl.attacks.krum_attack:KrumAttack",
        "label-flip": "flower_dfl.attacks.label_flip:LabelFlip",
        "mimic": "flower_dfl.attacks.mimic:Mimic",
        "min-max": "flower_dfl.attacks.min_max:MinMax",
        "min-sum": "flower_dfl.attacks.min_sum:MinSum",
        "rule-in-the-loop": "flower_dfl.attacks.rule_in_the_loop:RuleInTheLoop",
        "same-value": "flower_dfl.attacks.same_value:SameValue",
        "scaling": "flower_dfl.attacks.scaling:Scaling",
        "scheduled": "flower_dfl.attacks.scheduled:Scheduled",
        "sign-flip": "flower_dfl.attacks.sign_flip:SignFlip",
        "spectral": "flower_dfl.attacks.spectral:Spectral",
        "sybil": "flower_dfl.attacks.sybil:Sybil",
        "trim-attack": "flower_dfl.attacks.trim_attack:TrimAttack",
    },
    "topology": {
        "barabasi-albert": "flower_dfl.topologies.barabasi_albert:barabasi_albert",
        "complete": "flower_dfl.topologies.complete:complete",
        "dominated": "flower_dfl.topologies.dominated:dominated",
        "erdos-renyi": "flower_dfl.topologies.erdos_renyi:erdos_renyi",
        "file": "flower_dfl.topologies.file:from_file",
        "grid": "flower_dfl.topologies.grid:grid",
        "random-regular": "flower_dfl.topologies.random_regular:random_regular",
        "ring": "flower_dfl.topologies.ring:ring",
        "star": "flower_dfl.topologies.star:star",
        "torus": "flower_dfl.topologies.torus:torus",
        "two-cliques": "flower_dfl.topologies.two_cliques:two_cliques",
        "watts-strogatz": "flower_dfl.topologies.watts_strogatz:watts_strogatz",
    },
    "schedule": {
        "edge-failures": "flower_dfl.topologies.edge_failures:edge_failures",
        "growing": "flower_dfl.topologies.growing:growing",
        "mobility": "flower_dfl.topologies.mobility:mobility",
        "one-peer-exponential": "flower_dfl.topologies.one_peer_exponential:one_peer_exponential",
        "one-peer-hypercube": "flower_dfl.topologies.one_peer_hypercube:one_peer_hypercube",
        "random-matching": "flower_dfl.topologies.random_matching:random_matching",
        "random-regular-redrawn": "flower_dfl.topologies.random_regular_redrawn:random_regular_redrawn",
        "shuffled": "flower_dfl.topologies.shuffled:shuffled",
        "static": "flower_dfl.topologies.static:static",
    },
    "model": {
        "cnn": "flower_dfl.models.cnn:cnn",
        "fc": "flower_dfl.models.fc:fc",
        "lr": "flower_dfl.models.lr:lr",
        "resnet18": "flower_dfl.models.resnet18:resnet18",
    },
    "data": {
        "ch-mnist": "flower_dfl.data.ch_mnist:ch_mnist",
        "cifar10": "flower_dfl.data.vision:cifar10",
        "fashion-mnist": "flower_dfl.data.vision:fashion_mnist",
        "fashion-mnist-mini": "flower_dfl.data.embedded:fashion_mnist_mini",
        "har": "flower_dfl.data.har:har",
        "mnist": "flower_dfl.data.vision:mnist",
    },
    "partition": {
        "by-group": "flower_dfl.data.partitions:by_group",
        "dirichlet": "flower_dfl.data.partitions:dirichlet",
        "iid": "flower_dfl.data.partitions:iid",
        "label-skew": "flower_dfl.data.partitions:label_skew",
        "pathological": "flower_dfl.data.partitions:pathological",
    },
}
"""Where each component lives, by kind and name."""

_SUPPLIED: Mapping[str, frozenset[str]] = {
    "strategy": frozenset(),
    "attack": frozenset(),
    "topology": frozenset({"num_nodes", "num_byzantine", "seed"}),
    "schedule": frozenset({"graph", "round", "seed"}),
    "model": frozenset({"input_shape", "num_classes"}),
    "data": frozenset({"root"}),
    "partition": frozenset({"labels", "num_nodes", "seed"}),
}
"""Arguments that the engine passes; they are not parameters a user may set."""

_PROTOCOLS: Mapping[str, type] = {"strategy": PeerStrategy, "attack": Attack}


def names(kind: str) -> list[str]:
    """Return the registered names of a kind, sorted."""
    check_known("kind of component", kind, list(COMPONENTS), UnknownComponentError)
    return sorted(COMPONENTS[kind])


def describe(kind: str, name: str) -> str:
    """Return the first line of a component's documentation."""
    return (inspect.getdoc(_load(kind, name)) or "").partition("\n")[0]


def build(kind: str, name: str, params: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401 - differs by kind
    """Build a component.

    Args:
        kind: ``"strategy"``, ``"attack"``, ``"topology"``, ``"schedule"``, ``"model"``, ``"data"`` or ``"partition"``.
        name: A registered name, or a reference ``"package.module:attribute"``.
        params: Its parameters.

    Returns:
        The strategy or attack object; for the other kinds a function of the arguments that the engine supplies.

    Raises:
        UnknownComponentError: There is no such name, or the reference cannot be imported.
        ConfigurationError: A parameter is unknown, of the wrong type or out of range, or a strategy or attack given by
            reference lacks a method.
    """
    factory = _load(kind, name)
    arguments = _check_params(kind, name, factory, params or {})
    if kind not in _PROTOCOLS:
        return functools.partial(_call_with_supplied, factory, arguments)
    try:
        component = factory(**arguments)
    except TypeError as error:  # an abstract class, say
        raise ConfigurationError(f"{kind} {name!r} cannot be built: {error}") from error
    if not isinstance(component, _PROTOCOLS[kind]):
        protocol = _PROTOCOLS[kind]
        missing = [
            m
            for m in ("needs", "init", "digest", "aggregate", "knowledge", "trigger", "poison", "craft")
            if hasattr(protocol, m) and not hasattr(component, m)
        ]
        raise ConfigurationError(
            f"{kind} {name!r} lacks {', '.join(missing) or 'a knowledge level'}; "
            f"subclass flower_dfl.protocols.{protocol.__name__} to inherit the defaults"
        )
    return component


def _call_with_supplied(factory: Callable[..., Any], arguments: Mapping[str, Any], **supplied: Any) -> Any:  # noqa: ANN401
    """Call a function with the user's parameters and those supplied arguments that its signature accepts."""
    parameters = inspect.signature(factory).parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        accepted = {p.name for p in parameters}
        supplied = {key: value for key, value in supplied.items() if key in accepted}
    return factory(**supplied, **arguments)


def _load(kind: str, name: str) -> Callable[..., Any]:
    check_known("kind of component", kind, list(COMPONENTS), UnknownComponentError)
    if ":" not in name:
        check_known(kind, name, names(kind), UnknownComponentError)
    module_name, _, attribute = COMPONENTS[kind].get(name, name).partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # the last two for malformed references
        raise UnknownComponentError(f"{kind} {name!r} cannot be imported: {error}") from error
    if not callable(factory):
        raise UnknownComponentError(f"{kind} {name!r} must be a class or a function, got {type(factory).__name__}")
    return factory  # type: ignore[no-any-return]  # getattr on a module


def _check_params(kind: str, name: str, factory: Callable[..., Any], params: Mapping[str, Any]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError) as error:
        raise UnknownComponentError(f"{kind} {name!r} has no readable signature: {error}") from error
    accepted = [p for p in parameters if p not in _SUPPLIED[kind]]
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return {key.replace("-", "_"): value for key, value in params.items()}
    checked = {}
    for key, value in params.items():
        snake = key.replace("-", "_")
        check_known(f"parameter of {kind} {name!r}", snake, accepted)
        checked[snake] = _check_value(f"{kind} {name!r}: {key}", value, _hint(factory, parameters[snake]))
    positional = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    missing = [
        p
        for p in accepted
        if p not in checked and parameters[p].default is inspect.Parameter.empty and parameters[p].kind in positional
    ]
    if missing:
        raise ConfigurationError(f"{kind} {name!r} needs the parameters {', '.join(missing)}, got {sorted(checked)}")
    return checked


def _check_value(name: str, value: Any, hint: Any) -> Any:  # noqa: ANN401 - settings are of any type by nature
    """Check a parameter's type; build it first where it is a strategy or attack that is given by name or table."""
    wanted = get_origin(hint) or hint
    for kind, protocol in _PROTOCOLS.items():
        if wanted is protocol and isinstance(value, str):
            return build(kind, value)
        if wanted is protocol and isinstance(value, Mapping):
            return _build_nested(kind, name, value)
    return check_type(name, value, hint)


def _build_nested(kind: str, name: str, table: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a strategy or an attack
    for key in table:
        check_known(f"key of {name}", key, ["name", "params"])
    params = table.get("params", {})
    if not isinstance(table.get("name"), str) or not isinstance(params, Mapping):
        example = {"strategy": "krum", "attack": "alie"}[kind]
        raise ConfigurationError(f'{name} must look like {{name = "{example}", params = {{}}}}, got {dict(table)!r}')
    return build(kind, table["name"], params)


def _hint(factory: Callable[..., Any], parameter: inspect.Parameter) -> Any:  # noqa: ANN401 - a type expression
    """Return a parameter's annotation; ``object``, which accepts anything, where it has none or cannot be evaluated."""
    if parameter.annotation is parameter.empty:
        return object
    holder = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    scope = getattr(factory.__init__ if inspect.isclass(factory) else factory, "__globals__", {})
    try:
        return get_type_hints(holder, globalns=scope)[parameter.name]
    except (NameError, TypeError, AttributeError, SyntaxError):
        return object
