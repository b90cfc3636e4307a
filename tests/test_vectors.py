import pytest
import torch
from torch import nn

from flower_dfl.vectors import (
    all_finite,
    float_buffers,
    integer_buffers,
    load_buffers,
    load_parameters,
    parameter_vector,
)


class Net(nn.Module):
    """Four trainable values, two frozen ones, BatchNorm's buffers, and a buffer of each other kind."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, 2.0]]))
        self.frozen = nn.Parameter(torch.tensor([9.0, 9.0]), requires_grad=False)
        self.bias = nn.Parameter(torch.tensor([3.0, 4.0]))
        self.register_buffer("mean", torch.tensor([[5.0], [6.0]]))
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("mask", torch.tensor([True, False]))


def batch_norm():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    net(torch.randn(8, 3))
    return net


def test_the_vector_lists_trainable_parameters_in_order_and_leaves_frozen_ones_out():
    vector = parameter_vector(Net())

    assert vector.tolist() == [1, 2, 3, 4]
    assert vector.dtype == torch.float32
    assert not vector.requires_grad


def test_float_buffers_are_flat_and_integer_buffers_keep_their_shapes():
    net = Net()

    assert float_buffers(net).tolist() == [5, 6]
    assert [b.tolist() for b in integer_buffers(net)] == [7, [True, False]]


def test_a_module_without_buffers_has_empty_ones():
    net = nn.Linear(2, 1)

    assert float_buffers(net).shape == (0,)
    assert integer_buffers(net) == ()


def test_what_is_taken_out_is_a_copy():
    net = Net()
    vector, floats, (steps, _) = parameter_vector(net), float_buffers(net), integer_buffers(net)

    with torch.no_grad():
        net.weight.zero_()
    net.mean.zero_()
    net.steps.zero_()

    assert vector.tolist() == [1, 2, 3, 4]
    assert floats.tolist() == [5, 6]
    assert steps.item() == 7


def test_a_single_parameter_is_copied_too():
    net = nn.Linear(2, 1, bias=False)
    vector = parameter_vector(net)
    before = vector.clone()

    with torch.no_grad():
        net.weight.add_(1)

    assert torch.equal(vector, before)


def test_a_batch_norm_module_survives_the_round_trip():
    source, target = batch_norm(), batch_norm()
    with torch.no_grad():
        for tensor in target.state_dict().values():
            tensor.zero_()

    load_parameters(target, parameter_vector(source))
    load_buffers(target, float_buffers(source), integer_buffers(source))

    assert all(torch.equal(source.state_dict()[key], value) for key, value in target.state_dict().items())
    assert int(target[1].num_batches_tracked) == 1


def test_a_later_change_of_the_vector_does_not_reach_the_module():
    net, vector = Net(), torch.zeros(4)

    load_parameters(net, vector)
    vector += 1

    assert parameter_vector(net).tolist() == [0, 0, 0, 0]


def test_loading_leaves_frozen_parameters_alone():
    net = Net()

    load_parameters(net, torch.zeros(4))

    assert net.frozen.tolist() == [9, 9]
    assert net.weight.requires_grad


def test_integer_buffers_may_be_left_as_they_are():
    net = Net()

    load_buffers(net, torch.tensor([1.0, 2.0]), ())

    assert net.mean.tolist() == [[1], [2]]
    assert net.steps.item() == 7


@pytest.mark.parametrize("shape", [(3,), (5,), (4, 1), (0,), ()])
def test_a_vector_of_the_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"expected a flat tensor of 4 values, got shape \("):
        load_parameters(Net(), torch.zeros(shape))


def test_float_buffers_of_the_wrong_size_are_refused():
    with pytest.raises(ValueError, match="expected a flat tensor of 2 values"):
        load_buffers(Net(), torch.zeros(3), ())


def test_a_wrong_number_of_integer_buffers_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        load_buffers(Net(), torch.zeros(2), (torch.tensor(1),))


@pytest.mark.parametrize("values", [[], [1.0, -2.0], [3e38] * 9, [-3e38] * 9, [3e38, -3e38] * 5])
def test_finite_values_are_all_finite_also_where_their_sum_is_not(values):
    assert all_finite(torch.tensor(values))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 70_000, -1])
def test_one_value_that_is_not_finite_is_found_wherever_it_stands(bad, place):
    values = torch.ones(100_000)
    values[place] = bad

    assert not all_finite(values)


def test_opposite_infinities_do_not_cancel():
    assert not all_finite(torch.tensor([float("inf"), -float("inf")]))
