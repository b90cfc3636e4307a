import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.config import (
    ComponentConfig,
    DataConfig,
    EvalConfig,
    RunConfig,
    TrainConfig,
    config_keys,
    flatten,
    load_toml,
    nest,
    parse,
    parse_assignment,
)
from flower_dfl.errors import ConfigurationError

numbers = st.integers(-(10**9), 10**9) | st.floats(allow_nan=False)
texts = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]))
values = st.recursive(
    numbers | st.booleans() | texts,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z][a-z-]{0,5}", fullmatch=True), inner)
    ),
    max_leaves=6,
)
params = st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,8}", fullmatch=True), values, max_size=4)
components = st.builds(ComponentConfig, texts, params)
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
counts = st.integers(1, 10**6)
configs = st.builds(
    RunConfig,
    seed=st.integers(),
    num_nodes=st.integers(10, 1000),
    num_rounds=counts,
    num_byzantine=st.integers(0, 9),
    topology=components,
    strategy=components,
    attack=components,
    model=components,
    data=st.builds(
        DataConfig,
        name=texts,
        root=texts,
        partition=texts.filter(lambda name: name != "label-skew"),
        params=params.filter(lambda given: given != {"p": 0.8}),
        num_train=st.integers(0, 10**6),
        num_test=st.integers(0, 10**6),
    ),
    train=st.builds(
        TrainConfig,
        lr=positive,
        epochs=counts,
        batch_size=counts,
        momentum=st.floats(0, 1, exclude_max=True),
        sampling=st.sampled_from(["shuffle", "class-balanced"]),
        device=st.sampled_from(["auto", "cpu", "cuda", "cuda:7", "mps"]),
    ),
    eval=st.builds(EvalConfig, every=counts),
    results_dir=texts,
    transport=st.sampled_from(["mailbox", "relay"]),
    budget_policy=st.sampled_from(["error", "largest"]),
    node_timeout=positive,
)


def refusal(table):
    with pytest.raises(ConfigurationError) as caught:
        parse(table)
    return str(caught.value)


def test_an_empty_table_is_the_default_configuration():
    assert parse({}) == RunConfig()


def test_the_defaults_are_those_of_the_contract():
    assert flatten(RunConfig()) == {
        "seed": 0,
        "num-nodes": 10,
        "num-rounds": 15,
        "num-byzantine": 6,
        "topology.name": "dominated",
        "topology.params": "",
        "schedule.name": "static",
        "schedule.params": "",
        "strategy.name": "dfl-dual",
        "strategy.params": "",
        "attack.name": "scaling",
        "attack.params": "",
        "placement.name": "highest-labels",
        "placement.params": "",
        "model.name": "fc",
        "model.params": "",
        "data.name": "fashion-mnist-mini",
        "data.root": "",
        "data.partition": "label-skew",
        "data.params": "p = 0.8",
        "data.num-train": 0,
        "data.num-test": 0,
        "train.lr": 0.05,
        "train.epochs": 1,
        "train.batch-size": 32,
        "train.momentum": 0.0,
        "train.sampling": "shuffle",
        "train.device": "auto",
        "eval.every": 1,
        "eval.nodes": 0,
        "eval.samples": 0,
        "network.drop-rate": 0.0,
        "network.late-rate": 0.0,
        "network.staleness": 0,
        "network.churn": 0.0,
        "network.absence": 3,
        "network.split-start": 0,
        "network.split-stop": 0,
        "network.split-parts": 2,
        "network.window": 0,
        "checkpoint.every": 10,
        "results-dir": "",
        "transport": "mailbox",
        "budget-policy": "largest",
        "on-node-failure": "stop",
        "node-timeout": 600.0,
        "record-digests": False,
    }


def test_the_keys_are_those_of_the_flat_table():
    assert config_keys() == list(flatten(RunConfig()))


@given(configs)
def test_every_configuration_survives_the_round_trip_through_flowers_flat_table(config):
    assert parse(flatten(config)) == config


