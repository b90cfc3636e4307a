"""Whatever a peer sends is a letter or nothing: thousands of broken ones, repeatable by their mutation and number."""

import json
import math
import random
import tracemalloc
from collections import Counter
from contextlib import suppress

import pytest
import torch

from flower_dfl import codec
from flower_dfl.errors import TransportError
from flower_dfl.ingress import Expectation, screen
from flower_dfl.transport.base import update_to_tree
from flower_dfl.transport.relay import open_letter
from flower_dfl.types import Update

pytestmark = pytest.mark.timeout(60)  # what is quadratic in its input would not end before

CASES = 600
SENDER, ROUND, DIMENSION, BUFFERS = 3, 5, 6, 2
LARGEST = 100_000
SIZES = (0, 1, 7, 8, 2**20, 2**31, 2**32, 2**40, 2**53, 2**62, 2**63, 2**64 - 1)
ATOMS = (
    *SIZES, -1, -(2**62), 10**400, True, False, None, 0.0, 1.5, math.nan, math.inf,
    "", "tree", "0", "tensor", "F32", "F64", "BOOL", "F8_E4M3", "\ud800",
    [], {}, [[]], [0, 8], {"tensor": 0}, {"tensor": 1}, {"list": []}, {"dict": [[]]},
)  # fmt: skip


def letter(**changes):
    """Return a letter that is well-formed but for the changes."""
    fields = {
        "vector": torch.arange(float(DIMENSION)),
        "base": torch.zeros(DIMENSION),
        "buffers": torch.ones(BUFFERS),
        "num_examples": 600,
        "epochs": 1,
        "batch_size": 32,
    }
    return Update(sender=SENDER, round=ROUND, **(fields | changes))


def packed(update):
    return codec.pack(update_to_tree(update, with_base=True, with_digest=True))


GOOD = (
    packed(letter()),
    packed(letter(num_examples=2**53, digest=torch.zeros(4, 1, 2, 2))),
    packed(letter(vector=torch.zeros(DIMENSION, dtype=torch.float64), buffers=torch.zeros(0))),
    codec.pack({"state": [None, (True, 2.5, "x"), {7: torch.ones(3, dtype=torch.bool)}], "round": 5}),
)


def parts(data):
    """Return the header, as JSON, and the values of good bytes."""
    start = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:start]), data[start:]


def joined(header, values):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


def altered(draw, value):
    """Return JSON with one change somewhere in it."""
    if isinstance(value, dict | list) and value and draw.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key, copy = draw.choice(keys), value.copy()
        match draw.randrange(6):
            case 0:
                del copy[key]
            case 1 if isinstance(copy, list):
                copy.insert(key, draw.choice(value))
            case 1:
                copy[str(draw.choice(ATOMS))] = copy.pop(key)
            case 2:
                copy[key] = copy[draw.choice(keys)]
            case _:
                copy[key] = altered(draw, copy[key])
        return copy
    return draw.choice((draw.choice(ATOMS), [value], [value] * 3, {"list": [value]}, {"dict": [["a", value]]}))


def flipped_bits(draw, data):
    changed = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def other_characters(draw, data):
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        changed[draw.randrange(8, len(changed))] = draw.choice(b'0123456789"{}[]:,-.eFUINatrue \\\xff')
    return bytes(changed)


def cut_off(draw, data):
    return data[: draw.randrange(len(data))]


def with_trailing_bytes(draw, data):
    return data + draw.randbytes(draw.randint(1, 40))


def spliced(draw, data):
    other = draw.choice(GOOD)
    begin, end = sorted(draw.randrange(len(other)) for _ in range(2))
    place = draw.randrange(len(data))
    return data[:place] + other[begin:end] + data[draw.choice((place, place + end - begin)) :]


def with_another_header_length(draw, data):
    length = draw.choice((*SIZES, len(data) - 8, len(data) - 7, draw.randrange(len(data)))) % 2**64
    return length.to_bytes(8, "little") + data[8:]


def with_another_header(draw, data):
    header, values = parts(data)
    for _ in range(draw.randint(1, 3)):
        header = altered(draw, header)
    return joined(header, values)


def with_other_claims(draw, data):
    header, values = parts(data)
    name = draw.choice(list(header))
    claim = draw.choice(("dtype", "shape", "data_offsets"))
    number = draw.choice((draw.randrange(64), *SIZES))
    header[name][claim] = {
        "dtype": draw.choice(("BOOL", "U8", "I64", "F16", "BF16", "F32", "F64", "C64", "F4", "")),
        "shape": [draw.choice((0, 1, number)) for _ in range(draw.randrange(10))],
        "data_offsets": draw.choice(([0, number], [number, number + 8], [number, 0], [-number, 8])),
    }[claim]
    return joined(header, values)


