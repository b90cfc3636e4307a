"""Trees of plain values and tensors as bytes, without pickle.

A tree is None, a bool, number, string or tensor, or a tuple, list or string- or int-keyed dict of trees. Tensors are
packed with safetensors; the tree around them is JSON. The same tree gives the same bytes.
"""

import json
from typing import Any, TypeAlias

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from flower_dfl.errors import TransportError

__all__ = ["Tree", "pack", "split", "unite", "unpack"]

Tree: TypeAlias = Any
"""A tree, as the module says; recursive types of this kind cannot be checked statically."""

_SKELETON = "tree"


def split(tree: Tree) -> tuple[str, list[Tensor]]:
    """Return the tree's JSON skeleton and its tensors, in order.

    >>> split({"a": (1, torch.zeros(2))})[0]
    '{"dict": [["a", {"tuple": [1, {"tensor": 0}]}]]}'
    """
    tensors: list[Tensor] = []
    return json.dumps(_skeleton(tree, tensors)), tensors


def unite(skeleton: str, tensors: list[Tensor]) -> Tree:
    """Undo :func:`split`."""
    return _tree(json.loads(skeleton), tensors)


def pack(tree: Tree) -> bytes:
    """Return the tree as bytes."""
    skeleton, tensors = split(tree)
    named = {str(i): tensor.cpu().clone(memory_format=torch.contiguous_format) for i, tensor in enumerate(tensors)}
    named[_SKELETON] = torch.from_numpy(np.frombuffer(skeleton.encode(), dtype=np.uint8).copy())
    return safetensors.torch.save(named)


def unpack(data: bytes) -> Tree:
    """Undo :func:`pack`.

    Raises:
        TransportError: The bytes are not such a tree.
    """
    try:
        named = safetensors.torch.load(data)
        skeleton = named.pop(_SKELETON).numpy().tobytes().decode()
        return unite(skeleton, [named[str(index)] for index in range(len(named))])
    except (safetensors.SafetensorError, KeyError, IndexError, ValueError, TypeError, RecursionError) as error:
        raise TransportError(f"malformed bytes: {type(error).__name__}: {error}") from error


def _skeleton(tree: Tree, tensors: list[Tensor]) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(tree, Tensor):
        tensors.append(tree)
        return {"tensor": len(tensors) - 1}
    if type(tree) in (tuple, list):
        return {type(tree).__name__: [_skeleton(part, tensors) for part in tree]}
    if type(tree) is dict and all(isinstance(key, str | int) for key in tree):
        return {"dict": [[key, _skeleton(part, tensors)] for key, part in tree.items()]}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"expected None, numbers, strings, tensors, tuples, lists and dicts, got {type(tree).__name__}")


def _tree(skeleton: Any, tensors: list[Tensor]) -> Tree:  # noqa: ANN401
    if not isinstance(skeleton, dict):
        return skeleton
    ((kind, value),) = skeleton.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: _tree(part, tensors) for key, part in value}
    parts = [_tree(part, tensors) for part in value]
    if kind == "tuple":
        return tuple(parts)
    if kind == "list":
        return parts
    raise ValueError(f"unknown kind of node {kind!r}")