@pytest.mark.parametrize(
    "table",
    [
        {"train.lr": 0.1, "train.epochs": 2, "strategy.params": "c2 = 2.0", "seed": 3},
        {"train": {"lr": 0.1, "epochs": 2}, "strategy": {"params": {"c2": 2.0}}, "seed": 3},
        {"train.lr": 0.1, "train": {"epochs": 2}, "strategy.params": {"c2": 2.0}, "seed": 3},
        {"train": {"lr": 0.1}, "train.epochs": 2, "strategy": {"params": "c2 = 2.0"}, "seed": 3},
        {"train": {"lr": 0.1}, "train.epochs": 2, "strategy.params.c2": 2.0, "seed": 3},
    ],
)
def test_nested_dotted_and_mixed_tables_mean_the_same(table):
    expected = RunConfig(seed=3, train=TrainConfig(lr=0.1, epochs=2), strategy=ComponentConfig("dfl-dual", {"c2": 2.0}))

    assert parse(table) == expected


def test_parsing_leaves_the_table_alone():
    table = {"train.lr": 0.1, "train": {"epochs": 2}, "strategy": {"params": {"c2": 2.0}}}

    parse(table)

    assert table == {"train.lr": 0.1, "train": {"epochs": 2}, "strategy": {"params": {"c2": 2.0}}}


def test_inline_parameters_may_hold_every_kind_of_value():
    text = (
        "a = 1, b = -0.5, c = inf, d = true, e = 'x, y', f = [1, 2], g = {name = 'krum', params = {m = 3}}, h-i = 1e-5"
    )

    parsed = parse({"strategy.params": text}).strategy.params

    assert parsed == {
        "a": 1,
        "b": -0.5,
        "c": math.inf,
        "d": True,
        "e": "x, y",
        "f": [1, 2],
        "g": {"name": "krum", "params": {"m": 3}},
        "h-i": 1e-5,
    }


def test_infinite_parameters_are_written_as_toml_spells_them():
    config = RunConfig(strategy=ComponentConfig("x", {"c1": math.inf, "low": -math.inf, "t": True, "n": {"k": [1.0]}}))

    assert flatten(config)["strategy.params"] == "c1 = inf, low = -inf, t = true, n = {k = [1.0]}"


@pytest.mark.parametrize("text", ["p", "p = ", "p = 0.8,, q = 1", "p = 1} q = {", "p = 1\nq = 2", "p = 1, p = 2"])
def test_malformed_inline_parameters_are_refused_with_an_example(text):
    assert refusal({"data.params": text}).startswith("data.params must look like \"a = 1, b = 'text'\", got ")


@pytest.mark.parametrize("value", [3, [1], True, 0.5])
def test_parameters_of_another_type_are_refused(value):
    message = refusal({"data": {"params": value}})

    assert message == f"data.params must be a table or an inline table as text, got {value!r}"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"sed": 1}, "unknown configuration key 'sed'. Did you mean 'seed'? Valid: "),
        ({"train": {"learning-rate": 1}}, "unknown configuration key 'train.learning-rate'."),
        ({"train.batchsize": 1}, "unknown configuration key 'train.batchsize'. Did you mean 'train.batch-size'?"),
        ({"train.batch_size": 1}, "unknown configuration key 'train.batch_size'. Did you mean 'train.batch-size'?"),
        ({"strategy.param": ""}, "unknown configuration key 'strategy.param'. Did you mean 'strategy.params'?"),
        ({"network": {"latency": 0.1}}, "unknown configuration key 'network.latency'."),
        ({"": 1}, "unknown configuration key ''."),
        ({"seed.x": 1}, "seed must be int, got {'x': 1} (dict)"),
    ],
)
def test_unknown_keys_are_refused_by_their_full_name(table, message):
    assert refusal(table).startswith(message)


def test_the_refusal_of_an_unknown_key_lists_all_valid_ones():
    message = refusal({"sed": 1})

    assert all(key in message for key in config_keys())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", 0.5, "seed must be int, got 0.5 (float)"),
        ("seed", True, "seed must be int, got True (bool)"),
        ("num-nodes", "10", "num-nodes must be int, got '10' (str)"),
        ("strategy.name", 3, "strategy.name must be str, got 3 (int)"),
        ("train.lr", "0.1", "train.lr must be float, got '0.1' (str)"),
        ("train.sampling", "random", "train.sampling must be 'shuffle' or 'class-balanced', got 'random' (str)"),
        ("transport", "ray", "transport must be 'mailbox' or 'relay', got 'ray' (str)"),
        ("budget-policy", "clamp", "budget-policy must be 'error' or 'largest', got 'clamp' (str)"),
        ("results-dir", 3, "results-dir must be str, got 3 (int)"),
    ],
)
def test_values_of_the_wrong_type_are_refused(key, value, message):
    assert refusal({key: value}) == message


