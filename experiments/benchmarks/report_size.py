"""How large is a report, how long does it take to write, and how long to open?

A synthetic run folder: a random 4-regular graph, one Byzantine node in five, records as a real run writes them. The
report is written in a process of its own, whose peak memory is read, and opened in headless Chromium. Interactive is
when the page's script has drawn everything and listens.

Usage: python experiments/benchmarks/report_size.py [--nodes N] [--rounds T] [--keep FOLDER]
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import networkx as nx
import tomli_w
from selenium import webdriver

from flower_dfl.config import flatten, nest, parse

SCORES = ("euclidean", "distance", "trust", "divergence", "wasserstein")

WRITE = """
import resource, sys, time
from pathlib import Path
from flower_dfl.report import write_report

def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

libraries, began = memory(), time.process_time()
path = write_report(Path(sys.argv[1]))
print(time.process_time() - began, libraries, memory() - libraries, path.stat().st_size / 1e6)
"""


def main() -> None:
    """Make a folder, write and open its report, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--keep", type=Path, help="Leave the run folder and its report here.")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch) / "run"
        folder.mkdir(parents=True, exist_ok=True)
        make_run(folder, arguments.nodes, arguments.rounds)
        records = sum(path.stat().st_size for path in folder.glob("*.json*")) / 1e6
        written = subprocess.run(
            [sys.executable, "-c", WRITE, str(folder)], check=True, capture_output=True, text=True
        ).stdout.split()
        seconds, libraries, memory, size = map(float, written)
        opened, step = open_in_chromium(folder / "report.html")
    print(f"| {arguments.nodes} nodes, {arguments.rounds} rounds | |")
    print("|---|---|")
    print(f"| records read | {records:.0f} MB |")
    print(f"| CPU time to write | {seconds:.1f} s |")
    print(f"| peak memory beyond the {libraries:.0f} MB of the libraries | {memory:.0f} MB |")
    print(f"| size of the file | {size:.2f} MB |")
    print(f"| time to interactive | {opened:.0f} ms |")
    print(f"| one step of the slider | {step:.0f} ms |")


def make_run(folder: Path, num_nodes: int, num_rounds: int) -> None:
    """Write a run folder as a run would have left it."""
    draw = random.Random(0)
    graph = nx.random_regular_graph(4, num_nodes, seed=0)
    byzantine = set(draw.sample(range(num_nodes), num_nodes // 5))
    config = parse({"num-nodes": num_nodes, "num-rounds": num_rounds, "num-byzantine": len(byzantine)})
    (folder / "config.toml").write_text(tomli_w.dumps(nest(flatten(config))), encoding="utf-8")
    nodes = [
        {
            "node": node,
            "num_examples": 60,
            "label_counts": [draw.randrange(12) for _ in range(10)],
            "byzantine": node in byzantine,
            "neighbours": sorted(graph[node]),
        }
        for node in range(num_nodes)
    ]
    (folder / "nodes.json").write_text(json.dumps({"nodes": nodes}), encoding="utf-8")
    summary = {"status": "completed", "rounds": num_rounds, "honest_accuracy_mean": 0.8}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    with (folder / "rounds.jsonl").open("w") as rounds, (folder / "edges.jsonl").open("w") as edges:
        for number in range(1, num_rounds + 1):
            for node in range(num_nodes):
                rounds.write(json.dumps(node_line(draw, number, node, num_rounds, byzantine)) + "\n")
                for sender in sorted(graph[node]):
                    edges.write(json.dumps(edge_line(draw, number, node, sender, byzantine)) + "\n")


def node_line(draw: random.Random, number: int, node: int, num_rounds: int, byzantine: set[int]) -> dict[str, object]:
    """Return a line of rounds.jsonl."""
    honest = node not in byzantine
    accuracy = 0.2 + 0.6 * number / num_rounds + draw.uniform(-0.1, 0.1)
    return {
        "round": number,
        "node": node,
        "byzantine": not honest,
        "accuracy": accuracy if honest else None,
        "attack_success_rate": draw.uniform(0, 0.1) if honest else None,
        "diverged": False,
        "distance_to_mean": draw.uniform(0.1, 0.2) if honest else None,
        "budget": 1,
        "flags": [],
        "rejected": 0,
        "bytes_received": 1_628_320,
        "seconds": {"train": 0.006367, "aggregate": 0.016631, "evaluate": 0.004102},
    }


def edge_line(draw: random.Random, number: int, node: int, sender: int, byzantine: set[int]) -> dict[str, object]:
    """Return a line of edges.jsonl: nine of ten Byzantine and one of ten honest messages are rejected."""
    is_trusted = draw.random() < (0.1 if sender in byzantine else 0.9)
    weight = draw.uniform(0.1, 0.3) if is_trusted else 0.0
    scores = {name: draw.uniform(0, 1000) for name in SCORES}
    return {"round": number, "receiver": node, "sender": sender, "weight": weight, "scores": scores}


def open_in_chromium(report: Path) -> tuple[float, float]:
    """Return milliseconds from navigation to interactive, and of one slider step with its layout, medians of five."""
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    opened, steps = [], []
    with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as browser:
        for _ in range(5):
            browser.get(report.resolve().as_uri())
            while not browser.execute_script("return performance.getEntriesByName('ready').length"):
                time.sleep(0.01)
            opened.append(browser.execute_script("return performance.getEntriesByName('ready')[0].startTime"))
            steps.append(
                browser.execute_script(
                    "const began = performance.now(); const slider = document.getElementById('round');"
                    "slider.value = 10; slider.dispatchEvent(new Event('input')); document.body.offsetHeight;"
                    "return performance.now() - began"
                )
            )
    return sorted(opened)[2], sorted(steps)[2]


if __name__ == "__main__":
    main()