def with_a_key_twice(draw, data):
    header, values = parts(data)
    name = draw.choice(list(header))
    twin = draw.choice((header[name], altered(draw, header[name])))
    return joined(json.dumps(header).encode()[:-1] + f',"{name}":{json.dumps(twin)}}}'.encode(), values)


def with_another_skeleton(draw, data):
    """Break the tree inside sound bytes."""
    header, values = parts(data)
    begin, end = header["tree"]["data_offsets"]
    skeleton = json.loads(values[begin:end])
    for _ in range(draw.randint(1, 3)):
        skeleton = altered(draw, skeleton)
    return around(draw, header, values[:begin], skeleton, values[end:])


def around(draw, header, before, skeleton, after):
    text = json.dumps(skeleton).encode()
    if draw.random() < 0.1:
        text = text.replace(b'"', draw.choice((b"", b"'", b"\\")), draw.randint(1, 3))
    begin, old = header["tree"]["data_offsets"]
    header["tree"] = {"dtype": "U8", "shape": [len(text)], "data_offsets": [begin, begin + len(text)]}
    for entry in header.values():
        if entry["data_offsets"][0] >= old:
            entry["data_offsets"] = [place + len(text) - (old - begin) for place in entry["data_offsets"]]
    return joined(header, before + text + after)


def with_other_fields(draw, data):
    """A letter of sound bytes with one wrong field."""
    del data
    tensor = draw.choice(
        (
            torch.full((DIMENSION,), draw.choice((math.nan, math.inf, -math.inf, 3e38, 0.0))),
            torch.zeros(draw.choice((0, 1, DIMENSION, DIMENSION + 1))),
            torch.zeros(DIMENSION, 1),
            torch.zeros(DIMENSION, dtype=draw.choice((torch.float64, torch.int64, torch.bool, torch.bfloat16))),
            torch.zeros(()),
        )
    )
    field = draw.choice(("vector", "base", "buffers", "num_examples", "epochs", "batch_size", "round", "sender", "x"))
    tree = update_to_tree(letter(), with_base=True, with_digest=False)
    return codec.pack(tree | {field: draw.choice((tensor, *ATOMS, (tensor, tensor), {"a": tensor}))})


def random_bytes(draw, data):
    del data
    return draw.randbytes(draw.randrange(300))


def random_values_behind_a_good_header(draw, data):
    _, values = parts(data)
    return data[: -len(values)] + draw.randbytes(len(values))


MUTATIONS = (
    flipped_bits,
    other_characters,
    cut_off,
    with_trailing_bytes,
    spliced,
    with_another_header_length,
    with_another_header,
    with_other_claims,
    with_a_key_twice,
    with_another_skeleton,
    with_other_fields,
    random_bytes,
    random_values_behind_a_good_header,
)


def cases(mutate):
    for number in range(CASES):
        draw = random.Random(f"{mutate.__name__} {number}")
        yield number, mutate(draw, draw.choice(GOOD))


def received(data, *, with_base):
    """Return what a node takes from a peer's bytes: one accepted letter, or one rejection."""
    expected = Expectation(frozenset({SENDER}), ROUND, DIMENSION, BUFFERS, with_base=with_base)
    return screen([open_letter(SENDER, data, LARGEST)], expected)


@pytest.mark.parametrize("data", GOOD[:2])
def test_a_good_letter_gets_through(data):
    accepted, rejected = received(data, with_base=True)

    assert len(accepted) == 1
    assert rejected == ()


@pytest.mark.parametrize("mutate", MUTATIONS)
def test_no_broken_bytes_raise_anything_but_a_transport_error(mutate):
    for number, data in cases(mutate):
        try:
            with suppress(TransportError):
                codec.unpack(data, LARGEST)
        except Exception as error:
            raise AssertionError(f"case {number}: {data!r}") from error


@pytest.mark.parametrize("mutate", MUTATIONS)
def test_what_is_left_of_a_broken_letter_is_well_formed(mutate):
    for number, data in cases(mutate):
        with_base = number % 2 == 0
        accepted, rejected = received(data, with_base=with_base)

        assert len(accepted) + len(rejected) == 1, number
        for update in accepted:
            tensors = [(update.vector, DIMENSION), (update.buffers, BUFFERS)]
            tensors += [(update.base, DIMENSION)] if with_base else []
            for tensor, size in tensors:
                assert tensor.dtype == torch.float32, number
                assert tensor.shape == (size,), number
                assert torch.isfinite(tensor).all(), number
            assert (update.sender, update.round) == (SENDER, ROUND), number
            claims = (update.num_examples, update.epochs, update.batch_size)
            assert all(type(claim) is int and 0 < claim <= 2**53 for claim in claims), number
            assert with_base or update.base is None, number
            assert update.digest is None, number


