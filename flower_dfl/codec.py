"""Trees of plain values and tensors as bytes, without pickle.

A tree is None, a bool, number, string or tensor, or a tuple, list or string- or int-keyed dict of trees. Tensors are
packed with safetensors; the tree around them is JSON. The same tree gives the same bytes.

What is read may come from a peer. It is checked before anything of a claimed size is allocated: lengths, the number of
tensors, their types, shapes and places, and the size and depth of the JSON. Only what :func:`split` and :func:`pack`
write is accepted, so a tensor stands in the tree exactly once, and memory stays within a small multiple of the data.
Whatever else comes is a :class:`~flower_dfl.errors.TransportError`.
"""

import json
import math
import re
from collections.abc import Iterator
from itertools import accumulate
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
_ITEM_SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8, "BF16": 2, "F16": 2, "F32": 4, "F64": 8}
"""Bytes of a value, by safetensors' name of the dtype: those that can be read."""
_MOST_DIMENSIONS = 8
_MOST_VALUES = 2**40
"""Of a tensor, zero dimensions counted as one: a stride beyond it could overflow."""
_FEW_TENSORS = 4_096
"""Any data may hold so many; more of them only if they are a kilobyte each, on average."""
_TEXT_OF_A_TENSOR = 256
"""Characters of header, and of skeleton; an entry of eight dimensions stays below."""
_MARKS_OF_A_TENSOR = 32
"""Brackets and commas in them: a parsed value takes up to thirty times the memory of its text."""
_DEEPEST = 100
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1, ",": 0}
_LARGEST_KEY = 2**60
"""Larger integers can be chosen to have equal hashes, which makes a dictionary of them quadratic."""
_STRING = re.compile(r'"(?:[^"\\]++|\\.?)*+"?', re.DOTALL)
"""Also one that never ends: a search that failed there would start again at each of its escaped quotes."""


def split(tree: Tree) -> tuple[str, list[Tensor]]:
    """Return the tree's JSON skeleton and its tensors, in order.

    >>> split({"a": (1, torch.zeros(2))})[0]
    '{"dict": [["a", {"tuple": [1, {"tensor": 0}]}]]}'
    """
    tensors: list[Tensor] = []
    skeleton = json.dumps(_skeleton(tree, tensors))
    _check_text(skeleton, max(_FEW_TENSORS, len(tensors)))
    return skeleton, tensors


def unite(skeleton: str, tensors: list[Tensor]) -> Tree:
    """Undo :func:`split`.

    Raises:
        TransportError: The skeleton is malformed, or not one of these tensors.
    """
    unread = enumerate(tensors)
    tree = _tree(_json(skeleton, max(_FEW_TENSORS, len(tensors))), unread)
    left = len(list(unread))
    if left:
        raise _malformed(f"expected every tensor to stand in the tree, got {left} of {len(tensors)} that do not")
    return tree


def pack(tree: Tree) -> bytes:
    """Return the tree as bytes.

    Raises:
        TransportError: It has more, or other, tensors than :func:`unpack` reads.
    """
    skeleton, tensors = split(tree)
    named = {str(i): tensor.cpu().clone(memory_format=torch.contiguous_format) for i, tensor in enumerate(tensors)}
    named[_SKELETON] = torch.from_numpy(np.frombuffer(skeleton.encode(), dtype=np.uint8).copy())
    data = safetensors.torch.save(named)
    _check_header(data)
    return data


def unpack(data: bytes, largest: int | None = None) -> Tree:
    """Undo :func:`pack`.

    Args:
        data: What :func:`pack` returned, or a peer's claim of it.
        largest: Most bytes that it may have; None where its writer is trusted with that.

    Raises:
        TransportError: The bytes are not such a tree.
    """
    if largest is not None and len(data) > largest:
        raise _malformed(f"expected at most {largest} bytes, got {len(data)}")
    _check_header(data)
    try:
        named = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise _malformed(str(error)) from error
    for name, tensor in named.items():
        if tensor.dtype is torch.bool and bool((tensor.view(torch.uint8) > 1).any()):
            raise _malformed(f"expected bytes 0 and 1 in the bool tensor {name!r}, got others")
    skeleton = _text(named.pop(_SKELETON).numpy().tobytes())
    return unite(skeleton, [named[str(index)] for index in range(len(named))])


def _malformed(rule: str) -> TransportError:
    return TransportError(f"malformed bytes: {rule}")


