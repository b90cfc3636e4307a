import json
import math
import random
from contextlib import suppress

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.codec import pack, split, unite, unpack
from flower_dfl.errors import TransportError

DTYPES = (torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool, torch.bfloat16)


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    seed = draw(st.integers(0, 2**32))
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 100
    return values.to(draw(st.sampled_from(DTYPES)))


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | tensors()
keys = st.text() | st.integers()
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)


def same(first, second):
    """Equality with types, bits of tensors, NaN equal to NaN, and the order of dictionaries."""
    if type(first) is not type(second):
        return False
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and first.shape == second.shape and bool((first == second).all())
    if isinstance(first, dict):
        return same(list(first.items()), list(second.items()))
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second or (isinstance(first, float) and math.isnan(first) and math.isnan(second))


@given(trees)
def test_every_tree_survives_the_round_trip(tree):
    assert same(unpack(pack(tree)), tree)


@given(trees)
def test_splitting_and_uniting_is_the_identity(tree):
    assert same(unite(*split(tree)), tree)


def test_a_tensor_with_special_values_survives_bit_for_bit():
    tensor = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])

    assert torch.equal(unpack(pack(tensor)).view(torch.int32), tensor.view(torch.int32))


@given(trees)
def test_the_same_tree_gives_the_same_bytes(tree):
    assert pack(tree) == pack(tree)


def test_the_bytes_are_a_format_that_stays():
    # Golden: an 8-byte little-endian header length, safetensors' JSON header padded to 8 bytes, the two floats
    # (1.5 = 0x3fc00000, -2 = 0xc0000000, little endian), and the skeleton.
    header = b'{"0":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    header += b'"tree":{"dtype":"U8","shape":[48],"data_offsets":[8,56]}} '
    body = b'\0\0\xc0?\0\0\0\xc0{"dict": [["a", {"tuple": [1, {"tensor": 0}]}]]}'

    assert pack({"a": (1, torch.tensor([1.5, -2.0]))}) == len(header).to_bytes(8, "little") + header + body


def test_a_strided_view_is_packed_by_value():
    matrix = torch.arange(6.0).reshape(2, 3)

    assert unpack(pack(matrix.T)).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_packing_leaves_the_tree_alone():
    tensor = torch.arange(4.0)
    tree = {"a": [tensor]}

    unpack(pack(tree))["a"][0].add_(1)

    assert tensor.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("value", "name"),
    [({1, 2}, "set"), (b"x", "bytes"), (1j, "complex"), (object(), "object"), (json.dumps, "function")],
)
def test_other_types_are_refused_by_name(value, name):
    with pytest.raises(TypeError, match=rf"^expected None, numbers, .* got {name}$"):
        pack({"a": (value,)})


@pytest.mark.parametrize("length", range(0, 176, 5))
def test_truncated_bytes_are_a_transport_error(length):
    data = pack({"a": (1, torch.tensor([1.5, -2.0]))})

    with pytest.raises(TransportError, match=r"^malformed bytes: "):
        unpack(data[: min(length, len(data) - 1)])


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_transport_error(data):
    with pytest.raises(TransportError):
        unpack(data)


@pytest.mark.parametrize(
    "skeleton",
    [
        "",
        "{",
        "{}",
        '{"a": 1, "b": 2}',
        '{"set": [1]}',
        '{"tensor": 1}',
        '{"tensor": "0"}',
        '{"tensor": null}',
        '{"tuple": 3}',
        '{"dict": [[1]]}',
        '{"dict": [[[], 1]]}',
        '{"dict": [[{}, 1]]}',
        '{"dict": 1}',
        "[" * 100_000,
        '{"list": [' * 10_000 + "]}" * 10_000,
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    ],
)
def test_a_malformed_skeleton_around_good_tensors_is_a_transport_error(skeleton):
    raw = torch.tensor(list(skeleton.encode("latin-1")), dtype=torch.uint8)
    data = safetensors.torch.save({"0": torch.zeros(2), "tree": raw})

    with pytest.raises(TransportError, match=r"^malformed bytes: "):
        unpack(data)


@pytest.mark.parametrize(
    "named",
    [
        {"0": torch.zeros(2)},
        {"tree": torch.zeros(3)},
        {"tree": torch.zeros(3, dtype=torch.bfloat16)},
        {"1": torch.zeros(2), "tree": torch.tensor([49], dtype=torch.uint8)},
    ],
)
def test_missing_parts_are_a_transport_error(named):
    with pytest.raises(TransportError):
        unpack(safetensors.torch.save(named))


def test_no_mutation_of_good_bytes_raises_anything_but_a_transport_error():
    draw = random.Random(0)  # seeded, so that a failure can be repeated
    good = pack({"sender": 3, "vector": torch.arange(5.0), "state": [None, (True, 2.5, "x")]})

    for _ in range(2_000):
        data = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.choice((draw.randrange(256), *b'0123456789"{}[]:,F'))
        with suppress(TransportError):
            unpack(bytes(data))
