import pytest
import torch

from flower_dfl.training import ModelState
from flower_dfl.transport.base import Memory, update_from_tree, update_to_tree
from flower_dfl.transport.memory import MemoryTransport
from flower_dfl.types import Update


def letter(sender, round=1, value=0.0):
    return Update(sender, round, torch.full((2,), value))


def memory(value, half_step=None, round=1):
    return Memory(round, ModelState(torch.full((2,), value), torch.empty(0)), half_step, strategy_state=None)


def full_update():
    return Update(
        3, 7, torch.tensor([1.0, 2.0]), base=torch.tensor([0.0, 1.0]), buffers=torch.tensor([5.0]), num_examples=10,
        epochs=2, batch_size=4, digest=torch.ones(2, 2),
    )  # fmt: skip


def test_a_letter_reaches_its_receiver_and_nobody_else():
    transport, mine, yours = MemoryTransport(), letter(0, value=1.0), letter(0, value=2.0)
    transport.publish(0, 1, {1: mine, 2: yours})

    assert transport.collect(1, [(0, 1)]) == (mine,)
    assert transport.collect(2, [(0, 1)]) == (yours,)
    assert transport.collect(3, [(0, 1)]) == ()


def test_letters_are_collected_by_round_in_the_order_that_was_asked_for():
    transport = MemoryTransport()
    letters = {sender: letter(sender) for sender in (2, 0, 1)}
    for sender, sent in letters.items():
        transport.publish(sender, 1, {5: sent})
    transport.publish(0, 2, {5: letter(0, round=2)})

    assert transport.collect(5, [(0, 1), (2, 1)]) == (letters[0], letters[2])
    assert [u.round for u in transport.collect(5, [(0, 2), (1, 2), (2, 2)])] == [2]


def test_a_letter_that_never_came_is_simply_missing():
    assert MemoryTransport().collect(0, [(1, 1), (2, 1)]) == ()


def test_the_newest_memory_of_each_node_is_kept():
    transport, first, second, third = MemoryTransport(), memory(1.0), memory(2.0), memory(3.0, round=2)
    transport.commit(0, first, {}, "")
    transport.commit(1, second, {}, "")
    transport.commit(0, third, {}, "")

    assert transport.recall(0, 3) is third
    assert transport.recall(1, 3) is second
    assert transport.recall(2, 3) is None


def test_half_steps_come_in_order_and_only_of_those_who_take_part_in_the_round():
    transport, steps = MemoryTransport(), [letter(0), letter(1)]
    transport.commit(0, memory(0.0, steps[0]), {}, "")
    transport.commit(1, memory(0.0, steps[1]), {}, "")
    transport.commit(2, memory(0.0), {}, "")
    transport.commit(3, memory(0.0, letter(3, round=2), round=2), {}, "")

    assert transport.half_steps([1, 2, 0, 3, 4], 1) == (steps[1], steps[0])


@pytest.mark.parametrize("kept", [1, 2])
def test_letters_are_kept_for_as_long_as_they_can_arrive(kept):
    transport = MemoryTransport(rounds_kept=kept)

    for number in (1, 2, 3, 4):
        transport.commit(0, memory(0.0, round=number), {1: letter(0, number)}, "")

    found = transport.collect(1, [(0, number) for number in (1, 2, 3, 4)])
    assert [u.round for u in found] == [1, 2, 3, 4][3 - kept :]


def test_what_a_node_sent_can_be_read_by_receiver():
    transport, mine = MemoryTransport(), letter(0)
    transport.commit(0, memory(0.0), {1: mine}, "")

    assert transport.letters_of(0, 1) == {1: mine}
    assert transport.letters_of(1, 1) == {}


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
    kept = Memory(3, start, full_update(), {"momentum": (torch.ones(2), 0.5)}, (torch.tensor(4),), {"train": 1.25})

    again = Memory.from_tree(kept.to_tree())

    assert torch.equal(again.start.vector, start.vector)
    assert torch.equal(again.start.buffers, start.buffers)
    assert [int(b) for b in again.start.integer_buffers] == [3]
    assert torch.equal(again.half_step.base, start.vector)
    assert torch.equal(again.half_step.digest, kept.half_step.digest)
    assert again.strategy_state["momentum"][1] == 0.5
    assert [int(b) for b in again.integer_buffers] == [4]
    assert (again.round, again.seconds) == (3, {"train": 1.25})


def test_a_memory_without_half_step_survives_too():
    again = Memory.from_tree(memory(1.0).to_tree())

    assert again.half_step is None


def test_a_checkpoint_keeps_what_a_node_has_before_it_trains():
    start = ModelState(torch.zeros(2), torch.zeros(1), (torch.tensor(3),))
    kept = Memory(5, start, full_update(), "state", (torch.tensor(4),), {"train": 1.25})

    begun = kept.at_start()

    assert (begun.round, begun.half_step, begun.strategy_state) == (4, None, "state")
    assert begun.start is start
