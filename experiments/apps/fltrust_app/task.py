"""What the clients do: a linear model on a share of Fashion-MNIST, and the lie of those that attack."""

from functools import cache

import torch
from flwr.app import ArrayRecord, UserConfig
from torch import Tensor, nn
from torch.nn import functional as F

from flower_dfl import registry
from flower_dfl.data.embedded import fashion_mnist_mini
from flower_dfl.models.lr import lr
from flower_dfl.types import LabelledData


@cache
def data() -> tuple[LabelledData, LabelledData]:
    """Return the 4,000 training and 1,000 test images that flower-dfl ships."""
    return fashion_mnist_mini()


def share_of(node: int, num_clients: int) -> LabelledData:
    """Return a client's training images."""
    train, _ = data()
    parts = registry.build("partition", "iid")(labels=train.labels, num_nodes=num_clients, seed=0)
    return train.subset(parts[node])


def new_model() -> nn.Module:
    """Return logistic regression that starts at zero."""
    model = lr((1, 28, 28), 10)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def train(arrays: ArrayRecord, samples: LabelledData, config: UserConfig, seed: int) -> ArrayRecord:
    """Return the model after local epochs of mini-batch SGD; batch size 0 is the full batch."""
    model = new_model()
    model.load_state_dict(arrays.to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=float(config["lr"]))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(int(config["epochs"])):
        order = torch.randperm(len(samples), generator=generator)
        for batch in torch.split(order, int(config["batch-size"]) or len(samples)):
            optimizer.zero_grad()
            F.cross_entropy(model(samples.inputs[batch]), samples.labels[batch]).backward()
            optimizer.step()
    return ArrayRecord(model.state_dict())


def flipped(before: ArrayRecord, after: ArrayRecord, scale: float) -> ArrayRecord:
    """Return a model that went ``scale`` times as far as the trained one, the other way."""
    start, end = before.to_torch_state_dict(), after.to_torch_state_dict()
    return ArrayRecord({key: start[key] - scale * (end[key] - start[key]) for key in start})


def is_byzantine(node: int, config: UserConfig) -> bool:
    """Return whether a client attacks: the last ones do."""
    return node >= int(config["num-clients"]) - int(config["num-byzantine"])


@torch.no_grad()
def accuracy(arrays: ArrayRecord) -> float:
    """Return the share of test images that a model gets right."""
    _, test = data()
    model = new_model()
    model.load_state_dict(arrays.to_torch_state_dict())
    right: Tensor = model(test.inputs).argmax(dim=1) == test.labels
    return float(right.float().mean())
