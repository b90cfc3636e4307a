import pytest

from flower_dfl.errors import ConfigurationError
from flower_dfl.sweeps.cells import differing_keys
from flower_dfl.sweeps.definition import load_sweep
from tests.docs.markdown import blocks
from tests.sweeps.conftest import CHECKOUT, planned, write_sweep


def names(sweep):
    return [cell.name for cell in sweep.cells]


def by_name(sweep):
    return {cell.name: cell.settings for cell in sweep.cells}


def test_a_matrix_is_every_combination_in_the_order_of_the_file(tmp_path):
    sweep = planned(tmp_path, '[matrix]\n"strategy.name" = ["average", "krum"]\nseed = [0, 1]\ntrain.lr = [0.1]\n')

    assert names(sweep) == [
        "average-seed0-lr0.1", "average-seed1-lr0.1", "krum-seed0-lr0.1", "krum-seed1-lr0.1",
    ]  # fmt: skip
    assert sweep.cells[3].settings["strategy.name"] == "krum"
    assert sweep.cells[3].settings["seed"] == 1
    assert sweep.cells[3].settings["num-nodes"] == 3
    assert "results-dir" not in sweep.cells[3].settings


def test_a_choice_may_set_several_keys_below_its_axis(tmp_path):
    cells = by_name(planned(tmp_path, """
        [matrix]
        strategy = [{ name = "average" }, { name = "multi-krum", params = { m = 2 } }]
        attack = [{ label = "strong", name = "alie", params = { z = 4 } }, { name = "none" }]
    """))  # fmt: skip

    assert list(cells) == ["average-strong", "average-none", "multi-krum-m2-strong", "multi-krum-m2-none"]
    assert cells["multi-krum-m2-strong"]["strategy.params"] == "m = 2"
    assert cells["multi-krum-m2-strong"]["attack.params"] == "z = 4"
    assert cells["average-none"]["strategy.params"] == ""


def test_an_axis_that_is_named_after_no_key_may_set_any(tmp_path):
    cells = by_name(planned(tmp_path, """
        [[matrix.size]]
        label = "small"
        num-nodes = 4
        train = { lr = 0.2 }
        [[matrix.size]]
        label = "large"
        "num-nodes" = 8
        data.partition = "iid"
    """))  # fmt: skip

    assert (cells["small"]["num-nodes"], cells["small"]["train.lr"]) == (4, 0.2)
    assert (cells["large"]["num-nodes"], cells["large"]["data.partition"], cells["large"]["data.params"]) == (
        8,
        "iid",
        "",
    )


def test_one_parameter_can_be_an_axis_and_the_others_stay(tmp_path):
    cells = planned(tmp_path, """
        strategy.name = "dfl-dual"
        strategy.params = { c2 = 2.0, q = "sum" }
        [matrix]
        "strategy.params.c2" = [1.5, 3.0]
    """, base="[base]\n").cells  # fmt: skip

    assert [cell.settings["strategy.params"] for cell in cells] == ['c2 = 1.5, q = "sum"', 'c2 = 3.0, q = "sum"']


def test_parameters_of_the_base_do_not_reach_another_component(tmp_path):
    base = "[base]\nstrategy = { name = 'multi-krum', params = { m = 2 } }\ndata.params = { p = 0.5 }\n"
    cells = by_name(planned(tmp_path, """
        [matrix]
        "strategy.name" = ["multi-krum", "average"]
        "data.partition" = ["label-skew", "iid"]
    """, base))  # fmt: skip

    assert cells["multi-krum-label-skew"]["strategy.params"] == "m = 2"
    assert cells["average-label-skew"]["strategy.params"] == ""
    assert cells["average-label-skew"]["data.params"] == "p = 0.5"
    assert cells["average-iid"]["data.params"] == ""


def test_an_exclusion_leaves_out_what_has_all_of_its_values(tmp_path):
    sweep = planned(tmp_path, """
        [matrix]
        "strategy.name" = ["average", "krum"]
        num-nodes = [4, 6]
        train.lr = [1, 2]
        [[exclude]]
        strategy.name = "krum"
        num-nodes = 4
        [[exclude]]
        num-nodes = 6
        train.lr = 2.0
    """)  # fmt: skip

    assert names(sweep) == ["average-num-nodes4-lr1", "average-num-nodes4-lr2", "average-num-nodes6-lr1",
                            "krum-num-nodes6-lr1"]  # fmt: skip


