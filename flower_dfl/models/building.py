"""Building a model by its configuration: the same weights from the same seed, on every node and in every engine."""

import torch
from torch import Tensor, nn

from flower_dfl import randomness, registry
from flower_dfl.config import ComponentConfig
from flower_dfl.errors import ConfigurationError

__all__ = ["build_model"]


def build_model(config: ComponentConfig, input_shape: tuple[int, ...], num_classes: int, seed: int) -> nn.Module:
    """Build a model with weights drawn from ``(seed, "init")`` and try it on two zero inputs.

    Args:
        config: Which model, and its parameters.
        input_shape: Shape of one input.
        num_classes: Number of labels.
        seed: Seed of the weights.

    Returns:
        The model on the CPU, in training mode.

    Raises:
        ConfigurationError: There is no such model or parameter, it does not fit the data, its trainable parameters are
            not all float32, or it does not answer ``(2, num_classes)`` to two inputs.
    """
    what = f"model {config.name!r}"
    build = registry.build("model", config.name, config.params)
    with randomness.scoped_global_seed(seed, "init"):
        model = build(input_shape=input_shape, num_classes=num_classes)
        if not isinstance(model, nn.Module):
            raise ConfigurationError(f"{what} must be a torch.nn.Module, got {type(model).__name__}")
        _check_answer(what, model, input_shape, num_classes)  # here, because lazy layers draw their weights only now
    _check_parameters(what, model)
    return model.train()


def _check_answer(what: str, model: nn.Module, input_shape: tuple[int, ...], num_classes: int) -> None:
    expected = (2, num_classes)
    try:
        with torch.no_grad():
            answer = model.eval()(torch.zeros(2, *input_shape))
    except Exception as error:  # whatever a user's forward raises
        raise ConfigurationError(f"{what} fails on two inputs of shape {tuple(input_shape)}: {error}") from error
    got = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
    if got != expected:
        raise ConfigurationError(
            f"{what} must answer {expected} to two inputs of shape {tuple(input_shape)}, one score a label, got {got}"
        )


def _check_parameters(what: str, model: nn.Module) -> None:
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise ConfigurationError(f"{what} must have trainable parameters, got none")
    for name, parameter in trainable.items():
        if parameter.dtype != torch.float32:
            raise ConfigurationError(f"{what}: trainable parameters must be float32, {name} is {parameter.dtype}")
