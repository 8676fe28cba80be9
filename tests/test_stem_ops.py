"""``stem_conv2d`` and ``stem_conv2d_threshold`` against loops over integers and numpy's scalars."""

from __future__ import annotations

import numpy
import oracle
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

ops = torch.ops.binop
STRIDE, PADDING = [2, 1], [1, 2]
HALVES = [torch.bfloat16, torch.float16]


def operands(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.randint(-3, 4, (2, 3, 7, 5)).to(dtype),
        torch.randint(-3, 4, (9, 3, 3, 2)).to(dtype),
        torch.randint(-3, 4, (9,)).to(dtype),
    )


def sums(x: Tensor, weight: Tensor, bias: Tensor) -> numpy.ndarray:
    """Integers, tap by tap."""
    padded = numpy.pad(
        x.float().numpy(), ((0, 0), (0, 0), (PADDING[0],) * 2, (PADDING[1],) * 2)
    ).astype(int)
    taps = weight.float().numpy().astype(int)
    rows = (padded.shape[2] - taps.shape[2]) // STRIDE[0] + 1
    columns = (padded.shape[3] - taps.shape[3]) // STRIDE[1] + 1
    result = numpy.zeros((x.shape[0], len(taps), rows, columns), int)
    for n, o, p, q in numpy.ndindex(*result.shape):
        top, left = p * STRIDE[0], q * STRIDE[1]
        window = padded[n, :, top : top + taps.shape[2], left : left + taps.shape[3]]
        result[n, o, p, q] = (window * taps[o]).sum() + int(bias[o])
    return result


@pytest.mark.parametrize("dtype", HALVES)
def test_equals_scalar_arithmetic(dtype: torch.dtype) -> None:
    x, weight, bias = operands(dtype)
    y = torch.from_numpy(sums(x, weight, bias)).to(dtype)  # (one rounding: they are below 2**11)
    assert torch.equal(ops.stem_conv2d(x, weight, bias, None, False, STRIDE, PADDING), y)
    norm = torch.randn(4, 9)
    wanted = torch.empty(y.shape)
    for index in numpy.ndindex(*y.shape):
        mean, inverse, gamma, beta = norm[:, index[1]].numpy()
        value = (numpy.float32(y[index].item()) - mean) * inverse * gamma + beta
        wanted[index] = float(max(value, numpy.float32(0)))
    got = ops.stem_conv2d(x, weight, bias, norm, True, STRIDE, PADDING)
    assert torch.equal(got, wanted.to(dtype))
    assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", HALVES)
def test_bits_are_those_of_an_interval(dtype: torch.dtype) -> None:
    x, weight, bias = operands(dtype)
    y = torch.from_numpy(sums(x, weight, bias)).to(dtype)
    infinity, nan = float("inf"), float("nan")
    low = torch.tensor([-infinity, -3.0, -3.0, 2.0, -infinity, nan, 0.0, infinity, 1.0])
    high = torch.tensor([4.0, infinity, 3.0, 2.0, infinity, 1.0, nan, infinity, -1.0])
    bits = [[low[o] <= value <= high[o] for value in y[:, o].flatten().tolist()] for o in range(9)]
    shape = (9, y.shape[0], *y.shape[2:])
    wanted = torch.tensor(bits).reshape(shape).movedim(0, 1).numpy()
    got = ops.stem_conv2d_threshold(x, weight, bias, low, high, STRIDE, PADDING)
    assert torch.equal(got, oracle.packed(wanted))


def test_nan_has_no_bit_and_infinities_are_values() -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0]).half().reshape(1, 1, 2, 2)
    weight, infinity = torch.ones(2, 1, 1, 1).half(), float("inf")
    low, high = torch.tensor([-infinity, 0.0]), torch.tensor([infinity, infinity])
    got = ops.stem_conv2d_threshold(x, weight, None, low, high, [1, 1], [0, 0])
    assert got.flatten().tolist() == [0b00, 0b11, 0b01, 0b11]


def test_vmap_and_flops() -> None:
    x, weight, bias = operands(torch.bfloat16)
    low = torch.zeros(9)
    rest = (STRIDE, PADDING)
    for op, arguments in (
        (ops.stem_conv2d, (weight, bias, None, False, *rest)),
        (ops.stem_conv2d_threshold, (weight, bias, low, low, *rest)),
    ):
        mapped = torch.vmap(lambda one: op(one, *arguments))(x.unsqueeze(1))  # noqa: B023
        with FlopCounterMode(display=False) as counter:
            whole = op(x, *arguments)
        assert torch.equal(mapped.flatten(0, 1), whole)
        assert counter.get_total_flops() == 2 * (2 * 9 * 4 * 8) * (3 * 3 * 2)