def test_an_integer_is_a_valid_learning_rate():
    lr = parse({"train.lr": 1}).train.lr

    assert type(lr) is float
    assert lr == 1.0


@pytest.mark.parametrize("key", ["strategy", "train", "data", "eval"])
def test_a_table_cannot_be_set_to_a_value(key):
    assert refusal({key: "krum"}) == f"{key} is a table, got 'krum'; set for example {key}.name"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num-nodes", 0, "num-nodes must be at least 1, got 0"),
        ("num-rounds", 0, "num-rounds must be at least 1, got 0"),
        ("num-byzantine", -1, "num-byzantine must be at least 0, got -1"),
        ("data.num-train", -1, "data.num-train must be at least 0, got -1"),
        ("data.num-test", -2, "data.num-test must be at least 0, got -2"),
        ("train.epochs", 0, "train.epochs must be at least 1, got 0"),
        ("train.batch-size", 0, "train.batch-size must be at least 1, got 0"),
        ("eval.every", 0, "eval.every must be at least 1, got 0"),
        ("train.lr", 0.0, "train.lr must be positive and finite, got 0.0"),
        ("train.lr", math.inf, "train.lr must be positive and finite, got inf"),
        ("train.lr", math.nan, "train.lr must be positive and finite, got nan"),
        ("train.momentum", 1.0, "train.momentum must be in [0, 1), got 1.0"),
        ("train.momentum", -0.1, "train.momentum must be in [0, 1), got -0.1"),
        ("train.momentum", math.nan, "train.momentum must be in [0, 1), got nan"),
        ("train.device", "meta", "train.device must be 'auto', 'cpu', 'cuda', 'cuda:0' or the like, got 'meta'"),
        (
            "train.device",
            "first GPU",
            "train.device must be 'auto', 'cpu', 'cuda', 'cuda:0' or the like, got 'first GPU'",
        ),
        ("node-timeout", 0, "node-timeout must be positive and finite, got 0.0"),
        ("node-timeout", math.inf, "node-timeout must be positive and finite, got inf"),
        ("num-byzantine", 10, "at least one node must be honest: num-byzantine = 10, num-nodes = 10"),
        ("num-nodes", 6, "at least one node must be honest: num-byzantine = 6, num-nodes = 6"),
    ],
)
def test_values_out_of_range_and_impossible_combinations_are_refused(key, value, message):
    assert refusal({key: value}) == message


def test_the_smallest_network_is_one_honest_node():
    config = parse({"num-nodes": 1, "num-byzantine": 0})

    assert config.num_nodes == 1


def test_another_partition_drops_the_parameters_that_belong_to_the_default_one():
    flat = flatten(RunConfig()) | {"data.partition": "iid"}

    assert parse(flat).data == DataConfig(partition="iid", params={})


def test_another_partition_keeps_parameters_of_its_own():
    assert parse({"data.partition": "dirichlet", "data.params": "alpha = 0.5"}).data.params == {"alpha": 0.5}


def test_a_partition_of_ones_own_keeps_parameters_that_are_the_default_ones_by_chance():
    own = parse({"data.partition": "my_pkg.parts:deal", "data.params": {"p": 0.8}})

    assert own.data.params == {"p": 0.8}
    assert parse(flatten(own)) == own
    assert parse({"data.partition": "my_pkg.parts:deal"}).data.params == {}


def test_the_default_partition_keeps_its_parameters():
    assert parse({"data.num-train": 100}).data.params == {"p": 0.8}


