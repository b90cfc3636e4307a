"""Reports in a real browser: they draw, they react, they stay silent on the network and the console."""

import json

import pytest

from flower_dfl.report import write_report

from .conftest import GRID, edge_line, four_nodes, node_line

SLIDE = (
    "const slider = document.getElementById('round'); slider.value = arguments[0];"
    "slider.dispatchEvent(new Event('input'))"
)
CHOOSE = (
    "const select = document.getElementById(arguments[0]); select.value = arguments[1];"
    "select.dispatchEvent(new Event('change'))"
)
DASH = "\N{EN DASH}"
EDGES = "return [...document.querySelectorAll('#graph .edge')].map(e => e.dataset.edge + ' ' + e.classList[1]).sort()"


@pytest.fixture
def look(chromium):
    """Open a file in a window of some size and colour scheme; the console must stay empty, the network silent."""

    def open_report(path, width=1000, height=800, scheme="light", media=""):
        chromium.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
        chromium.get_log("performance")  # what earlier pages did
        chromium.get_log("browser")
        chromium.get(path.as_uri())
        drawn = "return document.querySelectorAll('.plot').length === document.querySelectorAll('.plot svg').length"
        _wait(chromium, drawn)
        return chromium

    yield open_report
    assert chromium.get_log("browser") == []
    assert requests_of(chromium) == []