def test_an_exclusion_concerns_cells_with_further_parameters_too(tmp_path):
    sweep = planned(tmp_path, """
        [matrix]
        strategy = [
          { label = "a", name = "dfl-dual", params = { c2 = 2.0 } },
          { label = "b", name = "dfl-dual", params = "c1 = 3.0, c2 = 2.0" },
          { label = "c", name = "dfl-dual" },
        ]
        [[exclude]]
        strategy.name = "dfl-dual"
        strategy.params.c2 = 2.0
    """)  # fmt: skip

    assert names(sweep) == ["c"]


def test_parameters_given_as_text_are_merged_like_tables(tmp_path):
    sweep = planned(tmp_path, """
        [base]
        strategy.name = "dfl-dual"
        strategy.params = "c1 = 3.0"
        [matrix]
        "strategy.params.c2" = [1.5, 2.0]
    """, base="")  # fmt: skip

    assert [cell.settings["strategy.params"] for cell in sweep.cells] == ["c1 = 3.0, c2 = 1.5", "c1 = 3.0, c2 = 2.0"]


@pytest.mark.parametrize(("given", "absolute"), [("data", "here/data"), ("~/data", "home/data")])
def test_a_path_is_planned_as_a_run_records_it(tmp_path, monkeypatch, given, absolute):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    sweep = planned(tmp_path, f"""
        [base]
        data.root = "{given}"
        [matrix]
        seed = [0, 1]
        [[exclude]]
        data.root = "{given}"
        seed = 1
    """, base="")  # fmt: skip

    assert [cell.settings["data.root"] for cell in sweep.cells] == [str(tmp_path / absolute)]


def test_named_cells_come_after_the_matrix_and_are_not_excluded(tmp_path):
    sweep = planned(tmp_path, """
        [matrix]
        seed = [0, 1]
        [[cell]]
        name = "long"
        num-rounds = 50
        seed = 1
        [[exclude]]
        seed = 1
    """)  # fmt: skip

    assert names(sweep) == ["seed0", "long"]
    assert by_name(sweep)["long"]["num-rounds"] == 50


def test_cells_without_a_matrix_are_all_there_is(tmp_path):
    assert names(planned(tmp_path, '[[cell]]\nname = "only"\n')) == ["only"]


def test_a_folder_name_is_readable_and_changes_with_any_setting(tmp_path):
    first = planned(tmp_path, '[[cell]]\nname = "a b/../c"\n').cells[0]
    other = planned(tmp_path, '[[cell]]\nname = "a b/../c"\nnode-timeout = 601\n').cells[0]

    assert first.folder.startswith("a_b_.._c-")
    assert first.folder == f"a_b_.._c-{first.hash[:8]}"
    assert first.hash != other.hash


def test_a_long_name_is_cut_in_the_folder_only(tmp_path):
    cell = planned(tmp_path, f'[[cell]]\nname = "{"x" * 300}"\n').cells[0]

    assert len(cell.name) == 300
    assert len(cell.folder) == 80 + 1 + 8


def test_the_example_has_24_cells_that_differ_where_it_says():
    sweep = load_sweep(CHECKOUT / "experiments" / "sweep_example" / "sweep.toml")

    assert len(sweep.cells) == 24
    assert differing_keys(sweep.cells) == ["seed", "strategy.name", "attack.name", "attack.params"]


