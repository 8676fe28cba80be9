"""Packing and unpacking on every path of the CPU library, against the reference."""

from __future__ import annotations

import pytest
import reference_ops
import torch
from cases import sprinkle
from compare import assert_same_bits
from configurations import words

from binop import fake

pytestmark = pytest.mark.usefixtures("cpu_path")

ops = torch.ops.binop
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8)


def values(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    if dtype is torch.int8:
        return torch.randint(-128, 128, shape, dtype=dtype)
    x = torch.randn(shape).to(dtype)
    sprinkle(x, torch.Generator().manual_seed(1))
    return x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 8, 31, 32, 33, 64, 100])
def test_pack(channels: int, dtype: torch.dtype) -> None:
    for size in ((7, 9), (1, 1), (8, 64), (3, 3), (1, 33)):
        x = values((2, channels, *size), dtype)
        for form in (
            x,
            x.contiguous(memory_format=torch.channels_last),
            x.transpose(2, 3),
            x.transpose(1, 2).contiguous().transpose(1, 2),
            x.repeat(1, 2, 1, 1)[:, ::2],
            x[:, :, :, ::2],
            x[:, :1].expand(-1, channels, -1, -1),
            x[1:],
        ):
            assert_same_bits(ops.pack(form), reference_ops.pack(form))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_16_bit_pattern(dtype: torch.dtype, channels_last: bool) -> None:
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    x = x.reshape(2, 64, 16, 32)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    assert_same_bits(ops.pack(x), reference_ops.pack(x))
    for clip in (0.0, 1e-7, 0.1, 1.0, 300.0, 1e30, float("inf")):
        args = (x, torch.tensor(-1.5), clip)
        for got, wanted in zip(
            ops.pack_with_mask(*args), reference_ops.pack_with_mask(*args), strict=True
        ):
            assert_same_bits(got, wanted)


@pytest.mark.parametrize("dtype", DTYPES[:-1])
@pytest.mark.parametrize("scale_dtype", DTYPES[:-1])
def test_pack_with_mask(scale_dtype: torch.dtype, dtype: torch.dtype) -> None:
    x = values((2, 45, 6, 7), dtype)
    for scale in (0.7, -0.0, 1e-6, float("nan"), float("inf"), -2.0):
        scale_a = torch.tensor([scale]).to(scale_dtype)
        for clip in (0.0, 0.33, 1.0, float("inf")):
            bound = clip * abs(scale_a.double().item())
            if bound == bound and bound < 1e4:
                x[0, 0, 0, :2] = torch.tensor([bound, -bound])  # near the boundary
            args = (x.contiguous(memory_format=torch.channels_last), scale_a, clip)
            for got, wanted in zip(
                ops.pack_with_mask(*args), reference_ops.pack_with_mask(*args), strict=True
            ):
                assert_same_bits(got, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 31, 32, 45, 96])
def test_unpack(channels: int, dtype: torch.dtype) -> None:
    packed = words(channels, 2, 5, 6, generator=torch.Generator().manual_seed(0))
    for form in (packed, packed[:, ::2], packed.transpose(1, 2)):
        got = ops.unpack(form, channels, dtype)
        wanted = reference_ops.unpack(form, channels, dtype)
        assert_same_bits(got, wanted)
        assert got.stride() == fake.unpack(form, channels, dtype).stride()


@pytest.mark.parametrize("shape", [(0, 40, 3, 3), (2, 0, 3, 3), (2, 40, 0, 3)])
def test_empty_tensors(shape: tuple[int, ...]) -> None:
    x = torch.empty(shape)
    packed = ops.pack(x)
    assert_same_bits(packed, reference_ops.pack(x))
    masked = ops.pack_with_mask(x, torch.ones(1), 1.0)
    assert [tuple(t.shape) for t in masked] == [packed.shape] * 2
    got = ops.unpack(packed, shape[1], torch.float32)
    wanted = fake.unpack(packed, shape[1], torch.float32)
    assert (got.shape, got.stride()) == (wanted.shape, wanted.stride())


def test_large_tensors_are_shared_by_threads() -> None:
    x = torch.randn(5, 70, 61, 63)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for form in (x, x.contiguous(memory_format=torch.channels_last)):
            assert_same_bits(ops.pack(form), reference_ops.pack(form))
        packed = ops.pack(x)
        assert torch.equal(ops.unpack(packed, 70, torch.float32), torch.where(x >= 0, 1.0, -1.0))
    finally:
        torch.set_num_threads(before)