def requests_of(browser):
    """Return the addresses that the page asked for, besides itself and what it holds."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in asked if not url.startswith("data:") and not url.endswith(".html")]


def _wait(browser, condition):
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 30, poll_frequency=0.02).until(lambda _: browser.execute_script(condition))


def _press(browser, key):
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(key).perform()


@pytest.fixture
def report(make_run):
    """The report of a run in which node 0 is deceived in odd rounds, with a message missing and one dropped."""
    nodes, edges = four_nodes()
    edges[-1] |= {"missing": "late"}
    edges[1] = edge_line(1, 0, 2, 0.0, rejected="shape")
    return write_report(make_run(nodes, edges, summary={"status": "completed", "honest_accuracy_mean": 0.45}))


def test_the_page_draws_its_curves_and_its_graph_without_network_or_error(look, report):
    browser = look(report)

    assert browser.execute_script("return document.querySelectorAll('.plot .line').length") >= 5
    assert len(browser.execute_script(EDGES)) == 6
    assert (
        browser.execute_script(
            "return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length"
        )
        == 0
    )


def test_the_policy_stops_what_a_hostile_page_would_try(chromium, report):
    page = report.read_text(encoding="utf-8").replace("</main>", "<script>window.evil = 1</script></main>")
    hostile = report.with_name("hostile.html")
    hostile.write_text(page, encoding="utf-8")

    chromium.get(hostile.as_uri())

    assert chromium.execute_script("return window.evil") is None
    assert any("Content Security Policy" in entry["message"] for entry in chromium.get_log("browser"))


def test_the_slider_changes_the_edges_the_numbers_and_the_heat_map(look, report):
    browser = look(report)

    browser.execute_script(SLIDE, 0)
    first = browser.execute_script(EDGES)
    browser.execute_script(SLIDE, 1)
    second = browser.execute_script(EDGES)

    assert first == ["0-1 trusted", "0-2 dropped", "0-3 trusted", "1-0 trusted", "1-2 rejected", "1-3 rejected"]
    assert second == ["0-1 trusted", "0-2 rejected", "0-3 rejected", "1-0 trusted", "1-2 rejected", "1-3 rejected"]
    assert browser.execute_script("return document.getElementById('where').textContent") == "Round 2 of 3"
    assert "Round 2: mean 30.0\u202f%, worst 20.0\u202f%" in browser.execute_script(
        "return document.querySelector('#accuracy .readout').textContent"
    )
    assert browser.execute_script("return document.querySelectorAll('#heat .cell').length") == 2
    assert "1 of 4" not in browser.execute_script("return document.getElementById('decided').textContent")


def test_decisions_are_told_apart_by_dash_and_by_shape(look, report):
    browser = look(report)
    browser.execute_script("document.getElementById('everyone').click()")
    dashes, shapes = {}, {}
    for index in (0, 2):
        browser.execute_script(SLIDE, index)
        found = browser.execute_script(
            "return [...document.querySelectorAll('#graph .edge')].map(e => [e.classList[1],"
            "getComputedStyle(e).strokeDasharray, e.nextSibling.getAttribute('d').replace(/[^A-Z]/g, '')])"
        )
        for kind, dash, shape in found:
            dashes[kind], shapes[kind] = dash, shape

    assert set(dashes) == {"trusted", "rejected", "dropped", "missing"}
    assert len(set(dashes.values())) == len(set(shapes.values())) == 4


def test_arrow_keys_choose_the_round(look, report):
    browser = look(report)

    _press(browser, "\ue012")  # left
    _press(browser, "\ue012")

    assert browser.execute_script("return document.getElementById('where').textContent") == "Round 1 of 3"
    _press(browser, "\ue014")  # right
    assert browser.execute_script("return document.getElementById('round').value") == "1"
    for _ in range(5):
        _press(browser, "\ue014")
    assert browser.execute_script("return document.getElementById('where').textContent") == "Round 3 of 3"


def test_the_play_button_runs_to_the_last_round_and_stops(look, report):
    browser = look(report)
    button = browser.find_element("id", "play")
    button.click()

    assert button.text == "Pause"
    _wait(browser, "return document.getElementById('play').textContent === 'Play'")
    assert browser.execute_script("return document.getElementById('round').value") == "2"


def test_a_node_is_chosen_by_list_or_click_and_shows_what_it_rests_on(look, report):
    browser = look(report)
    browser.execute_script(SLIDE, 0)

    browser.execute_script(CHOOSE, "node", "0")
    rows = [row.text for row in browser.find_elements("css selector", "#reasons tbody tr")]
    browser.execute_script("document.querySelectorAll('#graph .vertex')[3].dispatchEvent(new Event('click'))")

    assert rows == ["● 1 trusted 0.5 0.9", f"■ 2 dropped by ingress 0 {DASH}", f"■ 3 trusted 0.25 {DASH}"]
    assert browser.execute_script("return document.getElementById('node').value") == "3"
    assert "Honest nodes that trusted it: 0." in browser.find_element("id", "reasons").text


def test_a_node_gets_a_curve_of_its_own_and_all_can_be_shown(look, report):
    browser = look(report)

    browser.execute_script(CHOOSE, "node", "1")
    assert "node 1 60.0\u202f%" in browser.find_element("css selector", "#accuracy .readout").text
    browser.execute_script(CHOOSE, "node", "all")
    assert len(browser.find_elements("css selector", "#accuracy .line.every")) == 2


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_no_width_makes_the_page_scroll_sideways(look, report, width):
    browser = look(report, width=width)
    browser.execute_script(CHOOSE, "node", "0")

    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_dark_mode_and_print_have_colours_of_their_own(look, report):
    colours = []
    for scheme, media in (("light", ""), ("dark", ""), ("dark", "print")):
        browser = look(report, scheme=scheme, media=media)
        colours.append(
            browser.execute_script(
                "const of = (selector, key) => getComputedStyle(document.querySelector(selector))[key];"
                "return [of('body', 'backgroundColor'), of('body', 'color'), of('.line.honest', 'stroke')]"
            )
        )

    assert colours[0] == ["rgb(253, 253, 252)", "rgb(27, 29, 32)", "rgb(33, 102, 172)"]
    assert colours[1] == ["rgb(21, 23, 26)", "rgb(231, 232, 234)", "rgb(121, 179, 236)"]
    assert colours[2][0] == "rgb(255, 255, 255)"


def test_everything_that_can_be_operated_or_seen_has_a_name(look, report):
    browser = look(report)
    browser.execute_script(CHOOSE, "node", "0")

    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    needing = {"button", "slider", "combobox", "checkbox", "image", "img", "link", "region"}
    named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    assert [role for role, name in named if role in needing and not name] == []
    assert {"button", "slider", "combobox", "checkbox"} <= {role for role, _ in named}


def test_a_large_graph_is_shown_in_groups(look, make_run):
    n = 160
    nodes = [node_line(t, node, byzantine=node >= 120) for t in (1, 2) for node in range(n)]
    edges = [edge_line(t, i, (i + 1) % n, 0.5 if t == 1 else 0.0) for t in (1, 2) for i in range(n)]

    browser = look(write_report(make_run(nodes, edges, num_nodes=n, num_byzantine=40)))

    assert browser.find_elements("css selector", "#graph") == []
    sizes = []
    for index in (0, 1):
        browser.execute_script(SLIDE, index)
        sizes.append(
            browser.execute_script("return document.querySelector('#heat .cell').getBoundingClientRect().width")
        )
    assert sizes[0] > 2 * sizes[1]  # trusted groups fill their cell, others leave a dot


@pytest.mark.parametrize("settings", [{}, {"attack__name": "none"}])
def test_a_page_without_rounds_or_decisions_works(look, make_run, settings):
    look(write_report(make_run(name="empty", **settings)))
    look(write_report(make_run([node_line(1, 0, None), node_line(1, 1, None)], name="bare", **settings)))


def test_the_page_of_a_sweep_shows_the_chosen_rule(look, make_sweep):
    browser = look(write_report(make_sweep([cell for cell in GRID if cell[1] == "scaling"])), width=360)

    browser.execute_script(CHOOSE, "strategy", "krum")

    assert "krum 60.0\u202f%" in browser.find_element("css selector", "#attack-0 .readout").text
    assert len(browser.find_elements("css selector", "#attack-0 .line.other")) == 1
    browser.execute_script(CHOOSE, "metric", "attack_success_rate_mean")
    assert "krum 10.0\u202f%" in browser.find_element("css selector", "#attack-0 .readout").text
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
