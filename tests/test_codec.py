import functools
import json
import math
import random
import sys
from contextlib import suppress

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
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
keys = st.text() | st.integers(-(2**60), 2**60)
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


@settings(deadline=None)
@given(trees)
def test_every_tree_survives_the_round_trip(tree):
    assert same(unpack(pack(tree)), tree)


@settings(deadline=None)
@given(trees)
def test_splitting_and_uniting_is_the_identity(tree):
    assert same(unite(*split(tree)), tree)


def test_a_tensor_with_special_values_survives_bit_for_bit():
    tensor = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])

    assert torch.equal(unpack(pack(tensor)).view(torch.int32), tensor.view(torch.int32))


@settings(deadline=None)
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


@pytest.mark.parametrize("key", [True, 2.0, None, (1,), 2**60 + 1, -(2**61)])
def test_other_keys_are_refused(key):
    with pytest.raises(TypeError, match=r"^expected keys that are strings or integers up to \+-2\*\*60, got "):
        pack({"a": [{key: 1}]})


@pytest.mark.parametrize("length", range(0, 176, 5))
def test_truncated_bytes_are_a_transport_error(length):
    data = pack({"a": (1, torch.tensor([1.5, -2.0]))})

    with pytest.raises(TransportError, match=r"^malformed bytes: "):
        unpack(data[: min(length, len(data) - 1)])


@settings(deadline=None)
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


def message(header, body):
    """Return bytes in the layout of safetensors, whatever they say."""
    if not isinstance(header, bytes):
        header = json.dumps(header, separators=(",", ":")).encode()
    return len(header).to_bytes(8, "little") + header + body


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def around(skeleton, **changes):
    """Return bytes that hold one tensor of two float32 zeros and a skeleton, with the tensor's entry changed."""
    first = entry("F32", [2], 0, 8) | changes
    return message({"0": first, "tree": entry("U8", [len(skeleton)], 8, 8 + len(skeleton))}, bytes(8) + skeleton)


ONE = b'{"tensor": 0}'


def test_what_the_following_tests_break_is_whole_before():
    assert unpack(around(ONE)).tolist() == [0, 0]


def test_data_beyond_the_largest_size_are_refused_with_both_sizes():
    data = pack(torch.zeros(2))

    assert unpack(data, largest=len(data)).tolist() == [0, 0]
    with pytest.raises(
        TransportError, match=rf"^malformed bytes: expected at most {len(data) - 1} .* got {len(data)}$"
    ):
        unpack(data, largest=len(data) - 1)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"dtype": "C64"}, r"expected a dtype of BOOL, .* got 'C64'"),
        ({"dtype": "F8_E4M3"}, r"expected a dtype of BOOL, .* got 'F8_E4M3'"),
        ({"dtype": "f32"}, r"expected a dtype of BOOL, .* got 'f32'"),
        ({"dtype": 1}, "expected dtype, shape and data_offsets of tensor '0'"),
        ({"shape": [-2]}, r"expected whole numbers >= 0 .* tensor '0', got \[-2, 0, 8\]"),
        ({"shape": [2.0]}, "expected whole numbers >= 0"),
        ({"shape": [2, True]}, "expected whole numbers >= 0"),
        ({"shape": [2, None]}, "expected whole numbers >= 0"),
        ({"shape": [[2]]}, "expected whole numbers >= 0"),
        ({"shape": 2}, "expected dtype, shape and data_offsets"),
        ({"shape": "2"}, "expected dtype, shape and data_offsets"),
        ({"shape": [3]}, r"expected as many bytes as F32 \[3\] has, got \[0, 8\]"),
        ({"shape": [0]}, r"expected as many bytes as F32 \[0\] has"),
        ({"shape": [2**62]}, rf"expected at most 8 dimensions and {2**40} values, got shape \[{2**62}\]"),
        ({"shape": [0, 2**40, 2]}, "expected at most 8 dimensions"),
        ({"shape": [2**31, 2**31, 4]}, "expected at most 8 dimensions"),
        ({"shape": [1] * 8 + [2]}, "expected at most 8 dimensions"),
        ({"data_offsets": [0, 8, 8]}, "expected dtype, shape and data_offsets"),
        ({"data_offsets": [False, 8]}, "expected whole numbers >= 0"),
        ({"data_offsets": [-8, 0]}, "expected whole numbers >= 0"),
        ({"data_offsets": [8, 0]}, "expected as many bytes"),
        ({"data_offsets": [8, 16]}, r"expected values from byte 0 on, without gap or overlap, got the next at 8"),
        ({"data_offsets": [4, 12]}, r"expected values from byte 0 on, without gap or overlap, got the next at 4"),
        ({"data_offsets": [2**62, 2**62 + 8]}, r"expected values from byte 0 on"),
        ({"rank": 1}, "expected dtype, shape and data_offsets"),
    ],
)
def test_a_tensor_whose_claims_disagree_is_refused_with_the_rule(changes, rule):
    with pytest.raises(TransportError, match=f"^malformed bytes: {rule}"):
        unpack(around(ONE, **changes))


