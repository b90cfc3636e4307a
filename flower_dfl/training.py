"""Local training and the learner: the only code that runs the user's module."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.sgd import sgd

from flower_dfl.config import TrainConfig
from flower_dfl.errors import ConfigurationError
from flower_dfl.randomness import epoch_order
from flower_dfl.second_derivative import CheapSecondDerivative
from flower_dfl.types import LabelledData
from flower_dfl.vectors import float_buffers, integer_buffers, load_buffers, load_parameters, parameter_vector

__all__ = ["ModelState", "TorchLearner", "one_thread", "resolve_device", "train"]


@dataclass(frozen=True, slots=True, eq=False)
class ModelState:
    """A model's values.

    Attributes:
        vector: Trainable parameters ``(d,)``.
        buffers: Float buffers, flat.
        integer_buffers: The remaining buffers, which stay on their node.
    """

    vector: Tensor
    buffers: Tensor
    integer_buffers: tuple[Tensor, ...] = ()

    def to(self, device: torch.device) -> "ModelState":
        """Return the same values on ``device``."""
        integers = tuple(buffer.to(device) for buffer in self.integer_buffers)
        return ModelState(self.vector.to(device), self.buffers.to(device), integers)

    @classmethod
    def of(cls, module: nn.Module) -> "ModelState":
        """Copy the values out of a module."""
        return cls(parameter_vector(module), float_buffers(module), integer_buffers(module))

    def load(self, module: nn.Module) -> None:
        """Copy the values into a module."""
        load_parameters(module, self.vector)
        load_buffers(module, self.buffers, self.integer_buffers)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread inside the block: sums that are split over threads depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def resolve_device(name: str) -> torch.device:
    """Return the device of a setting; ``auto`` is CUDA where this process sees one.

    Raises:
        ConfigurationError: No such device computes here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(
            f"train.device must be 'auto' or a device of this machine, got {name!r}: {reason}"
        ) from error
    return device


def train(
    module: nn.Module,
    state: ModelState,
    data: LabelledData,
    config: TrainConfig,
    generator: torch.Generator,
    *,
    strata: Tensor | None = None,
) -> ModelState:
    """Run local epochs of mini-batch SGD from ``state`` and return the half-step.

    The steps are those of ``torch.optim.SGD``, called as a function: the class imports torch's compiler, which takes
    three seconds of a processor in every process, and about a tenth of a small model's step.

    Args:
        module: Workspace for the forward and backward passes; its values are overwritten.
        state: Start-of-round model.
        data: The node's training data.
        config: Learning rate, epochs, batch size, momentum and sampling.
        generator: Draws the batches.
        strata: Labels ``(n,)`` by which class-balanced sampling draws, if not those of ``data``.
    """
    strata = data.labels if strata is None else strata
    joins = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())
    state.load(module)
    module.train()
    parameters: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
    velocities: list[Tensor | None] = [None] * len(parameters)
    for _ in range(config.epochs):
        for batch in _epoch(strata, config, generator, joins_single=joins):
            loss = F.cross_entropy(module(data.inputs[batch]), data.labels[batch])
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            with torch.no_grad():
                sgd(
                    parameters, list(gradients), velocities, lr=config.lr, momentum=config.momentum,
                    dampening=0.0, nesterov=False, weight_decay=0.0, maximize=False,
                )  # fmt: skip
    return ModelState.of(module)


def _epoch(
    labels: Tensor, config: TrainConfig, generator: torch.Generator, *, joins_single: bool
) -> tuple[Tensor, ...]:
    """Draw the index batches of one epoch.

    A single sample that is left over can join the batch before: batch normalisation has no variance of one value.
    """
    count, order = len(labels), epoch_order(labels, config.sampling, generator)
    if joins_single and config.batch_size > 1 and count > config.batch_size and count % config.batch_size == 1:
        sizes = [config.batch_size] * (count // config.batch_size)
        sizes[-1] += 1
        return torch.split(order, sizes)
    return torch.split(order, config.batch_size)


@dataclass(frozen=True, slots=True, eq=False)
class TorchLearner:
    """Loss, class scores and gradients of a module at any vector, in evaluation mode.

    Attributes:
        module: Workspace; its values are overwritten by every call.
        input_shape: Shape of one input.
        num_classes: Number of labels.
    """

    module: nn.Module
    input_shape: tuple[int, ...]
    num_classes: int

    def loss(self, vector: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy, a scalar without gradient."""
        return F.cross_entropy(self.logits(vector, inputs.detach()), labels)

    def logits(self, vector: Tensor, inputs: Tensor) -> Tensor:
        """Return the class scores ``(n, num_classes)``; differentiable in ``inputs`` if they ask for it."""
        self._load(vector)
        with torch.set_grad_enabled(inputs.requires_grad):
            scores: Tensor = self.module(inputs)
        return scores

    def gradient(self, vector: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the gradient ``(d,)`` of the mean cross-entropy; differentiable in ``inputs`` if they ask for it."""
        self._load(vector)
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        with CheapSecondDerivative() if inputs.requires_grad else nullcontext():
            scores = self.module(inputs)
        loss = F.cross_entropy(scores, labels)
        parts = torch.autograd.grad(
            loss, parameters, create_graph=inputs.requires_grad, allow_unused=True, materialize_grads=True
        )
        return torch.cat([part.reshape(-1) for part in parts])

    def _load(self, vector: Tensor) -> None:
        load_parameters(self.module, vector)
        self.module.eval()
