"""Between modules and vectors: flat float32 tensors ``(d,)`` of the trainable parameters.

Order is ``named_parameters()``. Float buffers (BatchNorm's running statistics) make a second flat tensor that travels
beside the vector; integer buffers (its step counter) never leave the node.
"""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = [
    "all_finite",
    "fingerprint",
    "float_buffers",
    "integer_buffers",
    "load_buffers",
    "load_parameters",
    "parameter_vector",
]


def _trainable(module: nn.Module) -> list[Tensor]:
    return [p for p in module.parameters() if p.requires_grad]


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    rows = [t.detach().reshape(-1) for t in tensors]
    return torch.cat(rows) if rows else torch.empty(0)


def parameter_vector(module: nn.Module) -> Tensor:
    """Return a copy of the trainable parameters ``(d,)``."""
    return _flat(_trainable(module))


def float_buffers(module: nn.Module) -> Tensor:
    """Return a copy of the floating-point buffers, flat; empty if there are none."""
    return _flat(b for b in module.buffers() if b.is_floating_point())


def integer_buffers(module: nn.Module) -> tuple[Tensor, ...]:
    """Return copies of the remaining buffers."""
    return tuple(b.clone() for b in module.buffers() if not b.is_floating_point())


@torch.no_grad()
def load_parameters(module: nn.Module, vector: Tensor) -> None:
    """Copy ``vector`` ``(d,)`` into the trainable parameters."""
    _load(_trainable(module), vector)


@torch.no_grad()
def load_buffers(module: nn.Module, floats: Tensor, integers: tuple[Tensor, ...]) -> None:
    """Copy float buffers, and integer buffers if any are given, into the module."""
    _load([b for b in module.buffers() if b.is_floating_point()], floats)
    if integers:
        for target, source in zip([b for b in module.buffers() if not b.is_floating_point()], integers, strict=True):
            target.copy_(source)


def _load(targets: list[Tensor], source: Tensor) -> None:
    sizes = [t.numel() for t in targets]
    if source.shape != (sum(sizes),):
        raise ValueError(f"expected a flat tensor of {sum(sizes)} values, got shape {tuple(source.shape)}")
    for target, part in zip(targets, torch.split(source, sizes), strict=True):
        target.copy_(part.view_as(target))


def all_finite(tensor: Tensor) -> bool:
    """Return whether every value is finite, by one pass: a sum is finite only if all that it adds up are.

    >>> all_finite(torch.full((9,), 3e38)), all_finite(torch.tensor([0.0, float("nan")]))
    (True, False)
    """
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def fingerprint(*tensors: Tensor) -> str:
    """Return 16 hexadecimal digits that differ where any byte of the tensors differs.

    >>> fingerprint(torch.zeros(2)) == fingerprint(-torch.zeros(2))
    False
    """
    digest = hashlib.sha256()  # processors have instructions for this one
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]
