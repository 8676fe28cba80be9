"""Every path of the CPU library against the reference, to the bit, on shapes beyond cases.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import reference_ops
import torch
from cases import CASES, Case, can_pack
from compare import assert_same_bits
from configurations import TILED, packed_operands

pytestmark = pytest.mark.usefixtures("cpu_path")

ops = torch.ops.binop
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

SHAPES = [
    *TILED,
    Case("rows-of-7", 96, 40, h=7, w=7, n=2),  # tiles that end with the rows
    Case("rows-of-14", 32, 24, h=14, w=14),
    Case("rows-of-8", 64, 40, h=3, w=16),
    Case("part-vector", 64, 17, h=6, w=9),  # one vector of two, one lane of it
    Case("three-vectors", 64, 48, h=6, w=9),
    Case("wide-block", 32, 200, h=5, w=5),  # full blocks and a rest, in every path
    Case("one-output", 40, 1, h=9, w=9, n=2),
    Case("nibbles", 5, 33, h=8, w=8, n=2),  # not whole nibbles, not whole words
    Case("nibble-edge", 36, 20, h=6, w=6),
    Case("groups-of-3", 9, 12, h=8, w=8, n=2, groups=3),
    Case("groups-over-words", 128, 132, h=5, w=6, n=2, groups=2),  # 66 a group: words are shared
    Case("groups-dilated", 64, 64, h=9, w=9, groups=2, padding=(2, 2), dilation=(2, 2)),
    Case("depthwise", 70, 70, h=6, w=6, groups=70),
    Case("17x1", 33, 9, h=20, w=3, kernel=(17, 1), padding=(8, 0)),
    Case("all-padding", 40, 40, h=1, w=1, padding=(9, 9)),  # most pixels see padding alone
]
each_shape = pytest.mark.parametrize("case", SHAPES, ids=lambda case: case.name)
each_pad_value = pytest.mark.parametrize("pad_value", [-1, 0, 1])


def options(case: Case) -> list[object]:
    return [case.stride, case.padding, case.dilation, case.groups, case.pad_value]


def check_float(case: Case, tensors: tuple[torch.Tensor, ...]) -> None:
    wanted = reference_ops.binary_conv2d(*tensors, *options(case))
    got = ops.binary_conv2d(*tensors, *options(case))
    assert_same_bits(got, wanted)
    assert got.stride() == wanted.stride()


@each_pad_value
@each_shape
def test_float(case: Case, pad_value: int) -> None:
    seed = SHAPES.index(case)
    dtype, channels_last = FLOATS[seed % 4], seed % 8 < 4
    case = replace(case, pad_value=pad_value, dtype=dtype, channels_last=channels_last)
    check_float(case, case.tensors(seed))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_dtype_and_layout(dtype: torch.dtype, channels_last: bool) -> None:
    for c, o, size in ((64, 72, 13), (35, 41, 12), (3, 16, 20)):
        case = Case("", c, o, h=size, w=size, n=2, dtype=dtype, channels_last=channels_last)
        check_float(case, case.tensors())


@each_pad_value
@each_shape
def test_packed(case: Case, pad_value: int) -> None:
    if not can_pack(case):
        case = replace(case, c=32 * case.groups)
    seed = SHAPES.index(case) if case in SHAPES else 0
    case = replace(case, pad_value=pad_value)
    x, weight = packed_operands(case, seed)
    scale = torch.randn(case.o if seed % 3 else 1)
    bias = torch.randn(case.o) if seed % 2 else None
    args = [x, weight, case.c, scale, bias, *options(case), FLOATS[seed % 4]]
    wanted = reference_ops.binary_conv2d_packed(*args)
    got = ops.binary_conv2d_packed(*args)
    assert_same_bits(got, wanted)
    assert got.stride() == wanted.stride()


@each_pad_value
@pytest.mark.parametrize("case", [*SHAPES, *CASES], ids=lambda case: f"{case.name}-{case.c}")
def test_threshold(case: Case, pad_value: int) -> None:
    if not can_pack(case):
        case = replace(case, c=32 * case.groups)
    case = replace(case, pad_value=pad_value)
    x, weight = packed_operands(case)
    threshold = torch.randint(-40, 40, (case.o,), dtype=torch.int32)
    threshold[::7] = torch.iinfo(torch.int32).min
    threshold[3::7] = torch.iinfo(torch.int32).max
    flip = torch.rand(case.o) < 0.5
    args = [x, weight, case.c, threshold, flip, *options(case)]
    assert_same_bits(
        ops.binary_conv2d_threshold(*args), reference_ops.binary_conv2d_threshold(*args)
    )


@pytest.mark.parametrize("channels", [70_000, 2**18 + 5])
def test_sums_beyond_16_bits(channels: int) -> None:
    x, weight = torch.randn(1, channels, 1, 2), torch.randn(3, channels, 1, 1)
    # The extremes, too: all alike, and all different.
    x[0, :, 0, 1] = torch.where(weight[0, :, 0, 0] >= 0, 1.0, -1.0)
    weight[1] = -weight[0]
    one = torch.ones(())
    got = ops.binary_conv2d(x, weight, one, one)
    assert_same_bits(got, reference_ops.binary_conv2d(x, weight, one, one))
    assert got[0, :2, 0, 1].tolist() == [channels, -channels]


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_layers_on_threads(count: int) -> None:
    """Large enough for a team, for several passes over the batch, and for rests of both."""
    with threads(count):
        for c, o, size, n in (
            (64, 64, 56, 1),
            (128, 100, 28, 4),
            (512, 512, 7, 1),
            (512, 4, 56, 7),
        ):
            case = Case("", c, o, h=size, w=size, n=n)
            x, weight = packed_operands(case)
            one = torch.ones(1)
            args = [x, weight, c, one, None, *options(case)]
            assert_same_bits(
                ops.binary_conv2d_packed(*args), reference_ops.binary_conv2d_packed(*args)
            )
            x = ops.unpack(x, c, torch.float32)
            weight = ops.unpack(weight, c, torch.float32)
            for layout in (torch.contiguous_format, torch.channels_last):
                x = x.contiguous(memory_format=layout)
                check_float(case, (x, weight, one, one))
        case = Case("", 64, 100, h=40, w=40, n=2, groups=2)  # blocks share words of the output
        x, weight = packed_operands(case)
        zeros = torch.zeros(case.o, dtype=torch.int32)
        args = [x, weight, case.c, zeros, zeros > 0, *options(case)]
        assert_same_bits(
            ops.binary_conv2d_threshold(*args), reference_ops.binary_conv2d_threshold(*args)
        )


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("x_dtype", FLOATS)
def test_scales_of_any_dtype(x_dtype: torch.dtype, dtype: torch.dtype) -> None:
    case = Case("scales", 40, 9, dtype=x_dtype)
    x, weight, *_ = case.tensors()
    scale_a = torch.tensor([0.3], dtype=dtype)
    for count in (1, 9):
        check_float(case, (x, weight, scale_a, (torch.randn(count) * 1e-3).to(dtype)))


@pytest.mark.parametrize("dtype", FLOATS)
def test_scales_that_make_subnormals_zeros_and_infinities(dtype: torch.dtype) -> None:
    case = Case("extremes", 63, 8, n=2, padding=(0, 0), dtype=dtype)  # no dot of 0: no NaN
    x, weight, *_ = case.tensors()
    scale_w = torch.tensor([1e-38, -1e-38, 1e-45, 0.0, -0.0, 3e38, -3e38, 1e-9])
    for scale_a in (1.0, 1e-3, -2.0, 1e-20, 3e-6, 65504.0):
        check_float(case, (x, weight, torch.tensor(scale_a), scale_w))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_to_16_bits(dtype: torch.dtype) -> None:
    """Products all over the range of the type, ties among them."""
    x = torch.ones(1, 32, 1, 1, dtype=dtype)
    weight = torch.ones(4096, 32, 1, 1)
    patterns = torch.randint(-(2**31), 2**31, (4096,)).to(torch.int32)
    patterns[::2] &= -(2**12)  # few low bits: ties
    scale = patterns.view(torch.float32)
    scale = torch.where(torch.isfinite(scale), scale, 1.0)
    one = torch.full((), 1 / 32)
    check_float(Case("", 32, 4096, padding=(0, 0)), (x, weight, one, scale))


def test_strided_operands() -> None:
    case = Case("strided", 64, 16, h=6, w=7, n=2)
    x, weight, scale_a, scale_w = case.tensors()
    wide = torch.randn(2, 128, 12, 7)
    wide[:, ::2, ::2] = x
    every_other = torch.stack([scale_w, scale_w + 1], 1).flatten()[::2]
    check_float(case, (wide[:, ::2, ::2], weight, scale_a, every_other))
    check_float(case, (x, weight.transpose(2, 3), scale_a, scale_w[:1].expand(16)))
    packed_x, packed_weight = packed_operands(case)
    turned = packed_x.transpose(1, 2).contiguous().transpose(1, 2)
    args = [packed_weight, case.c, scale_w, every_other, *options(case)]
    wanted = reference_ops.binary_conv2d_packed(packed_x, *args)
    assert_same_bits(ops.binary_conv2d_packed(turned, *args), wanted)


def test_packed_operands_at_any_address() -> None:
    case = Case("offset", 128, 16, h=6, w=6, n=2)
    x, weight = packed_operands(case)
    scale = torch.ones(1)
    for padding in ((0, 0), (1, 1)):
        wanted = ops.binary_conv2d_packed(x, weight, case.c, scale, padding=padding)
        for skipped in (1, 2, 3):
            moved = [
                torch.zeros(t.numel() + skipped, dtype=torch.int32)[skipped:].view_as(t).copy_(t)
                for t in (x, weight)
            ]
            got = ops.binary_conv2d_packed(*moved, case.c, scale, padding=padding)
            assert_same_bits(got, wanted)
