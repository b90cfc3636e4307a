"""The page as text: what it says, that it is inert, that it needs nothing else."""

import base64
import hashlib
import json
import re

import pytest

from flower_dfl.config import flatten, parse
from flower_dfl.engines.local import run_local
from flower_dfl.errors import ConfigurationError
from flower_dfl.report import write_report

from .conftest import edge_line, four_nodes, node_line

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}"


def broken():
    raise ZeroDivisionError("mine")


def text_of(folder):
    return write_report(folder).read_text(encoding="utf-8")


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_the_report_goes_into_the_folder_or_where_it_is_told(make_run, tmp_path):
    folder = make_run(*four_nodes())

    assert write_report(folder) == folder / "report.html"
    assert write_report(folder, tmp_path / "new" / "r.html") == tmp_path / "new" / "r.html"
    assert (tmp_path / "new" / "r.html").exists()


def test_a_folder_that_is_neither_run_nor_sweep_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"config\.toml \(a run\) or a sweep\.json \(a sweep\)"):
        write_report(tmp_path)


def test_the_policy_allows_exactly_the_style_and_the_script_of_the_page(make_run):
    page = text_of(make_run(*four_nodes()))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]

    for element, directive in ((r"<style>(.*?)</style>", "style-src"), (r"<script>(.*?)</script>", "script-src")):
        (content,) = re.findall(element, page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} &#39;sha256-{digest}&#39;" in policy or f"{directive} 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_nothing_in_the_page_points_anywhere_else(make_run):
    page = text_of(make_run(*four_nodes()))

    assert set(re.findall(r'(?:src|href)="([^"]{0,5})', page)) <= {"data:"}
    assert re.findall(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", page) == []


def test_texts_from_the_folder_cannot_become_markup(make_run):
    nodes, edges = four_nodes()
    nodes[0]["flags"] = [HOSTILE]
    edges[0]["scores"] = {HOSTILE: 1.0}
    folder = make_run(nodes, edges, summary={"status": "failed", "error": HOSTILE}, model__name=HOSTILE)
    (folder / "environment.json").write_text(json.dumps({"command": [HOSTILE], "engine": HOSTILE, "python": HOSTILE}))

    page = text_of(folder)

    assert page.count("<script") == 2
    assert "<img src=x" not in page
    assert "{{ 7 * 7 }}" in page
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in page
    scores = data_of(page)["trust"]["scores"]
    assert (scores["names"], scores["rows"][0][0]) == (["weight", HOSTILE, "trust"], [0.5, 1.0, None])


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        ({"status": "completed"}, None),
        ({"status": "running"}, "This run is running"),
        ({"status": "failed", "error": "NodeFailedError: node 3 broke"}, "NodeFailedError: node 3 broke"),
        ({"status": "interrupted", "error": None}, "No error was recorded"),
        (None, "There is no summary.json"),
    ],
)
def test_how_the_run_ended_is_said_first(make_run, summary, said):
    page = text_of(make_run(*four_nodes(), summary=summary))
    head = page[page.index("<header>") : page.index("</header>")]

    assert (said in head) if said else ("problem" not in head)


def test_an_empty_run_says_so(make_run):
    page = text_of(make_run(summary={"status": "running"}))

    assert "No round was recorded." in page
    assert data_of(page)["rounds"] == []


def test_without_evaluation_and_decisions_the_page_says_what_is_not_there(make_run):
    page = text_of(make_run([node_line(1, 0, None), node_line(1, 1, None)]))

    assert "No accuracy: no recorded round was evaluated." in page
    assert "No decision was recorded." in page


def test_without_an_attack_the_page_says_that_nobody_attacks(make_run):
    page = text_of(make_run(*four_nodes(), attack__name="none"))

    assert "Not shown: nobody attacks." in page
    assert "2 Byzantine in name (they follow the protocol)" in page


def test_settings_that_differ_from_the_defaults_come_first(make_run):
    page = text_of(make_run(*four_nodes(), train__lr=0.25, results_dir="elsewhere"))
    changed, everything = page.split("All settings", 1)

    assert re.search(r"train\.lr</code></th><td><code>0\.25</code></td><td class=\"muted\"><code>0\.05", changed)
    assert "budget-policy" not in changed
    assert "budget-policy" in everything
    assert "elsewhere" not in page  # where results went is no setting of the experiment


def test_the_command_that_repeats_the_run_is_quoted(make_run):
    folder = make_run(*four_nodes())
    (folder / "environment.json").write_text(json.dumps({"engine": "local", "command": ["flower-dfl", "run", "a b"]}))

    page = text_of(folder)

    assert "flower-dfl run config.toml --engine local" in page
    assert "flower-dfl run &#39;a b&#39;" in page


@pytest.mark.parametrize("transport", ["mailbox", "relay"])
def test_the_command_that_repeats_a_run_names_an_engine_that_there_is(make_run, transport):
    folder = make_run(*four_nodes())
    (folder / "environment.json").write_text(json.dumps({"engine": f"flower+{transport}"}))

    assert "flower-dfl run config.toml --engine flower<" in text_of(folder)


@pytest.mark.parametrize(
    ("data", "said"), [("no_such_module:load", "no_such_module"), (f"{__name__}:broken", "ZeroDivisionError: mine")]
)
def test_where_a_users_own_data_fail_the_page_says_so_and_is_there(make_run, data, said):
    assert said in text_of(make_run(*four_nodes(), data__name=data))


def test_a_frame_holds_receiver_sender_and_code(make_run):
    trust = data_of(text_of(make_run([node_line(1, n) for n in range(4)], [edge_line(1, 0, 3, 1.0)])))["trust"]

    assert trust["rounds"] == [1]
    assert list(base64.b64decode(trust["frames"][0])) == [0, 3, 255]
    assert trust["summaries"] == [
        "honest nodes trusted 0 of 0 messages from honest neighbours and 1 of 1 from Byzantine ones."
    ]


def test_many_rounds_of_many_edges_are_thinned_out(make_run):
    edges = [edge_line(t, i, (i + k) % 120, 0.1) for t in range(1, 61) for i in range(120) for k in range(1, 21)]
    nodes = [node_line(t, i, byzantine=i > 90) for t in range(1, 61) for i in range(120)]

    trust = data_of(text_of(make_run(nodes, edges, num_nodes=120, num_byzantine=29)))["trust"]

    assert trust["rounds"][0] == 1
    assert trust["rounds"][-1] == 60
    assert sum(map(len, trust["frames"])) < 600_000
    assert trust["note"] == f"{len(trust['rounds'])} of 60 rounds are kept in this file."


def test_a_real_run_has_a_report_with_its_own_numbers(tmp_path):
    table = {"num-nodes": 4, "num-byzantine": 1, "num-rounds": 2, "model.name": "lr", "strategy.name": "average",
             "topology.name": "complete", "data.num-train": 80, "data.num-test": 50, "train.device": "cpu"}  # fmt: skip
    folder = tmp_path / "run"
    folder.mkdir()
    run_local(parse(table), folder, lambda _: None)

    page = text_of(folder)

    summary = json.loads((folder / "summary.json").read_text())
    assert f"{100 * summary['honest_accuracy_mean']:.1f}\u202f%" in page
    assert data_of(page)["rounds"] == [1, 2]
    assert page.count("data:image/png;base64,") == 2  # the trigger: a row without, a row with it
    assert flatten(parse(table))["strategy.name"] in page
