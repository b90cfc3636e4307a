import importlib
import inspect
import sys

import networkx as nx
import pytest
import torch
from torch import nn

from flower_dfl import registry
from flower_dfl.errors import ConfigurationError, UnknownComponentError
from flower_dfl.protocols import Attack, PeerStrategy
from flower_dfl.strategies.average import Average
from flower_dfl.strategies.dfl_dual import DflDual
from flower_dfl.types import Knowledge

REGISTERED = [(kind, name) for kind in registry.COMPONENTS for name in registry.names(kind)]
INNER = {"rule": "average", "attack": "label-flip", "path": "graph.edgelist"}

MODULE = '''
from typing import Any, ClassVar, Literal

from flower_dfl.protocols import Attack, PeerStrategy
from flower_dfl.types import Aggregate, Knowledge


class Rule(PeerStrategy[None]):
    """A rule of a user's own.

    More about it.
    """

    def __init__(self, tau: float = 1.0, inner: "PeerStrategy[Any] | None" = None, untyped=None) -> None:
        self.tau, self.inner, self.untyped = tau, inner, untyped

    def aggregate(self, inbox, state, ctx):
        return Aggregate(inbox.own.vector.clone(), state, {})


class Outer(PeerStrategy[None]):
    def __init__(self, rule: PeerStrategy[Any], mode: Literal["a", "b"] = "a") -> None:
        self.rule, self.mode = rule, mode

    def aggregate(self, inbox, state, ctx):
        return self.rule.aggregate(inbox, state, ctx)


class Bare:
    def aggregate(self, inbox, state, ctx): ...

    def init(self, own): ...


class NoLevel:
    trigger = None

    def poison(self, data, ctx): ...

    def craft(self, view, receiver, ctx): ...


class Quiet(Attack):
    knowledge: ClassVar[Knowledge] = Knowledge.LOCAL


def rule_factory(share: float = 0.5):
    return Rule(tau=share)


def any_rule(**params):
    return Rule(untyped=params)


def net(num_classes, width: int = 3):
    return num_classes, width


def everything(**supplied):
    return supplied


def data():
    return "train", "test"


def positional(input_shape, num_classes, depth: int):
    return input_shape, num_classes, depth


number = 3
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "registry_test_rules.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "registry_test_rules"
    sys.modules.pop("registry_test_rules", None)


@pytest.mark.parametrize(("kind", "name"), REGISTERED)
def test_every_registered_component_can_be_described_in_a_line(kind, name):
    line = registry.describe(kind, name)

    assert line.endswith((".", ").", ":"))
    assert 10 < len(line) < 120


@pytest.mark.parametrize(("kind", "name"), REGISTERED)
def test_every_registered_component_can_be_built(kind, name):
    module_name, _, attribute = registry.COMPONENTS[kind][name].partition(":")
    signature = inspect.signature(getattr(importlib.import_module(module_name), attribute))
    required = {p.name for p in signature.parameters.values() if p.default is p.empty}

    # what has no default is supplied by the engine, another component (a rule or an attack), or a file
    component = registry.build(kind, name, {key: value for key, value in INNER.items() if key in required})

    if kind in {"strategy", "attack"}:
        assert isinstance(component, {"strategy": PeerStrategy, "attack": Attack}[kind])
    else:
        assert callable(component)


@pytest.mark.parametrize(("kind", "name"), REGISTERED)
def test_every_registered_component_refuses_an_unknown_parameter(kind, name):
    with pytest.raises(ConfigurationError, match=rf"^unknown parameter of {kind} '{name}' 'no_such'\."):
        registry.build(kind, name, {"no-such": 1})


@pytest.mark.parametrize("kind", registry.COMPONENTS)
def test_names_are_sorted_and_kebab_case(kind):
    names = registry.names(kind)

    assert names == sorted(names)
    assert all(name == name.lower() and "_" not in name for name in names)


def test_an_unknown_kind_is_refused_with_the_valid_ones():
    message = (
        r"^unknown kind of component 'strategies'\. Did you mean 'strategy'\? "
        r"Valid: attack, data, model, partition, schedule, strategy, topology$"
    )
    for ask in (registry.names, lambda kind: registry.build(kind, "x"), lambda kind: registry.describe(kind, "x")):
        with pytest.raises(UnknownComponentError, match=message):
            ask("strategies")


def test_an_unknown_name_is_refused_with_a_hint_and_the_valid_ones():
    with pytest.raises(
        UnknownComponentError,
        match=r"^unknown topology 'rings'\. Did you mean 'ring'\? Valid: .*complete, .*ring",
    ):
        registry.build("topology", "rings")


def test_parameters_may_be_kebab_or_snake_case():
    kebab = registry.build("strategy", "dfl-dual", {"trust-space": "update", "per-class": 3})
    snake = registry.build("strategy", "dfl-dual", {"trust_space": "update", "per_class": 3})

    assert kebab == snake == DflDual(trust_space="update", per_class=3)


@pytest.mark.parametrize(
    ("kind", "name", "params", "message"),
    [
        (
            "strategy",
            "dfl-dual",
            {"alpa": 1},
            r"unknown parameter of strategy 'dfl-dual' 'alpa'\. Did you mean 'alpha'\?",
        ),
        ("strategy", "oracle", {"c3": 1}, r"unknown parameter of strategy 'oracle' 'c3'\. Valid: none$"),
        ("strategy", "dfl-dual", {"c2": "big"}, r"strategy 'dfl-dual': c2 must be float, got 'big' \(str\)$"),
        (
            "strategy",
            "dfl-dual",
            {"per-class": 2.5},
            r"strategy 'dfl-dual': per-class must be int, got 2\.5 \(float\)$",
        ),
        ("strategy", "average", {"weights": "mh"}, r"weights must be 'uniform' or 'metropolis', got 'mh'"),
        ("attack", "scaling", {"gamma": "automatic"}, r"gamma must be float or 'auto', got 'automatic'"),
        ("attack", "scaling", {"gamma": True}, r"gamma must be float or 'auto', got True \(bool\)"),
        ("attack", "label-flip", {"knowledge": 2}, r"unknown parameter of attack 'label-flip' 'knowledge'"),
        ("topology", "dominated", {"share": "much"}, r"share must be float or 'auto', got 'much'"),
        ("topology", "ring", {"seed": 3}, r"unknown parameter of topology 'ring' 'seed'\. Valid: none$"),
        ("model", "fc", {"num_classes": 3}, r"unknown parameter of model 'fc' 'num_classes'\. Valid: hidden$"),
        ("model", "fc", {"hidden": "wide"}, r"model 'fc': hidden must be int, got 'wide'"),
        ("partition", "label-skew", {"labels": 3}, r"unknown parameter of partition 'label-skew' 'labels'\. Valid: p$"),
        ("data", "mnist", {"root": "/"}, r"unknown parameter of data 'mnist' 'root'"),
    ],
)
def test_unknown_and_wrong_typed_parameters_and_arguments_of_the_engine_are_refused(kind, name, params, message):
    with pytest.raises(ConfigurationError, match=message):
        registry.build(kind, name, params)


def test_an_integer_becomes_the_float_that_a_parameter_wants():
    strategy = registry.build("strategy", "dfl-dual", {"c2": 2})

    assert type(strategy.c2) is float


def test_a_parameter_out_of_range_is_refused_when_the_component_is_built():
    with pytest.raises(ConfigurationError, match="c2 must be above 1"):
        registry.build("strategy", "dfl-dual", {"c2": 1.0})


def test_a_topology_is_a_function_of_what_the_engine_supplies():
    ring = registry.build("topology", "ring")

    assert nx.is_isomorphic(ring(num_nodes=5, num_byzantine=1, seed=0), nx.cycle_graph(5))


def test_a_model_is_built_from_shape_and_number_of_labels():
    model = registry.build("model", "fc", {"hidden": 3})(input_shape=(1, 2, 2), num_classes=5)

    assert isinstance(model, nn.Module)
    assert [tuple(p.shape) for p in model.parameters()] == [(3, 4), (3,), (5, 3), (5,)]


def test_a_partition_gets_its_parameters_and_the_labels():
    deal = registry.build("partition", "label-skew", {"p": 1})

    parts = deal(labels=torch.arange(20) % 2, num_nodes=2, seed=0)

    assert sorted(map(len, parts)) == [10, 10]


def test_a_reference_names_a_class_of_the_users_own(mine):
    rule = registry.build("strategy", f"{mine}:Rule", {"tau": 2})

    assert rule.tau == 2.0
    assert type(rule.tau) is float
    assert registry.describe("strategy", f"{mine}:Rule") == "A rule of a user's own."


def test_a_component_without_documentation_is_described_by_nothing(mine):
    assert registry.describe("model", f"{mine}:net") == ""


def test_a_reference_may_name_a_function_that_returns_a_strategy(mine):
    assert registry.build("strategy", f"{mine}:rule_factory", {"share": 0.25}).tau == 0.25


def test_a_function_of_any_parameters_gets_them_in_snake_case(mine):
    assert registry.build("strategy", f"{mine}:any_rule", {"my-share": 1}).untyped == {"my_share": 1}


def test_a_parameter_without_annotation_takes_anything(mine):
    assert registry.build("strategy", f"{mine}:Rule", {"untyped": [1, "x"]}).untyped == [1, "x"]


def test_a_reference_is_checked_for_unknown_parameters_too(mine):
    with pytest.raises(
        ConfigurationError, match=r"unknown parameter of strategy '.*:Rule' 'taw'\. Did you mean 'tau'\?"
    ):
        registry.build("strategy", f"{mine}:Rule", {"taw": 1})


def test_a_strategy_by_reference_that_lacks_methods_is_refused_by_their_names(mine):
    with pytest.raises(
        ConfigurationError,
        match=r"lacks needs, digest; subclass flower_dfl\.protocols\.PeerStrategy to inherit the defaults$",
    ):
        registry.build("strategy", f"{mine}:Bare")


def test_an_attack_without_a_knowledge_level_is_refused(mine):
    with pytest.raises(ConfigurationError, match=r"lacks .*knowledge.*; subclass flower_dfl\.protocols\.Attack"):
        registry.build("attack", f"{mine}:NoLevel")


def test_an_attack_by_reference_inherits_the_defaults(mine):
    attack = registry.build("attack", f"{mine}:Quiet")

    assert attack.knowledge is Knowledge.LOCAL
    assert attack.trigger is None


def test_a_strategy_is_no_attack():
    with pytest.raises(ConfigurationError, match=r"lacks .*poison, craft; subclass"):
        registry.build("attack", "flower_dfl.strategies.average:Average")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_package.rules:Rule", "cannot be imported: No module named 'no_such_package'"),
        ("flower_dfl.strategies.average:Nothing", "cannot be imported: module .* has no attribute 'Nothing'"),
        ("flower_dfl.strategies.average:", "cannot be imported"),
        ("flower_dfl.strategies.average:__all__", "must be a class or a function, got list"),
    ],
)
def test_a_reference_that_leads_nowhere_is_an_unknown_component(reference, message):
    with pytest.raises(UnknownComponentError, match=message):
        registry.build("strategy", reference)


def test_a_model_function_gets_only_the_arguments_that_it_accepts(mine):
    build = registry.build("model", f"{mine}:net", {"width": 7})

    assert build(input_shape=(1, 2, 2), num_classes=5) == (5, 7)


def test_a_data_function_may_take_no_argument(mine):
    assert registry.build("data", f"{mine}:data")(root="/somewhere") == ("train", "test")


def test_a_function_of_any_arguments_gets_all_of_them(mine):
    everything = registry.build("model", f"{mine}:everything", {"my-width": 1})

    assert everything(input_shape=(3,), num_classes=2) == {"input_shape": (3,), "num_classes": 2, "my_width": 1}


def test_a_strategy_as_a_parameter_is_a_name_or_a_table(mine):
    by_name = registry.build("strategy", f"{mine}:Outer", {"rule": "average"})
    by_table = registry.build(
        "strategy", f"{mine}:Outer", {"rule": {"name": "average", "params": {"weights": "metropolis"}}}
    )

    assert by_name.rule == Average()
    assert by_table.rule == Average("metropolis")


def test_strategies_nest_to_any_depth(mine):
    inner = {"name": f"{mine}:Outer", "params": {"rule": "oracle", "mode": "b"}}

    outer = registry.build("strategy", f"{mine}:Outer", {"rule": inner})

    assert outer.rule.mode == "b"
    assert type(outer.rule.rule).__name__ == "Oracle"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("averag", "unknown strategy 'averag'. Did you mean 'average'?"),
        ({"name": "average", "param": {}}, "unknown key of strategy .*: rule 'param'. Did you mean 'params'?"),
        ({"params": {}}, "rule must look like {name = \"krum\", params = {}}, got {'params': {}}"),
        ({"name": "average", "params": 3}, 'rule must look like {name = "krum", params = {}}'),
        ({"name": "average", "params": {"w": 1}}, "unknown parameter of strategy 'average' 'w'"),
        (3, "rule must be PeerStrategy, got 3"),
    ],
)
def test_a_malformed_strategy_as_a_parameter_is_refused(mine, rule, message):
    with pytest.raises(ConfigurationError, match=message.replace("{", r"\{")):
        registry.build("strategy", f"{mine}:Outer", {"rule": rule})


def test_registered_names_point_to_what_their_modules_export():
    for kind, name in REGISTERED:
        module_name, _, attribute = registry.COMPONENTS[kind][name].partition(":")
        assert attribute in importlib.import_module(module_name).__all__, name
