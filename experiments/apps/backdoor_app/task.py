"""What the clients do: a linear model on a share of Fashion-MNIST, poisoned for those that attack."""

from functools import cache

import torch
from flwr.app import ArrayRecord, UserConfig
from torch import nn
from torch.nn import functional as F

from flower_dfl import registry
from flower_dfl.attacks.scaling import Scaling
from flower_dfl.data.embedded import fashion_mnist_mini
from flower_dfl.integrations import poisoned
from flower_dfl.models.lr import lr
from flower_dfl.types import LabelledData

ATTACK = Scaling(gamma=5.0)
ATTACKERS = (5,)


@cache
def data() -> tuple[LabelledData, LabelledData]:
    """Return the 4,000 training and 1,000 test images that flower-dfl ships."""
    return fashion_mnist_mini()


def samples_of(node: int, num_clients: int, server_round: int) -> LabelledData:
    """Return what a client trains on in a round."""
    train_data, _ = data()
    parts = registry.build("partition", "iid")(labels=train_data.labels, num_nodes=num_clients, seed=0)
    return poisoned(ATTACK, train_data.subset(parts[node]), node, server_round, nodes=ATTACKERS)


def new_model() -> nn.Module:
    """Return logistic regression that starts at zero."""
    model = lr((1, 28, 28), 10)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def train(arrays: ArrayRecord, samples: LabelledData, config: UserConfig, seed: int) -> ArrayRecord:
    """Return the model after one epoch of mini-batch SGD."""
    model = new_model()
    model.load_state_dict(arrays.to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=float(config["lr"]))
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    for batch in torch.split(order, int(config["batch-size"])):
        optimizer.zero_grad()
        F.cross_entropy(model(samples.inputs[batch]), samples.labels[batch]).backward()
        optimizer.step()
    return ArrayRecord(model.state_dict())


@torch.no_grad()
def evaluate(arrays: ArrayRecord) -> tuple[float, float]:
    """Return accuracy, and the share of stamped images of other classes that get the attack's target label."""
    _, test = data()
    model = new_model()
    model.load_state_dict(arrays.to_torch_state_dict())
    others = test.inputs[test.labels != ATTACK.target]
    stamped = ATTACK.trigger.stamp(others, test.input_range)
    right = model(test.inputs).argmax(dim=1) == test.labels
    fooled = model(stamped).argmax(dim=1) == ATTACK.target
    return float(right.float().mean()), float(fooled.float().mean())
