"""Every op against the slow oracle, to the bit, on every configuration of ``cases``."""

from __future__ import annotations

from functools import cache

import numpy
import oracle
import pytest
import torch
from cases import CASES, Case, can_pack
from compare import assert_same_bits

pytestmark = pytest.mark.every_backend

ops = torch.ops.binop
PACKED = [case for case in CASES if can_pack(case)]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_packed_case = pytest.mark.parametrize("case", PACKED, ids=lambda case: case.name)


@cache
def dots(case: Case) -> numpy.ndarray:
    x, weight, *_ = case.tensors()
    return oracle.dot(oracle.bits(x), oracle.bits(weight), **case.options)


def on(device: str, *tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.to(device) for tensor in tensors]


@each_case
def test_binary_conv2d(case: Case, device: str) -> None:
    x, weight, scale_a, scale_w = case.tensors()
    wanted = oracle.scaled(dots(case), scale_a, scale_w, case.dtype)
    got = ops.binary_conv2d(*on(device, x, weight, scale_a, scale_w), **case.options)
    assert_same_bits(got, wanted)
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    assert got.is_contiguous(memory_format=layout)


@each_case
def test_pack_and_unpack(case: Case, device: str) -> None:
    x = case.tensors()[0]
    x_bits = oracle.bits(x)
    packed = ops.pack(x.to(device))
    assert packed.is_contiguous()
    assert_same_bits(packed, oracle.packed(x_bits))
    signs = torch.from_numpy(2 * x_bits - 1)
    assert_same_bits(ops.unpack(packed, case.c, case.dtype), signs.to(case.dtype))
    assert_same_bits(ops.unpack(packed, case.c, torch.int8), signs.to(torch.int8))


@each_packed_case
@pytest.mark.parametrize("out_dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_binary_conv2d_packed(case: Case, out_dtype: torch.dtype, device: str) -> None:
    x, weight, scale_a, scale_w = on(device, *case.tensors())
    scale = scale_a * scale_w
    bias = torch.linspace(-2, 3, case.o)
    got = ops.binary_conv2d_packed(
        ops.pack(x),
        ops.pack(weight),
        case.c,
        scale,
        bias.to(device),
        **case.options,
        out_dtype=out_dtype,
    )
    one = torch.ones(())
    y = oracle.scaled(dots(case), one, scale.cpu(), torch.float32).numpy()
    wanted = torch.from_numpy(y + bias.numpy().reshape(1, -1, 1, 1)).to(out_dtype)
    assert_same_bits(got, wanted)
    assert got.is_contiguous(memory_format=torch.channels_last)


@each_packed_case
def test_binary_conv2d_threshold(case: Case, device: str) -> None:
    x, weight, *_ = on(device, *case.tensors())
    taps = (case.c // case.groups) * case.kernel[0] * case.kernel[1]
    # From always to never, through the middle of the range of dot.
    threshold = torch.linspace(-taps, taps + 1, case.o).to(torch.int32)
    if case.o > 2:
        threshold[1] = 0
    flip = torch.arange(case.o) % 2 == 1
    got = ops.binary_conv2d_threshold(
        ops.pack(x), ops.pack(weight), case.c, *on(device, threshold, flip), **case.options
    )
    above = dots(case) >= threshold.numpy().reshape(1, -1, 1, 1)
    wanted = oracle.packed((above ^ flip.numpy().reshape(1, -1, 1, 1)).astype(numpy.int64))
    assert_same_bits(got, wanted)


@pytest.mark.parametrize("clip", [0.0, 0.75, 1.0, float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_pack_with_mask(dtype: torch.dtype, clip: float, device: str) -> None:
    case = Case("mask", 37, 1, n=2, dtype=dtype)
    x = case.tensors()[0]
    scale_a = torch.tensor([-1.25])
    limit = numpy.float32(clip) * numpy.float32(1.25)
    x[0, 0, 0, 0], x[0, 0, 0, 1] = float(limit), -float(limit)  # The boundary passes.
    signs, mask = ops.pack_with_mask(*on(device, x, scale_a), clip)
    assert_same_bits(signs, oracle.packed(oracle.bits(x)))
    inside = numpy.abs(x.float().numpy()) <= limit
    assert_same_bits(mask, oracle.packed(inside.astype(numpy.int64)))


def test_the_oracle_is_a_convolution() -> None:
    """The oracle itself, against torch on values where float arithmetic is exact."""
    case = Case("check", 6, 4, h=6, w=7, stride=(2, 1), dilation=(1, 2), groups=2)
    x, weight, *_ = case.tensors()
    x_bits, w_bits = oracle.bits(x), oracle.bits(weight)
    wanted = torch.nn.functional.conv2d(
        torch.from_numpy(2 * x_bits - 1).double(),
        torch.from_numpy(2 * w_bits - 1).double(),
        None,
        case.stride,
        case.padding,
        case.dilation,
        case.groups,
    )
    assert torch.equal(torch.from_numpy(dots(case)).double(), wanted)
