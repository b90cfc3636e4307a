"""Everything that a configuration decides, built once per process.

An :class:`Experiment` is a cache, never the truth: it can be rebuilt from the configuration at any time, with the same
values, on any worker.
"""

import functools
import json
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from flower_dfl import randomness, registry
from flower_dfl.config import CheckpointConfig, RunConfig, flatten, parse
from flower_dfl.data.loading import load, partition
from flower_dfl.errors import ConfigurationError
from flower_dfl.metrics import StampedTest
from flower_dfl.models.building import build_model
from flower_dfl.network import Network, build_network
from flower_dfl.protocols import Attack, PeerStrategy
from flower_dfl.training import ModelState, TorchLearner, one_thread, resolve_device
from flower_dfl.types import LabelledData, NodeId

__all__ = ["Experiment", "build_experiment", "build_rules", "experiment_for"]

NO_ATTACK = "none"


@dataclass(frozen=True, slots=True, eq=False)
class Experiment:
    """The parts of one run.

    Attributes:
        config: Its configuration.
        network: Graph and adversaries.
        strategy: Rule of every honest node.
        attack: What Byzantine nodes do; None lets them follow the protocol.
        module: Workspace for forward and backward passes.
        initial: Common start of all nodes.
        shards: Training data of each node.
        test: Held-out data.
        stamped: Held-out data with the attack's trigger, if it has one.
        test_sample: The part of ``test`` on which rounds before the last are evaluated.
        stamped_sample: Likewise.
        num_steps: Mini-batch steps of an average node's local training, a real number.
        protocol_followers: Nodes that follow the protocol: all of them if there is no attack.
    """

    config: RunConfig
    network: Network
    strategy: PeerStrategy[Any]
    attack: Attack | None
    module: nn.Module
    initial: ModelState
    shards: tuple[LabelledData, ...]
    test: LabelledData
    stamped: StampedTest | None
    test_sample: LabelledData
    stamped_sample: StampedTest | None
    num_steps: float
    protocol_followers: frozenset[NodeId]

    @property
    def learner(self) -> TorchLearner:
        """Loss and gradients of the model."""
        return TorchLearner(self.module, tuple(self.test.inputs.shape[1:]), self.test.num_classes)

    @property
    def device(self) -> torch.device:
        """Where training, rules and attacks compute."""
        return self.initial.vector.device

    def is_attacker(self, node: NodeId) -> bool:
        """Return whether the node deviates from the protocol."""
        return self.attack is not None and node in self.network.byzantine

    def is_evaluated(self, node: NodeId, round: int) -> bool:
        """Return whether a node is evaluated after a round; after the last one every honest node is."""
        config = self.config
        if not config.is_due(round) or node in self.network.byzantine:
            return False
        if config.eval.nodes == 0 or round == config.num_rounds:
            return True
        return node in _evaluated_nodes(self.network.honest, config.eval.nodes, config.seed, round)

    def held_out(self, round: int) -> tuple[LabelledData, StampedTest | None]:
        """Return the test data of a round, plain and stamped; after the last round it is all of them."""
        last = round == self.config.num_rounds
        return (self.test, self.stamped) if last else (self.test_sample, self.stamped_sample)


@functools.lru_cache(maxsize=4)
def _evaluated_nodes(honest: tuple[NodeId, ...], count: int, seed: int, round: int) -> frozenset[NodeId]:
    order = torch.randperm(len(honest), generator=randomness.generator(seed, "evaluated-nodes", round))
    return frozenset(honest[place] for place in order[:count].tolist())


def build_rules(config: RunConfig) -> tuple[PeerStrategy[Any], Attack | None]:
    """Build the strategy and the attack of a configuration."""
    strategy = registry.build("strategy", config.strategy.name, config.strategy.params)
    if config.attack.name == NO_ATTACK:
        if config.attack.params:
            raise ConfigurationError(f"attack 'none' has no parameters, got {dict(config.attack.params)}")
        return strategy, None
    return strategy, registry.build("attack", config.attack.name, config.attack.params)


@one_thread()
def build_experiment(config: RunConfig) -> Experiment:
    """Build the parts of a run; with one thread, as a user's data and models may depend on the order of sums."""
    network = build_network(config)
    strategy, attack = build_rules(config)
    train_data, test = load(config.data)
    device = resolve_device(config.train.device)
    shards = partition(config.data, train_data.labels, config.num_nodes, config.seed)
    module = build_model(config.model, tuple(test.inputs.shape[1:]), test.num_classes, config.seed)
    if attack is not None and attack.trigger is not None and attack.trigger.target >= test.num_classes:
        raise ConfigurationError(
            f"the backdoor's target must be a label of the data, 0..{test.num_classes - 1}, got {attack.trigger.target}"
        )
    sample = _sample(test, config)
    stamped = _stamped(test, attack, device)
    average = sum(map(len, shards)) / len(shards)
    attackers = network.byzantine if attack is not None else frozenset()
    return Experiment(
        config=config,
        network=network,
        strategy=strategy,
        attack=attack,
        module=module.to(device),
        initial=ModelState.of(module),
        shards=tuple(train_data.subset(indices).to(device) for indices in shards),
        test=test.to(device),
        stamped=stamped,
        test_sample=sample.to(device),
        stamped_sample=stamped if sample is test else _stamped(sample, attack, device),
        num_steps=config.train.epochs * average / config.train.batch_size,
        protocol_followers=frozenset(network.nodes) - attackers,
    )


def _sample(test: LabelledData, config: RunConfig) -> LabelledData:
    """Draw the test samples of the rounds before the last."""
    if not 0 < config.eval.samples < len(test):
        return test
    order = torch.randperm(len(test), generator=randomness.generator(config.seed, "test-samples"))
    return test.subset(order[: config.eval.samples])


def _stamped(test: LabelledData, attack: Attack | None, device: torch.device) -> StampedTest | None:
    """Put the attack's trigger on the test samples of the other classes."""
    if attack is None or attack.trigger is None:
        return None
    others = test.inputs[test.labels != attack.trigger.target]
    return StampedTest(attack.trigger.stamp(others, test.input_range).to(device), attack.trigger.target)


def experiment_for(config: RunConfig) -> Experiment:
    """Return the experiment of a configuration, from this process's cache if it is there.

    Where results go is no part of it, nor how often they are saved.
    """
    same = replace(config, results_dir="", checkpoint=CheckpointConfig())
    return _cached(json.dumps(flatten(same), sort_keys=True))


@functools.lru_cache(maxsize=1)
def _cached(table: str) -> Experiment:
    return build_experiment(parse(json.loads(table)))