def _check_header(data: bytes) -> None:
    """Refuse a safetensors header that does not describe exactly the bytes that follow it."""
    size = len(data) - 8
    length = int.from_bytes(data[:8], "little")
    most = max(_FEW_TENSORS, len(data) // 1_024)
    longest = min(size, most * _TEXT_OF_A_TENSOR)
    if length > longest:
        raise _malformed(f"expected a header of at most {longest} bytes in {len(data)}, got {length}")
    header = _json(_text(data[8 : 8 + length]), most)
    if not isinstance(header, dict) or not 0 <= len(header) - 1 <= most:
        raise _malformed(f"expected a header of a tree and at most {most} tensors, got {_short(header)}")
    names = {_SKELETON, *map(str, range(len(header) - 1))}
    if header.keys() != names:
        raise _malformed(f"expected {len(header)} entries named 'tree' and from '0', got {_short([*header])}")
    place = 0
    for begin, end in sorted(_span(name, entry) for name, entry in header.items()):
        if begin != place:
            raise _malformed(f"expected values from byte {place} on, without gap or overlap, got the next at {begin}")
        place = end
    longest = max(_FEW_TENSORS, len(header) - 1) * _TEXT_OF_A_TENSOR
    if header[_SKELETON]["shape"][0] > longest:
        raise _malformed(f"expected a skeleton of at most {longest} bytes, got {header[_SKELETON]['shape'][0]}")
    if place != size - length:
        raise _malformed(f"expected {place} bytes of values, got {size - length}")


def _span(name: str, entry: object) -> tuple[int, int]:
    """Return where a tensor's values begin and end, if its header entry is consistent."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [begin, end], **rest} if not rest:
            numbers = [*shape, begin, end]
        case _:
            raise _malformed(f"expected dtype, shape and data_offsets of tensor {name!r}, got {_short(entry)}")
    if dtype not in _ITEM_SIZES:
        raise _malformed(f"expected a dtype of {', '.join(_ITEM_SIZES)}, got {_short(dtype)}")
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise _malformed(f"expected whole numbers >= 0 in the entry of tensor {name!r}, got {_short(numbers)}")
    if name == _SKELETON and (dtype != "U8" or len(shape) != 1):
        raise _malformed(f"expected a skeleton of dtype U8 in one dimension, got {dtype} {_short(shape)}")
    if len(shape) > _MOST_DIMENSIONS or math.prod(max(side, 1) for side in shape) > _MOST_VALUES:
        raise _malformed(
            f"expected at most {_MOST_DIMENSIONS} dimensions and {_MOST_VALUES} values, got shape {_short(shape)}"
        )
    if math.prod(shape) * _ITEM_SIZES[dtype] != end - begin:
        raise _malformed(f"expected as many bytes as {dtype} {shape} has, got {_short([begin, end])}")
    return begin, end


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _malformed(f"expected UTF-8: {error.reason} at byte {error.start}") from error


def _check_text(text: str, tensors: int) -> None:
    """Refuse JSON that is long for so many tensors, once it is parsed, or nested too deeply for a recursive parser."""
    if len(text) > tensors * _TEXT_OF_A_TENSOR:
        raise _malformed(f"expected JSON of at most {tensors * _TEXT_OF_A_TENSOR} characters, got {len(text)}")
    marks = re.findall(r"[][{},]", _STRING.sub("", text))
    if len(marks) > tensors * _MARKS_OF_A_TENSOR:
        raise _malformed(f"expected at most {tensors * _MARKS_OF_A_TENSOR} brackets and commas, got {len(marks)}")
    depth = max(accumulate(_STEPS[mark] for mark in marks), default=0)
    if depth > _DEEPEST:
        raise _malformed(f"expected brackets at most {_DEEPEST} deep, got {depth}")


def _json(text: str, tensors: int) -> Any:  # noqa: ANN401 - any JSON value
    """Parse the header or the skeleton of so many tensors."""
    _check_text(text, tensors)
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except ValueError as error:
        raise _malformed(str(error)) from error


def _without_repeats(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _malformed(f"expected every key once, got {_short([key for key, _ in pairs])}")
    return found


def _short(value: object) -> str:
    """Return the value for a message; it came from a peer and may be long."""
    return f"{value!r:.80}"


def _skeleton(tree: Tree, tensors: list[Tensor]) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(tree, Tensor):
        tensors.append(tree)
        return {"tensor": len(tensors) - 1}
    if type(tree) in (tuple, list):
        return {type(tree).__name__: [_skeleton(part, tensors) for part in tree]}
    if type(tree) is dict:
        wrong = [key for key in tree if not _is_key(key)]
        if wrong:
            raise TypeError(f"expected keys that are strings or integers up to +-2**60, got {wrong[0]!r}")
        return {"dict": [[key, _skeleton(part, tensors)] for key, part in tree.items()]}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"expected None, numbers, strings, tensors, tuples, lists and dicts, got {type(tree).__name__}")


def _tree(skeleton: Any, unread: Iterator[tuple[int, Tensor]]) -> Tree:  # noqa: ANN401
    if skeleton is None or isinstance(skeleton, bool | int | float | str):
        return skeleton
    if isinstance(skeleton, dict) and len(skeleton) == 1:
        match skeleton:
            case {"tensor": claimed}:
                index, tensor = next(unread, (None, None))
                if type(claimed) is not int or claimed != index:
                    raise _malformed(f"expected the tensors in order, each once; got {_short(claimed)} for {index}")
                return tensor
            case {"dict": [*pairs]}:
                return _without_repeats([_pair(pair, unread) for pair in pairs])
            case {"tuple": [*parts]}:
                return tuple([_tree(part, unread) for part in parts])
            case {"list": [*parts]}:
                return [_tree(part, unread) for part in parts]
    raise _malformed(f"expected a value, tensor, tuple, list or dict, got {_short(skeleton)}")


def _pair(pair: Any, unread: Iterator[tuple[int, Tensor]]) -> tuple[str | int, Tree]:  # noqa: ANN401
    match pair:
        case [key, part] if _is_key(key):
            return key, _tree(part, unread)
    raise _malformed(f"expected a pair of a key and a part, got {_short(pair)}")


def _is_key(key: object) -> bool:
    return type(key) is str or (type(key) is int and abs(key) <= _LARGEST_KEY)
