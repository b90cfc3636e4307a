"""What does DFL-Dual's gradient inversion cost, beside local training and when receivers share it?

Ten nodes with 2,000 images each, batches of 32, one epoch, one thread; ten dummy images a class, ten iterations. First
one node's training and the inversion of its message in turn, with the learner and with torch's own second derivatives.
Then one round on the complete graph, half of the messages ten times too long: every receiver inverts all messages, or
each message is inverted once and the receivers are handed the result. Times are CPU seconds.

Usage: python experiments/benchmarks/inversion.py [--data NAME] [--root DIR] [--repeat R] [--models MODEL ...]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from flower_dfl import randomness
from flower_dfl.config import parse
from flower_dfl.experiment import Experiment, build_experiment
from flower_dfl.strategies.dfl_dual import DflDual
from flower_dfl.training import TorchLearner, one_thread, train
from flower_dfl.types import DigestContext, Inbox, Learner, RoundContext, Update
from flower_dfl.vectors import load_parameters

LEARNING_RATES = {"lr": 0.02, "fc": 0.05, "cnn": 0.05}
NODES = 10
RULE = DflDual()

ResultT = TypeVar("ResultT")


class PlainLearner(TorchLearner):
    """Differentiates twice with torch alone."""

    def gradient(self, vector: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the gradient, whose graph is torch's own."""
        load_parameters(self.module.eval(), vector)
        loss = F.cross_entropy(self.module(inputs), labels)
        parts = torch.autograd.grad(loss, list(self.module.parameters()), create_graph=inputs.requires_grad)
        return torch.cat([part.reshape(-1) for part in parts])


def main() -> None:
    """Measure and print two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--root", default="")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--models", nargs="+", default=list(LEARNING_RATES), choices=list(LEARNING_RATES))
    arguments = parser.parse_args()

    beside, shared = [], []
    with one_thread():
        for model in arguments.models:
            experiment = _experiment(model, arguments)
            beside.append(f"| {model} | {_beside_training(experiment, arguments.repeat)} |")
            shared.append(f"| {model} | {_shared(experiment)} |")
    print("| model | training | inversion | to training, median (range) | torch's own, to training |")
    print("|---|---|---|---|---|", *beside, sep="\n")
    print("\n| model | each for itself | shared | factor | whole rule, factor | same selections |")
    print("|---|---|---|---|---|---|", *shared, sep="\n")


def _experiment(model: str, arguments: argparse.Namespace) -> Experiment:
    return build_experiment(
        parse(
            {
                "num-nodes": NODES,
                "topology.name": "complete",
                "model.name": model,
                "data.name": arguments.data,
                "data.root": arguments.root,
                "data.num-train": 2_000 * NODES,
                "data.num-test": 100,
                "data.partition": "iid",
                "train.lr": LEARNING_RATES[model],
                "train.device": "cpu",
            }
        )
    )


def _beside_training(experiment: Experiment, repeat: int) -> str:
    plain = PlainLearner(experiment.module, experiment.learner.input_shape, experiment.learner.num_classes)
    times: dict[str, list[float]] = {"train": [], "ours": [], "plain": []}
    for _ in range(repeat):
        update = _timed(times["train"], lambda: _message(experiment, 0))
        for name, learner in (("ours", experiment.learner), ("plain", plain)):
            _timed(times[name], lambda u=update, by=learner: RULE.digest(u, _round(experiment, by)))
    ratios = {
        name: [taken / floor for taken, floor in zip(times[name], times["train"], strict=True)]
        for name in ("ours", "plain")
    }
    middle = {name: statistics.median(values) for name, values in (times | ratios).items()}
    spread = {name: f"{middle[name]:.2f} ({min(values):.2f} to {max(values):.2f})" for name, values in ratios.items()}
    seconds = " | ".join(f"{statistics.median(times[name]) * 1e3:.0f} ms" for name in ("train", "ours"))
    return f"{seconds} | {spread['ours']} | {spread['plain']}"


def _shared(experiment: Experiment) -> str:
    """One round on the complete graph: seconds of the inversions, of all, and whether the selections agree."""
    context, messages = _round(experiment, experiment.learner), [_message(experiment, node) for node in range(NODES)]
    base = experiment.initial.vector
    messages = [u if u.sender < NODES // 2 else replace(u, vector=base + 10 * (u.vector - base)) for u in messages]
    once: list[float] = []
    digested = [_timed(once, lambda u=u: replace(u, digest=RULE.digest(u, context))) for u in messages]
    rest: list[float] = []
    with_digests = [_timed(rest, lambda own=own: _select(experiment, digested, own)) for own in range(NODES)]
    alone: list[float] = []
    without = [_timed(alone, lambda own=own: _select(experiment, messages, own)) for own in range(NODES)]
    inversions = sum(alone) - sum(rest), sum(once)
    whole = sum(alone) / (sum(once) + sum(rest))
    return (
        f"{inversions[0]:.2f} s | {inversions[1]:.2f} s | {inversions[0] / inversions[1]:.1f} | {whole:.1f} | "
        f"{'yes' if with_digests == without else 'NO'}"
    )


def _select(experiment: Experiment, messages: list[Update], own: int) -> dict[int, float]:
    received = tuple(update for update in messages if update.sender != own)
    inbox = Inbox(messages[own], received, torch.full((len(received),), 1 / NODES, dtype=torch.float64))
    context = RoundContext(
        node=own,
        round=1,
        num_rounds=1,
        base=experiment.initial.vector,
        budget=NODES // 2,
        lr=experiment.config.train.lr,
        num_steps=experiment.num_steps,
        seed=0,
        learner=experiment.learner,
    )
    return dict(RULE.aggregate(inbox, None, context).weights)


def _message(experiment: Experiment, node: int) -> Update:
    batches = randomness.generator(0, "batches", 1, node)
    half_step = train(experiment.module, experiment.initial, experiment.shards[node], experiment.config.train, batches)
    return Update(node, 1, half_step.vector, base=experiment.initial.vector, num_examples=2_000, batch_size=32)


def _round(experiment: Experiment, learner: Learner) -> DigestContext:
    return DigestContext(1, 1, experiment.config.train.lr, experiment.num_steps, seed=0, learner=learner)


def _timed(times: list[float], work: Callable[[], ResultT]) -> ResultT:
    began = time.process_time()
    result = work()
    times.append(time.process_time() - began)
    return result


if __name__ == "__main__":
    main()
