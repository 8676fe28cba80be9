"""pack, pack_with_mask and unpack against the reference on the CPU, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from cases import sprinkle
from compare import assert_same_bits
from configurations import words

import binop  # noqa: F401  (registers the ops)

pytestmark = pytest.mark.cuda

_reference = torch.ops.binop
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)

# Channels around the word boundary; images whose size allows vectors of every length.
_SHAPES = [
    (2, c, *image)
    for c in (1, 3, 31, 32, 33, 64, 100, 128, 256, 512)
    for image in ((1, 1), (3, 3), (7, 7), (2, 5), (6, 6), (8, 12), (16, 16))
]

_LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "sliced": lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
    "sliced-rows": lambda x: torch.cat([x, x], 3)[..., : x.shape[3]],
    "shifted": lambda x: torch.cat([x.flatten(), x.flatten()[:1]])[1:].view_as(x),
    "shifted-channels_last": lambda x: (
        torch.cat([x.flatten(), x.flatten()[:1]])[1:]
        .view(x.shape[0], x.shape[2], x.shape[3], x.shape[1])
        .permute(0, 3, 1, 2)
    ),
    "expanded": lambda x: x[:1, :, :, :1].expand(x.shape),
}


def _values(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    if dtype is torch.int8:
        return torch.randint(-128, 128, shape, dtype=dtype)
    x = torch.randn(shape).to(dtype)
    sprinkle(x, torch.Generator().manual_seed(1))
    return x


@pytest.mark.parametrize("layout", list(_LAYOUTS))
@pytest.mark.parametrize("dtype", [*_FLOATS, torch.int8])
def test_pack(ops: ModuleType, dtype: torch.dtype, layout: str) -> None:
    for shape in _SHAPES:
        x = _values(shape, dtype)
        got = ops.pack(_LAYOUTS[layout](x.cuda()))
        assert_same_bits(got, _reference.pack(_LAYOUTS[layout](x)))
        assert got.is_contiguous()


@pytest.mark.parametrize("layout", list(_LAYOUTS))
@pytest.mark.parametrize("dtype", _FLOATS)
def test_pack_with_mask(ops: ModuleType, dtype: torch.dtype, layout: str) -> None:
    scales = [torch.tensor(v) for v in (0.5, -1.0, 0.0, float("inf"), float("nan"), 1e-42)]
    scales += [torch.tensor([0.7], dtype=d) for d in (torch.float16, torch.float64)]
    for i, shape in enumerate(_SHAPES):
        x = _values(shape, dtype)
        scale, clip = scales[i % len(scales)], (1.0, 0.3, float("inf"), 0.0, 1e300)[i % 5]
        x.view(-1)[0] = scale.abs().float() * clip  # the boundary passes
        wanted = _reference.pack_with_mask(_LAYOUTS[layout](x), scale, clip)
        got = ops.pack_with_mask(_LAYOUTS[layout](x.cuda()), scale.cuda(), clip)
        for ours, theirs in zip(got, wanted, strict=True):
            assert_same_bits(ours, theirs)


@pytest.mark.parametrize("dtype", _FLOATS)
def test_pack_decides_every_16_bit_pattern_and_the_edges_of_32(
    ops: ModuleType, dtype: torch.dtype
) -> None:
    if dtype is torch.float32:
        edges = torch.tensor([0, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000, 0x7F800001])
        bits = torch.cat([edges, edges - 2**31, torch.tensor([0x7FFFFFFF, -1])])
        x = bits.to(torch.int32).view(dtype)
    else:
        x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    for view in (x.view(1, -1, 1, 1), x.view(1, 1, 1, -1)):
        assert_same_bits(ops.pack(view.cuda()), _reference.pack(view))


@pytest.mark.parametrize("dtype", [*_FLOATS, torch.int8])
def test_unpack(ops: ModuleType, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for channels in (1, 3, 8, 31, 32, 33, 64, 100, 128, 512):
        for image in ((1, 1, 1), (2, 3, 5), (3, 8, 8)):
            packed = words(channels, *image, generator=generator)
            wanted = _reference.unpack(packed, channels, dtype)
            got = ops.unpack(packed.cuda(), channels, dtype)
            assert_same_bits(got, wanted)
            assert got.stride() == wanted.stride()


def test_empty_tensors_launch_nothing(ops: ModuleType) -> None:
    assert ops.pack(torch.empty(0, 40, 3, 3, device="cuda")).shape == (0, 3, 3, 2)
    assert ops.pack(torch.empty(2, 0, 3, 3, device="cuda")).shape == (2, 3, 3, 0)
    packed = torch.empty(0, 3, 3, 2, dtype=torch.int32, device="cuda")
    assert ops.unpack(packed, 40, torch.float16).shape == (0, 40, 3, 3)
