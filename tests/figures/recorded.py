"""Run folders written by hand, with known numbers."""

import json
from pathlib import Path
from typing import Any

import tomli_w

from flower_dfl.config import flatten, nest, parse

BASE: dict[str, Any] = {"num-nodes": 4, "num-byzantine": 2, "num-rounds": 2}


def write_run(folder: Path, settings: dict[str, Any], accuracy: float, rate: float | None, status="completed") -> Path:
    """Write a completed run whose two honest nodes end ``accuracy`` plus and minus 0.1, at half of it after round 1."""
    folder.mkdir(parents=True)
    config = parse(BASE | settings)
    (folder / "config.toml").write_text(tomli_w.dumps(nest(flatten(config))), encoding="utf-8")
    summary = {
        "status": status,
        "error": None,
        "rounds": 2,
        "honest_accuracy_mean": accuracy,
        "honest_accuracy_min": accuracy - 0.1,
        "attack_success_rate_mean": rate,
        "attack_success_rate_max": rate,
    }
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    lines = [
        {
            "round": number,
            "node": node,
            "byzantine": node >= 2,
            "accuracy": number / 2 * (accuracy + (0.1, -0.1)[node]) if node < 2 else None,
            "attack_success_rate": rate if node < 2 else None,
            "diverged": False,
            "distance_to_mean": None,
            "budget": 0,
            "flags": [],
            "rejected": 0,
            "bytes_received": 0,
            "seconds": {},
        }
        for number in (1, 2)
        for node in range(4)
    ]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder
