"""A data set that needs no network: the beginning of Fashion-MNIST, shipped with the package.

``fashion_mnist_mini.npz`` holds ``train_images`` uint8 ``(4000, 28, 28)``, ``train_labels`` uint8 ``(4000,)`` and
likewise ``test_images`` and ``test_labels`` with 1,000: the first images of the original idx files, in their order. To
make it again, with the full set in ``ROOT``::

    from torchvision.datasets import FashionMNIST

    train, test = FashionMNIST(ROOT, train=True), FashionMNIST(ROOT, train=False)
    np.savez_compressed(
        "fashion_mnist_mini.npz",
        train_images=train.data[:4000].numpy(),
        train_labels=train.targets[:4000].numpy().astype(np.uint8),
        test_images=test.data[:1000].numpy(),
        test_labels=test.targets[:1000].numpy().astype(np.uint8),
    )

Fashion-MNIST is by Zalando SE under the MIT licence, whose text lies beside the file.
"""

from importlib import resources

import numpy as np

from flower_dfl.data.images import FASHION_MNIST_SCALE, standardise
from flower_dfl.types import LabelledData

__all__ = ["fashion_mnist_mini"]


def fashion_mnist_mini() -> tuple[LabelledData, LabelledData]:
    """Fashion-MNIST's first 4,000 training and 1,000 test images, 1x28x28; shipped, no download.

    Standardised with the constants of the full set, so that models can be compared across the two.

    Returns:
        Training and test data.

    References:
        Xiao, Rasul, Vollgraf, *Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms*,
        2017. https://arxiv.org/abs/1708.07747
    """
    file = resources.files("flower_dfl.data").joinpath("fashion_mnist_mini.npz")
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        train, test = (
            standardise(arrays[f"{part}_images"], arrays[f"{part}_labels"], *FASHION_MNIST_SCALE, num_classes=10)
            for part in ("train", "test")
        )
    return train, test
