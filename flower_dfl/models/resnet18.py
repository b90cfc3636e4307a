"""ResNet-18 for small images."""

import functools
from typing import Literal, cast

import torchvision.models
from torch import nn

from flower_dfl.errors import ConfigurationError

__all__ = ["resnet18"]


def resnet18(
    input_shape: tuple[int, ...], num_classes: int, norm: Literal["group", "batch"] = "group", groups: int = 8
) -> nn.Module:
    """ResNet-18 with the stem for small images: a 3x3 convolution of stride 1 and no max-pooling.

    Group normalisation is the default: batch statistics of skewed data differ between nodes, and averaging them breaks
    the averaged model (Hsieh et al.). It also leaves the model without buffers.

    Args:
        input_shape: ``(channels, height, width)``.
        num_classes: Number of labels.
        norm: Group or batch normalisation.
        groups: Number of groups of the group normalisation. Divides 64, the smallest number of channels.

    Returns:
        The model, initialised as in torchvision.

    Raises:
        ConfigurationError: The inputs are no images, ``norm`` is unknown or ``groups`` does not divide 64.

    References:
        He, Zhang, Ren, Sun, *Deep Residual Learning for Image Recognition*, 2016. https://arxiv.org/abs/1512.03385;
        Hsieh, Phanishayee, Mutlu, Gibbons, *The Non-IID Data Quagmire of Decentralized Machine Learning*, 2020.
        https://arxiv.org/abs/1910.00189

    >>> sum(p.numel() for p in resnet18((3, 32, 32), 10).parameters())
    11173962
    """
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ConfigurationError(f"resnet18 needs inputs (c, h, w), got {tuple(input_shape)}")
    if norm not in {"group", "batch"}:
        raise ConfigurationError(f"norm must be 'group' or 'batch', got {norm!r}")
    if groups < 1 or 64 % groups:
        raise ConfigurationError(f"groups must divide 64, got {groups}")
    # a partial, not a lambda: the model keeps it, and must pickle
    layer = functools.partial(nn.GroupNorm, groups) if norm == "group" else nn.BatchNorm2d
    model = torchvision.models.resnet18(num_classes=num_classes, norm_layer=layer)
    model.conv1 = nn.Conv2d(input_shape[0], 64, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own
    model.maxpool = nn.Identity()
    return cast("nn.Module", model)
