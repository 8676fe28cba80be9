"""Which bit comes out of which number, and the forms a tensor may arrive in."""

from __future__ import annotations

import oracle
import pytest
import torch
from cases import specials
from compare import assert_same_bits
from torch._prims_common import suggest_memory_format

from binop.layout import memory_format

pytestmark = pytest.mark.every_backend

ops = torch.ops.binop
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", FLOATS)
def test_special_values(dtype: torch.dtype, device: str) -> None:
    values = specials(dtype)
    # 0, smallest normal, subnormal, max, inf, NaN, 1; then the same with a minus.
    wanted = [1, 1, 1, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0]
    x = values.reshape(1, -1, 1, 1)
    signs = ops.unpack(ops.pack(x.to(device)), len(values), torch.int8)
    assert ((signs.flatten().cpu() + 1) // 2).tolist() == wanted
    assert oracle.bits(values).tolist() == wanted


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_16_bit_pattern(dtype: torch.dtype, device: str) -> None:
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    x = x.reshape(1, 64, 32, 32)
    assert_same_bits(ops.pack(x.to(device)), oracle.packed(oracle.bits(x)))


def test_int8_weights(device: str) -> None:
    x = torch.randn(1, 256, 3, 3)
    weight = torch.arange(-128, 128, dtype=torch.int8).reshape(1, 256, 1, 1)
    one = torch.ones((), device=device)
    got = ops.binary_conv2d(x.to(device), weight.to(device), one, one)
    wanted = oracle.dot(oracle.bits(x), oracle.bits(weight), (1, 1), (0, 0), (1, 1), 1, 0)
    assert_same_bits(got, torch.from_numpy(wanted).float())


def test_negative_subnormals_when_the_cpu_flushes_them() -> None:
    x = torch.full((1, 32, 1, 1), -1e-42)
    supported = torch.set_flush_denormal(True)
    try:
        assert (x >= 0).all() == supported  # What the plain comparison makes of it.
        assert ops.pack(x).item() == 0
    finally:
        torch.set_flush_denormal(False)


def _forms(x: torch.Tensor) -> dict[str, torch.Tensor]:
    wide = x.repeat(1, 1, 2, 3)
    return {
        "sliced": wide[:, :, ::2, : x.shape[3]],
        "transposed": x.transpose(2, 3),
        "expanded-batch": x[:1].expand(3, -1, -1, -1),
        "expanded-channels": x[:, :1].expand(-1, 40, -1, -1),
        "channels-last-slice": x.contiguous(memory_format=torch.channels_last)[:, 3:36],
        "flipped": x.flip(3),
        "offset": x[1:],
    }


@pytest.mark.parametrize("form", list(_forms(torch.zeros(2, 40, 5, 6))))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strides(form: str, dtype: torch.dtype, device: str) -> None:
    x = _forms(torch.randn(2, 40, 5, 6).to(dtype).to(device))[form]
    weight = torch.randn(4, x.shape[1], 3, 3, device=device).transpose(2, 3)
    scale_a, scale_w = torch.tensor(0.3, device=device), torch.rand(8, device=device)[::2]
    copies = [t.cpu().contiguous() for t in (x, weight, scale_a, scale_w)]
    assert_same_bits(ops.pack(x), oracle.packed(oracle.bits(copies[0])))
    got = ops.binary_conv2d(x, weight, scale_a, scale_w, padding=[1, 1])
    wanted = oracle.dot(
        oracle.bits(copies[0]), oracle.bits(copies[1]), (1, 1), (1, 1), (1, 1), 1, 0
    )
    assert_same_bits(got, oracle.scaled(wanted, copies[2], copies[3], dtype))


@pytest.mark.parametrize("channels", [1, 31, 33, 40])
def test_dirty_tails_do_not_count(channels: int, device: str) -> None:
    x = torch.randn(2, channels, 5, 5, device=device)
    weight = torch.randn(4, channels, 3, 3, device=device)
    scale = torch.rand(4, device=device)
    clean_x, clean_w = ops.pack(x), ops.pack(weight)
    tail = -1 << (channels % 32)
    dirty_x, dirty_w = clean_x.clone(), clean_w.clone()
    dirty_x[..., -1] |= tail
    dirty_w[..., -1] |= tail
    assert_same_bits(
        ops.unpack(dirty_x, channels, torch.float32), ops.unpack(clean_x, channels, torch.float32)
    )
    threshold = torch.tensor([-3, 0, 1, 5], dtype=torch.int32, device=device)
    flip = torch.tensor([False, True, False, True], device=device)
    for pad_value in (-1, 0, 1):
        options = {"padding": [1, 1], "pad_value": pad_value}
        wanted = ops.binary_conv2d_packed(clean_x, clean_w, channels, scale, **options)
        bits = ops.binary_conv2d_threshold(clean_x, clean_w, channels, threshold, flip, **options)
        for a, b in ((dirty_x, clean_w), (clean_x, dirty_w), (dirty_x, dirty_w)):
            assert_same_bits(ops.binary_conv2d_packed(a, b, channels, scale, **options), wanted)
            got = ops.binary_conv2d_threshold(a, b, channels, threshold, flip, **options)
            assert_same_bits(got, bits)


@pytest.mark.parametrize("shape", [(0, 40, 3, 3), (2, 0, 3, 3), (2, 40, 0, 3)])
def test_packing_empty_tensors(shape: tuple[int, ...], device: str) -> None:
    packed = ops.pack(torch.empty(shape, device=device))
    assert packed.shape == (shape[0], shape[2], shape[3], (shape[1] + 31) // 32)
    assert ops.unpack(packed, shape[1], torch.float32).shape == shape


def test_the_memory_format_is_the_one_that_torch_sees() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(3000):
        sizes = torch.randint(0, 4, (4,), generator=generator).tolist()
        strides = torch.randint(0, 30, (4,), generator=generator).tolist()
        plain = torch.empty(sizes)
        for x in (
            torch.empty_strided(sizes, strides),
            plain,
            plain.contiguous(memory_format=torch.channels_last),
            plain.permute(*torch.randperm(4, generator=generator).tolist()),
        ):
            assert memory_format(x) == suggest_memory_format(x)