def test_the_file_in_the_documentation_is_understood(tmp_path):
    (text,) = [block.text for block in blocks(CHECKOUT / "docs" / "sweeps.md") if block.language == "toml"]

    sweep = planned(tmp_path, text, base="")

    assert len(sweep.cells) == 3 * (2 * 2 - 1) * 2 + 1
    assert sweep.cells[0].name == "seed0-lr0.02-average-iid"
    assert by_name(sweep)["seed2-lr0.05-mk-3-skewed"]["strategy.params"] == "m = 3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[matrx]\nseed = [0]", "unknown table in .* 'matrx'. Did you mean 'matrix'.* Valid: base, cell, excl"),
        ("[matrix]\nsed = [0]", "unknown configuration key 'sed'. Did you mean 'seed'.* Valid: .*train.lr"),
        ("[matrix]\ntrain.rate = [0.1]", "unknown configuration key 'train.rate'"),
        ("[matrix]\nstratgy = [{name = 'krum'}]", "matrix: stratgy: unknown configuration key 'name'"),
        ("[matrix]\nstrategy = [{nme = 'krum'}]", "matrix: strategy: unknown configuration key 'strategy.nme'"),
        ("[matrix]\nseed = 3", "matrix: seed must be a list of values, got 3"),
        ("[matrix]\nseed = []", r"matrix: seed must be a list of values, got \[\]"),
        ("[matrix]\nstrategy = [{name = 'krum', label = 1}]", "the label of a value of strategy must be a text, got 1"),
        ("[matrix]\nseed = [0, 'one']", "cell 'one': seed must be int, got 'one'"),
        ("[matrix]\nseed = [0]\n[[exclude]]\nsed = 0", "exclude 1: unknown configuration key 'sed'"),
        ("[matrix]\nseed = [0]\n[[exclude]]\nseed = 1", "exclude 1 excludes no cell of the matrix: {'seed': 1}"),
        ("[matrix]\nseed = [0]\n[[exclude]]", "must name a setting"),
        ("[matrix]\nseed = [0]\n[exclude]\nseed = 1", "exclude must be given as"),
        ("[[cell]]\nseed = 1", "cell 1 must have a name, a text, got None"),
        ("[[cell]]\nname = 'a'\nsed = 1", "cell 'a': unknown configuration key 'sed'"),
        ("[matrix]\nresults-dir = ['x']", "results-dir is the sweep's"),
        ("", "has no cells"),
        ("[matrix]\nseed = [0]\n[[exclude]]\nseed = 0", "has no cells"),
        ("[matrix]\n'num-rounds' = [1, 0]", "cell 'num-rounds0': num-rounds must be at least 1, got 0"),
        ("[matrix]\n'strategy.name' = ['average', 'krumm']", "cell 'krumm': unknown strategy 'krumm'"),
        ("[matrix]\n'attack.params' = [{z = 1}]", "cell 'z1': attack 'none' has no parameters"),
        ("[matrix]\n'topology.params' = [{degree = 3}]", "cell 'degree3': unknown parameter of topology 'complete'"),
        ("[matrix]\n'model.name' = ['lr', 'mlp']", "cell 'mlp': unknown model 'mlp'"),
        ("[matrix]\n'data.name' = ['mnst']", "cell 'mnst': unknown data 'mnst'"),
        ("[matrix]\n'data.partition' = ['idd']", "cell 'idd': unknown partition 'idd'"),
    ],
)  # fmt: skip
def test_a_mistake_in_any_cell_is_found_before_anything_starts(tmp_path, text, message):
    path = write_sweep(tmp_path, text + "\n")

    with pytest.raises(ConfigurationError, match=message):
        load_sweep(path)


def test_two_cells_with_the_same_settings_are_an_error_that_names_both(tmp_path):
    path = write_sweep(tmp_path, "[matrix]\nseed = [0, 1]\n[[cell]]\nname = 'again'\nseed = 1\n")

    with pytest.raises(ConfigurationError, match="cells 'seed1' and 'again' have the same settings"):
        load_sweep(path)


def test_two_cells_with_the_same_name_are_an_error(tmp_path):
    path = write_sweep(tmp_path, "[matrix]\nseed = [0]\n[[cell]]\nname = 'seed0'\nseed = 1\n")

    with pytest.raises(ConfigurationError, match="two different cells are called 'seed0'"):
        load_sweep(path)


def test_a_base_that_is_no_table_is_an_error(tmp_path):
    path = write_sweep(tmp_path, "base = 3\n[matrix]\nseed = [0]\n", base="")

    with pytest.raises(ConfigurationError, match="base must be a table, got 3"):
        load_sweep(path)
