"""Run folders made by hand, and a browser to look at their reports."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from flower_dfl.config import flatten, nest, parse


def node_line(round: int, node: int, accuracy: float | None = 0.5, **changes: Any) -> dict[str, Any]:
    """A line of rounds.jsonl: nodes 2 and above are Byzantine."""
    byzantine = changes.pop("byzantine", node >= 2)
    return {
        "round": round,
        "node": node,
        "byzantine": byzantine,
        "accuracy": None if byzantine else accuracy,
        "attack_success_rate": None,
        "diverged": False,
        "distance_to_mean": None if byzantine or accuracy is None else 0.1,
        "budget": 1,
        "flags": [],
        "rejected": 0,
        "bytes_received": 100,
        "seconds": {},
    } | changes


def edge_line(round: int, receiver: int, sender: int, weight: float | None, **changes: Any) -> dict[str, Any]:
    """A line of edges.jsonl."""
    return {"round": round, "receiver": receiver, "sender": sender, "weight": weight, "scores": {}} | changes


def four_nodes(rounds: int = 3) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Records of a complete graph of two honest and two Byzantine nodes; node 0 is deceived by 3 in odd rounds."""
    nodes, edges = [], []
    for t in range(1, rounds + 1):
        nodes += [node_line(t, 0, 0.1 * t), node_line(t, 1, 0.2 * t), node_line(t, 2), node_line(t, 3)]
        edges += [
            edge_line(t, 0, 1, 0.5, scores={"trust": 0.9}),
            edge_line(t, 0, 2, 0.0, scores={"trust": 0.2}),
            edge_line(t, 0, 3, 0.25 * (t % 2)),
            edge_line(t, 1, 0, 0.5),
            edge_line(t, 1, 2, 0.0),
            edge_line(t, 1, 3, 0.0),
        ]
        edges += [edge_line(t, liar, sender, 0.3) for liar in (2, 3) for sender in range(4) if sender != liar]
    return nodes, edges


MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Write a run folder from records; what is None is not there."""

    def make(
        rounds: Iterable[Mapping[str, Any]] | None = None,
        edges: Iterable[Mapping[str, Any]] | None = None,
        *,
        name: str = "run",
        nodes: Iterable[Mapping[str, Any]] | None = None,
        summary: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        small = {"num-nodes": 4, "num-byzantine": 2, "num-rounds": 3}
        config = parse(small | {key.replace("_", "-").replace("--", "."): value for key, value in settings.items()})
        (folder / "config.toml").write_text(tomli_w.dumps(nest(flatten(config))), encoding="utf-8")
        for file, lines in (("rounds.jsonl", rounds), ("edges.jsonl", edges)):
            if lines is not None:
                (folder / file).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        for file, content in (("nodes.json", nodes and {"nodes": list(nodes)}), ("summary.json", summary)):
            if content is not None:
                (folder / file).write_text(json.dumps(content), encoding="utf-8")
        return folder

    return make


GRID = [
    ("average", "none", 0, 0.9, None),
    ("average", "none", 1, 0.8, None),
    ("average", "scaling", 0, 0.5, 1.0),
    ("average", "scaling", 1, 0.3, 0.9),
    ("average", "alie", 0, 0.7, None),
    ("average", "alie", 1, 0.6, None),
    ("krum", "scaling", 0, 0.6, 0.1),
    ("krum", "scaling", 1, None, None),
]
"""Cells of a sweep: strategy, attack, seed, accuracy, attack success rate; a cell without accuracy failed."""


@pytest.fixture
def make_sweep(make_run: MakeRun, tmp_path: Path) -> Callable[..., Path]:
    """Write a sweep of cells like those of GRID, with more settings by the cells' names."""

    def make(cells, **settings):
        folder, index = tmp_path / "sweep", []
        for strategy, attack, seed, accuracy, rate in cells:
            name = f"{strategy}-{attack}-seed{seed}"
            given = {"strategy__name": strategy, "attack__name": attack, "seed": seed, **settings.get(name, {})}
            summary = {"status": "completed", "honest_accuracy_mean": accuracy, "attack_success_rate_mean": rate}
            if accuracy is None:
                summary = {"status": "failed", "error": "it <b>broke</b>"}
            lines = [
                node_line(t, n, accuracy and accuracy * t / 2, attack_success_rate=rate) for t in (1, 2) for n in (0, 1)
            ]
            run = make_run(lines, name=f"sweep/cells/{name}/run", summary=summary, **given)
            config = parse(
                {"num-nodes": 4, "num-byzantine": 2, "num-rounds": 3}
                | {key.replace("__", "."): value for key, value in given.items()}
            )
            table = {key: value for key, value in flatten(config).items() if key != "results-dir"}
            (run.parent / "settings.toml").write_text(tomli_w.dumps(nest(table)), encoding="utf-8")
            index.append({"name": name, "folder": f"cells/{name}"})
        (folder / "sweep.json").write_text(json.dumps({"cells": index}), encoding="utf-8")
        return folder

    return make


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium with its console and its network traffic on record."""
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    absent = [name for name, path in programs.items() if path is None]
    if absent:
        pytest.skip(f"needs {' and '.join(absent)}: apt install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(programs["chromedriver"])) as browser:
        yield browser
