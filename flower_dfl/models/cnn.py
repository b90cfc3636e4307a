"""Small convolutional network for small images."""

import torch
from torch import nn

from flower_dfl.errors import ConfigurationError

__all__ = ["cnn"]


def cnn(
    input_shape: tuple[int, ...], num_classes: int, channels1: int = 16, channels2: int = 32, hidden: int = 128
) -> nn.Module:
    """Two convolutions and one hidden layer.

    5x5 convolutions that keep the size, each followed by 2x2 max-pooling and ReLU, then a hidden layer with ReLU and a
    linear layer: McMahan et al.'s network, made narrower. Pooling before ReLU gives the same values and gradients as
    after it, to the bit, for a quarter of the ReLU's work. Filters are laid out *channels last*: on a CPU
    training takes two thirds of the time of PyTorch's default order, evaluation half.

    Args:
        input_shape: ``(channels, height, width)``, height and width at least 4.
        num_classes: Number of labels.
        channels1: Channels of the first convolution. At least 1.
        channels2: Channels of the second convolution. At least 1.
        hidden: Width of the hidden layer. At least 1.

    Returns:
        The model, with PyTorch's default initialisation.

    Raises:
        ConfigurationError: The inputs are no images of that size, or a width is out of range.

    References:
        McMahan, Moore, Ramage, Hampson, Agüera y Arcas, *Communication-Efficient Learning of Deep Networks from
        Decentralized Data*, 2017. https://arxiv.org/abs/1602.05629

    >>> sum(p.numel() for p in cnn((1, 28, 28), 10).parameters())
    215370
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < 4:
        raise ConfigurationError(f"cnn needs inputs (c, h, w) with h >= 4 and w >= 4, got {tuple(input_shape)}")
    for name, width in (("channels1", channels1), ("channels2", channels2), ("hidden", hidden)):
        if width < 1:
            raise ConfigurationError(f"{name} must be at least 1, got {width}")
    channels, height, width = input_shape
    layers = nn.Sequential(
        nn.Conv2d(channels, channels1, kernel_size=5, padding=2),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(channels1, channels2, kernel_size=5, padding=2),
        nn.MaxPool2d(2),  # (channels2, height // 4, width // 4)
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(channels2 * (height // 4) * (width // 4), hidden),
        nn.ReLU(),
        nn.Linear(hidden, num_classes),
    )
    return layers.to(memory_format=torch.channels_last)