@pytest.mark.parametrize("missing", ["dtype", "shape", "data_offsets"])
def test_a_tensor_without_a_claim_is_refused(missing):
    first = entry("F32", [2], 0, 8)
    del first[missing]

    with pytest.raises(TransportError, match="expected dtype, shape and data_offsets of tensor '0'"):
        unpack(message({"0": first, "tree": entry("U8", [13], 8, 21)}, bytes(8) + ONE))


@pytest.mark.parametrize(
    ("header", "rule"),
    [
        ([], r"expected a header of a tree and at most 4096 tensors, got \[\]"),
        ({}, "expected a header of a tree and at most 4096 tensors, got {}"),
        (None, "expected a header of a tree and at most 4096 tensors, got None"),
        ({"0": entry("U8", [0], 0, 0)}, r"expected 1 entries named 'tree' and from '0', got \['0'\]"),
        ({"tree": entry("U8", [1], 0, 1), "1": entry("U8", [0], 1, 1)}, "expected 2 entries named"),
        ({"tree": entry("U8", [1], 0, 1), "00": entry("U8", [0], 1, 1)}, "expected 2 entries named"),
        ({"tree": entry("U8", [1], 0, 1), "__metadata__": {"a": "b"}}, "expected 2 entries named"),
        ({"tree": 0}, "expected dtype, shape and data_offsets of tensor 'tree', got 0"),
        ({"tree": entry("I8", [1], 0, 1)}, r"expected a skeleton of dtype U8 in one dimension, got I8 \[1\]"),
        ({"tree": entry("U8", [1, 1], 0, 1)}, "expected a skeleton of dtype U8"),
        ({"tree": entry("U8", [], 0, 1)}, "expected a skeleton of dtype U8"),
        (
            {"tree": entry("U8", [2**20 + 1], 0, 2**20 + 1)},
            f"expected a skeleton of at most {2**20} bytes, got {2**20 + 1}",
        ),
        (b" " * (2**20 + 1), f"expected a header of at most {2**20} bytes in {2**20 + 10}, got {2**20 + 1}"),
        (b'{"tree":{},"tree":{}}', r"expected every key once, got \['tree', 'tree'\]"),
        (b'{"tree":{"dtype":"U8","shape":[1],"shape":[1]}}', "expected every key once"),
        (b'{"tree":{"dtype":"U8","shape":[NaN],"data_offsets":[0,1]}}', "expected whole numbers >= 0"),
        (b'{"tree":{"dtype":"U8","shape":[Infinity],"data_offsets":[0,1]}}', "expected whole numbers >= 0"),
        (b'{"tree":{"dtype":"U8","shape":[1e0],"data_offsets":[0,1]}}', "expected whole numbers >= 0"),
        (b'{"tree":{"dtype":"U8","shape":[' + b"9" * 5_000 + b'],"data_offsets":[0,1]}}', "Exceeds the limit"),
        (b'{"tree":' + b"[" * 5_000, "expected brackets at most 100 deep, got 5001"),
        (b"\xff", "expected UTF-8: invalid start byte at byte 0"),
        (b"\xef\xbb\xbf{}", "Unexpected UTF-8 BOM"),
        ("{}".encode("utf-16"), "expected UTF-8"),
    ],
)
def test_a_header_that_names_other_things_is_refused_with_the_rule(header, rule):
    with pytest.raises(TransportError, match=f"^malformed bytes: .*{rule}"):
        unpack(message(header, b"1"))


@pytest.mark.parametrize(
    ("spans", "size"),
    [
        ([(0, 4), (2, 6)], 6),  # overlap
        ([(0, 4), (0, 4)], 4),  # the same values twice
        ([(0, 4), (6, 10)], 10),  # a gap
        ([(0, 4), (4, 8)], 9),  # trailing bytes
        ([(0, 4), (4, 8)], 7),  # cut off
    ],
)
def test_values_must_be_covered_exactly_once(spans, size):
    header = {name: entry("U8", [4], *span) for name, span in zip(("tree", "0"), spans, strict=True)}

    with pytest.raises(TransportError, match=r"without gap or overlap|expected 8 bytes of values, got [79]$"):
        unpack(message(header, bytes(size)))


def test_a_claimed_header_length_beyond_the_data_is_refused_with_the_values():
    with pytest.raises(TransportError, match=rf"expected a header of at most 2 bytes in 10, got {2**62}$"):
        unpack((2**62).to_bytes(8, "little") + b"{}")


@pytest.mark.parametrize(
    "tensors",
    [
        [torch.zeros(0)] * 4_096,
        [torch.zeros(300)] * 6_000,  # as late letters in a checkpoint
    ],
)
def test_many_tensors_survive(tensors):
    assert len(unpack(pack(tensors))) == len(tensors)