def test_the_mutations_reach_every_layer():
    reached = Counter()
    for mutate in MUTATIONS:
        for _, data in cases(mutate):
            try:
                codec.unpack(data, LARGEST)
                reached[received(data, with_base=True)[1] or "accepted"] += 1
            except TransportError as refusal:
                reached[" ".join(str(refusal).split()[2:5])] += 1

    assert reached["accepted"] > 100
    assert len([rule for rule, count in reached.items() if count > 5]) > 25


def test_no_skeleton_makes_uniting_raise_anything_but_a_transport_error():
    tree = {"start": (torch.zeros(2), torch.zeros(0), ()), "state": {0: [torch.ones(1)], "x": None}, "seconds": 0.5}
    good, tensors = codec.split(tree)

    for number in range(5 * CASES):
        draw = random.Random(number)
        text = json.dumps(altered(draw, altered(draw, json.loads(good)))) if number % 2 else good
        changed = list(text)
        for _ in range(draw.randint(0, 3)):
            changed[draw.randrange(len(changed))] = draw.choice('0123456789"{}[]:,-.eNa \\\ud800')
        with suppress(TransportError):
            codec.unite("".join(changed), tensors)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("where", ["header", "shape", "offsets", "many"])
def test_a_claimed_size_is_refused_before_anything_of_that_size_is_allocated(size, where):
    header, values = parts(GOOD[0])
    size = size if size > 100 else 2**45 + size
    match where:
        case "header":
            data = size.to_bytes(8, "little") + GOOD[0][8:]
        case "shape":
            header["0"]["shape"] = [size]
            data = joined(header, values)
        case "offsets":
            header["0"] |= {"shape": [size // 4], "data_offsets": [0, size // 4 * 4]}
            data = joined(header, values)
        case _:
            header["0"] |= {"shape": [0, size, size], "data_offsets": [0, 0]}
            data = joined(header, values)

    assert peak_while_refusing(data) < 100_000


def unit(text, before="", after=""):
    """Return the text as often as a skeleton has room for it."""
    return before + text * ((2**20 - len(before) - len(after)) // len(text)) + after


BOMBS = {
    "depth": unit("["),
    "depth without end": unit('{"dict":[[1,'),
    "empty lists": unit("[],", '{"list":[', "[]]}"),
    "empty dicts": unit("{},", '{"list":[', "{}]}"),
    "empty tuples": unit('{"tuple":[]},', '{"list":[', "0]}"),
    "few tuples": '{"list":[' + '{"tuple":[]},' * 26_000 + "0]}",
    "keys": "{" + ",".join(f'"{key}":0' for key in range(80_000)) + "}",
    "one key": '{"dict":[' + "[1,0]," * 40_000 + "[1,0]]}",
    "keys of one hash": '{"dict":[' + ",".join(f"[{(2**61 - 1) * key},0]" for key in range(30_000)) + "]}",
    "one tensor": '{"list":[' + '{"tensor":0},' * 40_000 + '{"tensor":0}]}',
    "strings": unit('"ab",', '{"list":[', "0]}"),
    "an endless string": unit('\\"', '"'),
    "quotes": unit('"'),
    "backslashes": unit("\\"),
    "floats": unit("1.5,", '{"list":[', "0]}"),
    "a long float": unit("7", "0."),
    "a long integer": unit("9"),
    "long integers": unit("9" * 4_300 + ",", '{"list":[', "0]}"),
    "a long exponent": unit("9", "1e"),
    "spaces": unit(" "),
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("where", ["header", "skeleton"])
def test_text_made_to_grow_is_refused_in_bounded_memory(text, where):
    if where == "header":
        data = joined(text.encode(), b"")
    else:
        entries = {"dtype": "U8", "shape": [len(text)], "data_offsets": [0, len(text)]}
        first = {"dtype": "F32", "shape": [9_000], "data_offsets": [len(text), len(text) + 36_000]}
        data = joined({"tree": entries, "0": first}, text.encode() + bytes(36_000))

    assert peak_while_refusing(data) < 2 * len(data) + 24 * 2**20


def test_reading_a_large_letter_takes_one_copy_of_it():
    data = codec.pack(update_to_tree(letter(vector=torch.zeros(2**20)), with_base=True, with_digest=False))

    tracemalloc.start()
    try:
        codec.unpack(data, len(data))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 1.1 * len(data)


def peak_while_refusing(data):
    """Return the bytes that refusing the data took at most."""
    tracemalloc.start()
    try:
        with pytest.raises(TransportError):
            codec.unpack(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
