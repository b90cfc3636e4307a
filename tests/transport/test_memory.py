import pytest
import torch

from flower_dfl.training import ModelState
from flower_dfl.transport.base import Memory, update_from_tree, update_to_tree
from flower_dfl.transport.memory import MemoryTransport
from flower_dfl.types import Update


def letter(sender, round=1, value=0.0):
    return Update(sender, round, torch.full((2,), value))


def memory(value, half_step=None):
    return Memory(ModelState(torch.full((2,), value), torch.empty(0)), half_step, strategy_state=None)


def full_update():
    return Update(
        3, 7, torch.tensor([1.0, 2.0]), base=torch.tensor([0.0, 1.0]), buffers=torch.tensor([5.0]), num_examples=10,
        epochs=2, batch_size=4, digest=torch.ones(2, 2),
    )  # fmt: skip


def test_a_letter_reaches_its_receiver_and_nobody_else():
    transport, mine, yours = MemoryTransport(), letter(0, value=1.0), letter(0, value=2.0)
    transport.publish(0, 1, {1: mine, 2: yours})

    assert transport.collect(1, 1, [0]) == (mine,)
    assert transport.collect(2, 1, [0]) == (yours,)
    assert transport.collect(3, 1, [0]) == ()


def test_letters_are_collected_by_round_in_the_order_that_was_asked_for():
    transport = MemoryTransport()
    letters = {sender: letter(sender) for sender in (2, 0, 1)}
    for sender, sent in letters.items():
        transport.publish(sender, 1, {5: sent})
    transport.publish(0, 2, {5: letter(0, round=2)})

    assert transport.collect(5, 1, [0, 2]) == (letters[0], letters[2])
    assert [u.round for u in transport.collect(5, 2, [0, 1, 2])] == [2]


def test_a_letter_that_never_came_is_simply_missing():
    assert MemoryTransport().collect(0, 1, [1, 2]) == ()


def test_a_memory_is_kept_by_node_and_round():
    transport, first, second = MemoryTransport(), memory(1.0), memory(2.0)
    transport.remember(0, 1, first)
    transport.remember(1, 1, second)

    assert transport.recall(0, 1) is first
    assert transport.recall(1, 1) is second


def test_half_steps_come_in_order_and_only_where_there_is_one():
    transport, steps = MemoryTransport(), [letter(0), letter(1)]
    transport.remember(0, 1, memory(0.0, steps[0]))
    transport.remember(1, 1, memory(0.0, steps[1]))
    transport.remember(2, 1, memory(0.0))

    assert transport.half_steps([1, 2, 0], 1) == (steps[1], steps[0])


def test_only_the_current_and_the_previous_round_are_kept():
    transport = MemoryTransport()
    for number in (1, 2, 3):
        transport.publish(0, number, {1: letter(0, number)})
        transport.remember(0, number, memory(float(number)))

    assert transport.collect(1, 1, [0]) == ()
    assert [u.round for r in (2, 3) for u in transport.collect(1, r, [0])] == [2, 3]
    assert transport.recall(0, 2).start.vector.tolist() == [2, 2]
    with pytest.raises(KeyError):
        transport.recall(0, 1)


def test_an_update_survives_as_a_tree():
    update = full_update()

    again = update_from_tree(update_to_tree(update, with_base=True, with_digest=True))

    for name in ("sender", "round", "num_examples", "epochs", "batch_size"):
        assert getattr(again, name) == getattr(update, name)
    for name in ("vector", "base", "buffers", "digest"):
        assert torch.equal(getattr(again, name), getattr(update, name))


def test_base_and_digest_travel_only_where_they_are_asked_for():
    assert {"base", "digest"} - update_to_tree(full_update(), with_base=False, with_digest=False).keys() == {
        "base",
        "digest",
    }
    assert "base" not in update_to_tree(letter(0), with_base=True, with_digest=True)


@pytest.mark.parametrize("tree", [{}, {"sender": 1}, {"sender": 1, "round": 1, "vector": 1, "colour": 2}, [1], None])
def test_a_tree_with_other_keys_is_a_type_error(tree):
    with pytest.raises(TypeError):
        update_from_tree(tree)


def test_a_memory_survives_as_a_tree_and_its_half_step_gets_the_start_as_base():
    start = ModelState(torch.tensor([0.0, 1.0]), torch.tensor([5.0]), (torch.tensor(3),))
    kept = Memory(start, full_update(), {"momentum": (torch.ones(2), 0.5)}, train_seconds=1.25)

    again = Memory.from_tree(kept.to_tree())

    assert torch.equal(again.start.vector, start.vector)
    assert torch.equal(again.start.buffers, start.buffers)
    assert [int(b) for b in again.start.integer_buffers] == [3]
    assert torch.equal(again.half_step.base, start.vector)
    assert torch.equal(again.half_step.digest, kept.half_step.digest)
    assert again.strategy_state["momentum"][1] == 0.5
    assert again.train_seconds == 1.25


def test_a_memory_without_half_step_survives_too():
    again = Memory.from_tree(memory(1.0).to_tree())

    assert again.half_step is None