@pytest.mark.parametrize(
    ("tree", "rule"),
    [
        ([torch.zeros(0)] * 5_000, "expected a header of a tree and at most 4096 tensors"),
        (torch.zeros([1] * 9), "expected at most 8 dimensions"),
        (torch.zeros(1, dtype=torch.complex64), "expected a dtype of BOOL, .* got 'C64'"),
        ("x" * 2**20, "expected JSON of at most"),
        (list(range(2**17)), "expected at most 131072 brackets and commas"),
        (functools.reduce(lambda tree, _: [tree], range(60), 0), "expected brackets at most 100 deep, got 120"),
    ],
)
def test_what_could_not_be_unpacked_is_not_packed(tree, rule):
    with pytest.raises(TransportError, match=f"^malformed bytes: {rule}"):
        pack(tree)


def test_tensors_without_values_survive_in_any_place():
    tree = [torch.zeros(0, 3), torch.ones(2), torch.zeros(0, dtype=torch.uint8), torch.tensor(7), torch.zeros(4, 0)]

    assert same(unpack(pack(tree)), tree)


def test_a_bool_tensor_of_other_bytes_is_refused():
    data = message({"0": entry("BOOL", [2], 0, 2), "tree": entry("U8", [13], 2, 15)}, b"\x01\x02" + ONE)

    with pytest.raises(TransportError, match="expected bytes 0 and 1 in the bool tensor '0'"):
        unpack(data)


@pytest.mark.parametrize(
    ("skeleton", "rule"),
    [
        ('{"list": [{"tensor": 0}, {"tensor": 0}]}', "expected the tensors in order, each once; got 0 for 1"),
        ('{"list": [{"tensor": 1}, {"tensor": 0}]}', "expected the tensors in order, each once; got 1 for 0"),
        ('{"list": [{"tensor": -2}, {"tensor": -1}]}', "expected the tensors in order, each once; got -2 for 0"),
        (
            '{"list": [{"tensor": false}, {"tensor": true}]}',
            "expected the tensors in order, each once; got False for 0",
        ),
        ('{"list": [{"tensor": 0.0}, {"tensor": 1.0}]}', "expected the tensors in order"),
        ('{"list": [{"tensor": 0}, {"tensor": 1}, {"tensor": 2}]}', "got 2 for None"),
        ('{"tensor": 0}', "expected every tensor to stand in the tree, got 1 of 2 that do not"),
        ("null", "got 2 of 2 that do not"),
        ("[]", r"expected a value, tensor, tuple, list or dict, got \[\]"),
        ('{"list": {}}', "expected a value, tensor"),
        ('{"list": "ab"}', "expected a value, tensor"),
        ('{"set": []}', "expected a value, tensor"),
        ('{"list": [], "tuple": []}', "expected a value, tensor"),
        ('{"list": [], "list": []}', "expected every key once"),
        ('{"dict": [["a", 1], ["a", 2]]}', "expected every key once, got"),
        ('{"dict": [[1, 1], [1, 2]]}', "expected every key once, got"),
        ('{"dict": [[1, 1, 1]]}', "expected a pair of a key and a part"),
        ('{"dict": ["ab"]}', "expected a pair"),
        ('{"dict": [{"a": 1, "b": 2}]}', "expected a pair"),
        ('{"dict": [[true, 1]]}', "expected a pair"),
        ('{"dict": [[null, 1]]}', "expected a pair"),
        ('{"dict": [[1.0, 1]]}', "expected a pair"),
        ('{"dict": [[NaN, 1]]}', "expected a pair"),
        ('{"dict": [[2305843009213693951, 1]]}', "expected a pair"),  # 2^61 - 1, which has the hash of 0
        ("1 2", "Extra data"),
        ("9" * 5_000, "Exceeds the limit"),
        ('"' + '\\"' * 300_000, "Unterminated string"),
        ('{"list": [' * 51 + "]}" * 51, "expected brackets at most 100 deep, got 102"),
        (
            '{"list": [' + "0," * 2**17 + "0]}",
            f"expected at most {2**17} brackets and commas, got {2**17 + 4}",
        ),
        (" " * (2**20 + 1), f"expected JSON of at most {2**20} characters, got {2**20 + 1}"),
    ],
)
def test_a_skeleton_that_splitting_never_writes_is_refused_with_the_rule(skeleton, rule):
    with pytest.raises(TransportError, match=f"^malformed bytes: .*{rule}"):
        unite(skeleton, [torch.zeros(2), torch.zeros(2)])


def test_brackets_inside_a_string_are_not_depth():
    tree = {"[" * 500 + '\\"[[': "]" * 500 + "\\", 1: ["{" * 500]}

    assert unpack(pack(tree)) == tree


def test_depth_is_bounded_whatever_the_interpreter_allows():
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10**6)  # beyond this the parser itself would end the process
    try:
        with pytest.raises(TransportError, match="expected brackets at most 100 deep, got 100000"):
            unite("[" * 100_000, [])
    finally:
        sys.setrecursionlimit(limit)


def test_a_message_about_long_data_is_short():
    with pytest.raises(TransportError) as caught:
        unite(json.dumps({"x" * 100_000: "y" * 100_000}), [])

    assert len(str(caught.value)) < 300
