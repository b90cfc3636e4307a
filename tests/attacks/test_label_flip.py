import torch
from hypothesis import given
from hypothesis import strategies as st

from flower_dfl.attacks.label_flip import LabelFlip
from flower_dfl.testing import craft
from flower_dfl.types import AttackContext, Knowledge, LabelledData

CONTEXT = AttackContext(3, 1, 10, frozenset({3}), {}, lr=0.1, seed=0)


def data(labels, num_classes=10):
    return LabelledData(torch.arange(float(len(labels)))[:, None], torch.tensor(labels), num_classes, (0.0, 1.0))


def test_labels_are_mirrored():
    flipped = LabelFlip().poison(data([0, 1, 4, 5, 9]), CONTEXT)

    assert flipped.labels.tolist() == [9, 8, 5, 4, 0]
    assert flipped.labels.dtype == torch.int64
    assert (flipped.num_classes, flipped.input_range) == (10, (0.0, 1.0))


def test_inputs_and_clean_labels_are_unchanged():
    clean = data([0, 1, 2])

    flipped = LabelFlip().poison(clean, CONTEXT)

    assert torch.equal(flipped.inputs, torch.tensor([[0.0], [1.0], [2.0]]))
    assert clean.labels.tolist() == [0, 1, 2]


@given(st.integers(1, 20).flatmap(lambda k: st.tuples(st.just(k), st.lists(st.integers(0, k - 1), min_size=1))))
def test_flipping_twice_is_the_identity(case):
    num_classes, labels = case
    clean = data(labels, num_classes)

    twice = LabelFlip().poison(LabelFlip().poison(clean, CONTEXT), CONTEXT)

    assert torch.equal(twice.labels, clean.labels)


def test_with_an_even_number_of_labels_none_keeps_its_meaning():
    flipped = LabelFlip().poison(data(list(range(10))), CONTEXT)

    assert not (flipped.labels == torch.arange(10)).any()


def test_it_follows_the_protocol_otherwise():
    honest, byzantine = torch.zeros(2, 3), torch.ones(1, 3)

    assert craft(LabelFlip(), honest, byzantine).tolist() == [1, 1, 1]
    assert LabelFlip().trigger is None
    assert LabelFlip.knowledge is Knowledge.LOCAL
