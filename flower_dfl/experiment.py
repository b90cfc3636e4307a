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

from flower_dfl import registry
from flower_dfl.config import RunConfig, flatten, parse
from flower_dfl.data.loading import load, partition
from flower_dfl.errors import ConfigurationError
from flower_dfl.metrics import StampedTest
from flower_dfl.models.building import build_model
from flower_dfl.network import Network, build_network
from flower_dfl.protocols import Attack, PeerStrategy
from flower_dfl.training import ModelState, TorchLearner, resolve_device
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

    @property
    def learner(self) -> TorchLearner:
        """Loss and gradients of the model."""
        return TorchLearner(self.module, tuple(self.test.inputs.shape[1:]), self.test.num_classes)

    @property
    def device(self) -> torch.device:
        """Where training, rules and attacks compute."""
        return self.initial.vector.device

    @property
    def num_steps(self) -> float:
        """Mini-batch steps of an average node's local training, a real number."""
        average = sum(len(shard) for shard in self.shards) / len(self.shards)
        return self.config.train.epochs * average / self.config.train.batch_size

    def is_attacker(self, node: NodeId) -> bool:
        """Return whether the node deviates from the protocol."""
        return self.attack is not None and node in self.network.byzantine

    @property
    def protocol_followers(self) -> frozenset[NodeId]:
        """Nodes that follow the protocol: all of them if there is no attack."""
        return frozenset(node for node in self.network.nodes if not self.is_attacker(node))


def build_rules(config: RunConfig) -> tuple[PeerStrategy[Any], Attack | None]:
    """Build the strategy and the attack of a configuration."""
    strategy = registry.build("strategy", config.strategy.name, config.strategy.params)
    if config.attack.name == NO_ATTACK:
        if config.attack.params:
            raise ConfigurationError(f"attack 'none' has no parameters, got {dict(config.attack.params)}")
        return strategy, None
    return strategy, registry.build("attack", config.attack.name, config.attack.params)


def build_experiment(config: RunConfig) -> Experiment:
    """Build the parts of a run."""
    network = build_network(config)
    strategy, attack = build_rules(config)
    train_data, test = load(config.data)
    device = resolve_device(config.train.device)
    shards = partition(config.data, train_data.labels, config.num_nodes, config.seed)
    module = build_model(config.model, tuple(test.inputs.shape[1:]), test.num_classes, config.seed)
    stamped = None
    if attack is not None and attack.trigger is not None:
        others = test.inputs[test.labels != attack.trigger.target]
        stamped = StampedTest(attack.trigger.stamp(others, test.input_range).to(device), attack.trigger.target)
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
    )


def experiment_for(config: RunConfig) -> Experiment:
    """Return the experiment of a configuration, from this process's cache if it is there.

    Where results go is no part of it.
    """
    return _cached(json.dumps(flatten(replace(config, results_dir="")), sort_keys=True))


@functools.lru_cache(maxsize=1)
def _cached(table: str) -> Experiment:
    return build_experiment(parse(json.loads(table)))
