"""Does a run that is killed at random moments end with the bytes of one that never was?

Processes of small runs are killed with SIGKILL, at moments drawn from the seed: the driver (``flower-dfl``), which is
then resumed; and with the ``flower`` engine workers, and with ``--mailbox`` the mailbox, which the run has to survive
by itself. A run takes several kills in turn. Once it is complete, its final models and records are compared with those
of a run that nobody killed.

Usage: python experiments/benchmarks/random_kills.py [--kills N] [--seed S] [--engine local|flower] [--mailbox]
"""

import argparse
import hashlib
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import tomli_w

from flower_dfl.engines.flower import program
from flower_dfl.records import read_lines

SETTINGS = {
    "num-nodes": 6,
    "num-byzantine": 2,
    "num-rounds": 50,
    "topology.name": "complete",
    "schedule.name": "edge-failures",
    "strategy.name": "dfl-detector",
    "attack.name": "scaling",
    "model.name": "fc",
    "data.num-train": 600,
    "data.num-test": 200,
    "train.device": "cpu",
    "network.drop-rate": 0.1,
    "network.late-rate": 0.2,
    "network.staleness": 1,
    "checkpoint.every": 2,
    "on-node-failure": "restart",
}
KILLS_PER_RUN = 5
MOST_ROUNDS = 4
"""A kill comes so many rounds after the last one, at most; or none, while the run still starts."""
MOST_SECONDS = {"local": 0.3, "flower": 1.0}
"""And so many seconds later, at most."""
PATIENCE = 600.0
MOST_RESUMPTIONS = 5
"""How often a run is resumed that failed without being killed."""
POLL = 0.02
TITLES = {"worker": "ray::ClientAppActor", "mailbox": "ray::Slots"}


def main() -> None:
    """Kill, resume, compare, and print a Markdown table; exit with 1 if a run ended with other bytes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="kills of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=["local", "flower"], default="flower")
    parser.add_argument("--mailbox", action="store_true", help="kill the mailbox, too")
    arguments = parser.parse_args()
    kinds = ["driver", *(["worker"] if arguments.engine == "flower" else []), *(["mailbox"] * arguments.mailbox)]
    draw = random.Random(arguments.seed)
    kills = [kind for kind in kinds for _ in range(arguments.kills)]
    draw.shuffle(kills)

    rows: list[str] = []
    others = 0
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        expected = Run(Path(scratch) / "whole", "local").end()
        while kills:
            run = Run(Path(scratch) / f"run-{len(kills)}", arguments.engine)
            struck: list[str] = []
            while kills and len(struck) < KILLS_PER_RUN and (what := run.strike(kills[0], draw)):
                struck.append(f"{kills.pop(0)} | {what}")
                _say(struck[-1])
            is_same = run.end() == expected
            others += not is_same
            rows += [f"| {row} | {'yes' if is_same else 'NO'} |" for row in struck]
            _say(f"{len(rows)} kills, {len(kills)} to come: {'the same' if is_same else 'OTHER'} bytes in {run.folder}")
    print("| kill | moment | what happened | same bytes |")
    print("|---|---|---|---|")
    print("\n".join(rows))
    if others:
        sys.exit(f"{others} runs ended with other bytes")


class Run:
    """A run in a process of its own."""

    def __init__(self, workplace: Path, engine: str) -> None:
        workplace.mkdir()
        self._engine = engine
        self._output = workplace / "output.txt"
        results = workplace / "results"
        (workplace / "config.toml").write_text(tomli_w.dumps(SETTINGS), encoding="utf-8")
        self._start("run", str(workplace / "config.toml"), "--results-dir", str(results))
        self._wait(lambda: any(results.glob("*/summary.json")))
        (self.folder,) = results.iterdir()

    def strike(self, kind: str, draw: random.Random) -> str:
        """Kill a process at a random moment; return moment and consequence, nothing if the run was over by then."""
        rounds = draw.randint(0 if kind == "driver" else 1, MOST_ROUNDS)
        seconds = draw.uniform(0, MOST_SECONDS[self._engine])
        wanted = self._rounds() + rounds
        self._wait(lambda: self._rounds() >= wanted or not self._is_alive())
        time.sleep(seconds)
        victims = [self._process] if kind == "driver" else self._titled(TITLES[kind])
        at = self._rounds()
        if not victims or not self._is_alive() or self._status() == "completed":
            return ""
        before = len(read_lines(self.folder / "failures.jsonl"))
        draw.choice(victims).kill()
        moment = f"{seconds:.2f} s after round {at}"
        if kind == "driver":
            self._process.wait(timeout=PATIENCE)
            return f"{moment} | {self._go_on()}"
        self._wait(lambda: self._rounds() > at or not self._is_alive())
        return f"{moment} | {self._consequence(before) if self._rounds() > at else 'the run ended'}"

    def end(self) -> str:
        """Let the run come to its end; return a hash of its models and records, without clock times."""
        for _ in range(MOST_RESUMPTIONS):
            self._process.wait(timeout=PATIENCE)
            if self._status() == "completed":
                break
            _say(self._go_on())
        else:
            raise RuntimeError(f"did not come to its end: {self._output.read_text(encoding='utf-8')}")
        digest = hashlib.sha256()
        for path in sorted((self.folder / "checkpoint").glob("*.safetensors")):
            digest.update(path.read_bytes())
        for name in ("rounds.jsonl", "edges.jsonl"):
            for line in read_lines(self.folder / name):
                digest.update(json.dumps(line | {"seconds": None}).encode())
        return digest.hexdigest()

    def _start(self, *command: str) -> None:
        with self._output.open("ab") as output:
            self._process = psutil.Popen(
                [program("flower-dfl"), *command, "--engine", self._engine],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip

    def _go_on(self) -> str:
        """Resume a run that is over before its end."""
        already = len(self._resumptions())
        self._start("resume", str(self.folder))
        self._wait(lambda: len(self._resumptions()) > already or not self._is_alive())
        if len(self._resumptions()) == already:
            raise RuntimeError(f"cannot be resumed: {self._output.read_text(encoding='utf-8')}")
        return f"resumed after round {self._resumptions()[-1]}"

    def _resumptions(self) -> list[str]:
        return re.findall(r"going on after round (\d+)", self._output.read_text(encoding="utf-8"))

    def _consequence(self, before: int) -> str:
        failures = read_lines(self.folder / "failures.jsonl")
        if back := [line["round"] for line in failures[-1:] if line["node"] == -1]:
            return f"went back to round {back[0]}"
        if (steps := len(failures) - before) > 0:
            return f"{steps} step{'s' * (steps > 1)} repeated"
        return "replaced between two steps"

    def _titled(self, title: str) -> list[psutil.Process]:
        found = []
        for process in self._process.children(recursive=True):
            try:
                if " ".join(process.cmdline()).startswith(title):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return sorted(found, key=lambda process: process.pid)

    def _is_alive(self) -> bool:
        return bool(self._process.poll() is None)

    def _status(self) -> str:
        return str(self._summary()["status"])

    def _rounds(self) -> int:
        return int(self._summary()["rounds"])

    def _summary(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "summary.json").read_text(encoding="utf-8")))

    def _wait(self, until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not until():
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing within {PATIENCE:.0f} s; see {self._output.read_text(encoding='utf-8')}")
            time.sleep(POLL)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