@given(every=st.integers(1, 30), num_rounds=st.integers(1, 100))
def test_evaluation_is_due_every_so_many_rounds_and_after_the_last(every, num_rounds):
    config = RunConfig(num_rounds=num_rounds, eval=EvalConfig(every))

    due = {number for number in range(1, num_rounds + 1) if config.is_due(number)}

    assert due == set(range(every, num_rounds + 1, every)) | {num_rounds}


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("seed=3", ("seed", 3)),
        (" train.lr = 0.1 ", ("train.lr", 0.1)),
        ("model.name=cnn", ("model.name", "cnn")),
        ('model.name="cnn"', ("model.name", "cnn")),
        ("strategy.params=c2 = 2, q = 'sum'", ("strategy.params", "c2 = 2, q = 'sum'")),
        ("strategy.params={c2 = 2}", ("strategy.params", {"c2": 2})),
        ("data.root=", ("data.root", "")),
        ("model.name=my_pkg.task:Net", ("model.name", "my_pkg.task:Net")),
        ("x=true", ("x", True)),
        ("x=inf", ("x", math.inf)),
    ],
)
def test_an_assignment_is_toml_or_text(text, parsed):
    assert parse_assignment(text) == parsed


def test_an_assignment_without_an_equals_sign_is_refused():
    with pytest.raises(ConfigurationError, match=r"^expected key=value, got 'seed'$"):
        parse_assignment("seed")


def test_dotted_keys_become_nested_tables():
    assert nest({"a.b.c": 1, "a.b": {"d": 2}, "e": 3}) == {"a": {"b": {"c": 1, "d": 2}}, "e": 3}


def test_dots_inside_tables_are_resolved_too():
    assert nest({"a": {"b.c": 1}}) == {"a": {"b": {"c": 1}}}


def test_tables_that_are_given_in_parts_are_put_together():
    table = {"strategy.params.rule.name": "krum", "strategy": {"params": {"rule": {"params": {"m": 2}}}}}

    assert nest(table) == {"strategy": {"params": {"rule": {"name": "krum", "params": {"m": 2}}}}}


def test_a_key_cannot_be_a_value_and_a_table():
    with pytest.raises(ConfigurationError, match=r"^'train.lr': 'train' is set both as a value and as a table$"):
        nest({"train": 1, "train.lr": 0.1})


def test_a_toml_file_is_read(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('seed = 3\n[strategy]\nname = "average"\n[train]\nlr = 0.1\n', encoding="utf-8")

    assert load_toml(path) == {"seed": 3, "strategy": {"name": "average"}, "train": {"lr": 0.1}}


def test_a_missing_file_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigurationError, match=r"^cannot read .*nowhere\.toml: No such file or directory$"):
        load_toml(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("content", [b"seed = ", b"\xff\xfe", b"[a]\n[a]\n"])
def test_a_file_that_is_not_toml_is_a_configuration_error(tmp_path, content):
    path = tmp_path / "bad.toml"
    path.write_bytes(content)

    with pytest.raises(ConfigurationError, match=r"bad\.toml is not valid TOML: "):
        load_toml(path)


def test_a_configuration_cannot_be_changed():
    with pytest.raises(AttributeError):
        RunConfig().seed = 1

    assert replace(RunConfig(), seed=1).seed == 1


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"network.drop-rate": 1.5}, "network.drop-rate must be in [0, 1], got 1.5"),
        ({"network.late-rate": -0.1}, "network.late-rate must be in [0, 1], got -0.1"),
        ({"network.churn": float("nan")}, "network.churn must be in [0, 1], got nan"),
        ({"network.staleness": 2}, "network.staleness must be 0 or 1, got 2"),
        ({"network.absence": 0}, "network.absence must be at least 1, got 0"),
        ({"network.split-parts": 1}, "network.split-parts must be at least 2, got 1"),
        (
            {"network.split-start": 5, "network.split-stop": 4},
            "network.split-start must be in 0..split-stop, got 5 and 4",
        ),
        ({"network.split-stop": 4}, "rounds start at 1: network.split-start = 0, split-stop = 4"),
        ({"network.window": -1}, "network.window must be at least 0, got -1"),
        ({"checkpoint.every": -1}, "checkpoint.every must be at least 0, got -1"),
        ({"eval.nodes": -1}, "eval.nodes must be at least 0, got -1"),
        ({"eval.samples": -1}, "eval.samples must be at least 0, got -1"),
        ({"on-node-failure": "ignore"}, "on-node-failure must be 'stop' or 'skip' or 'restart', got 'ignore' (str)"),
    ],
)
def test_troubles_that_cannot_be_are_refused(table, message):
    assert refusal(table) == message
