"""``binary_conv2d`` into packed convolutions; packs shared, and concatenations of words."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, Case, can_pack
from compare import assert_same_bits
from harness import rewrite, rewrite_training
from torch import Tensor, nn

import binop
from binop.functional import binary_conv2d

pytestmark = pytest.mark.compile
ops = torch.ops.binop

# One of each kind: what differs for the rewrite, not for the sums.
NAMES = {
    *("channels33", "1x1-padded", "stride3x2", "dilation2", "groups2", "groups-words", "batch3"),
    *("one-pixel", "5x5-pad+1", "float16-nhwc", "bfloat16-nchw", "float64-nchw", "empty-batch"),
}


@pytest.mark.parametrize("case", [c for c in CASES if c.name in NAMES], ids=lambda c: c.name)
def test_every_kind_of_convolution(case: Case, device: str) -> None:
    tensors = [t.to(device) for t in case.tensors()]

    def call(*tensors: Tensor) -> Tensor:
        return binary_conv2d(*tensors, **case.options)

    wanted = call(*tensors)
    got = rewrite(call, *tensors)
    assert_same_bits(got.output, wanted)
    assert got.output.stride() == wanted.stride()
    packs = can_pack(case) and case.dtype is not torch.float64
    assert got.counts["packed"] == int(packs)
    if not packs:
        assert any("whole words" in r or "float64" in r for r in got.reasons)


def test_the_names_exist() -> None:
    assert {case.name for case in CASES} >= NAMES


@pytest.mark.parametrize("scale_a", [torch.tensor(0.3), torch.tensor([1.7]), None])
@pytest.mark.parametrize("scale_w", [torch.rand(5), torch.rand(1), torch.tensor(0.9), None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_scales_are_one_float32_product(
    scale_a: Tensor | None, scale_w: Tensor | None, dtype: torch.dtype
) -> None:
    x, weight = torch.randn(2, 8, 5, 5), torch.randn(5, 8, 3, 3)
    scales = [None if s is None else s.to(dtype) for s in (scale_a, scale_w)]

    def call(x: Tensor, weight: Tensor) -> Tensor:
        return binary_conv2d(x, weight, *scales)

    for arguments in ((x, weight), (x, weight.to(torch.int8))):
        got = rewrite(call, *arguments)
        assert_same_bits(got.output, call(*arguments))
        assert got.counts["packed"] == 1


def test_a_scale_that_is_computed_in_16_bits_stays() -> None:
    """Inductor would hand its 32-bit intermediate to the product."""
    x, weight = torch.randn(2, 8, 5, 5).half(), torch.randn(5, 8, 3, 3).half()

    def call(x: Tensor, weight: Tensor) -> Tensor:
        return binary_conv2d(x, weight, None, weight.abs().mean((1, 2, 3)))

    got = rewrite(call, x, weight)
    assert got.counts["packed"] == 0
    assert got.reasons == ["scale_w is computed in torch.float16"]


def test_two_readers_share_a_pack() -> None:
    one, other = (binop.nn.BinaryConv2d(40, 6, k, padding=k // 2) for k in (1, 3))

    def call(x: Tensor) -> Tensor:
        return one(x) + other(x)

    x = torch.randn(2, 40, 6, 6)
    got = rewrite(call, x)
    assert torch.equal(got.output, call(x))
    assert got.counts["packed"] == 2
    assert got.counts["pack shared"] == 1


@pytest.mark.parametrize("pieces", [(32, 64, 5), (64, 32)])
def test_cat_of_words(pieces: tuple[int, ...]) -> None:
    conv = binop.nn.BinaryConv2d(sum(pieces), 6, 3)

    def call(*tensors: Tensor) -> Tensor:
        return conv(torch.cat([t.relu() - 1 for t in tensors], 1))

    tensors = [torch.randn(2, c, 6, 6) for c in pieces]
    got = rewrite(call, *tensors)
    assert torch.equal(got.output, call(*tensors))
    assert got.counts["cat of words"] == 1


def test_a_dense_block_packs_each_piece_once() -> None:
    layers = nn.ModuleList(binop.nn.BinaryConv2d(32 * n, 32, 3, padding=1) for n in (1, 2, 3))

    def call(x: Tensor) -> Tensor:
        for layer in layers:
            x = torch.cat([x, layer(x)], 1)
        return x

    x = torch.randn(2, 32, 6, 6)
    got = rewrite(call, x)
    assert torch.equal(got.output, call(x))
    assert got.counts["cat of words"] == 3  # 2 layers, and one concatenation inside another
    assert got.after.count("binop.pack.default") == 3 + 3  # 3 pieces, 3 weights


def test_cat_of_half_words_stays() -> None:
    conv = binop.nn.BinaryConv2d(48, 6, 3)

    def call(a: Tensor, b: Tensor) -> Tensor:
        return conv(torch.cat([a, b], 1))

    tensors = [torch.randn(2, c, 6, 6) for c in (16, 32)]
    got = rewrite(call, *tensors)
    assert torch.equal(got.output, call(*tensors))
    assert got.counts["cat of words"] == 0


@pytest.mark.parametrize("clip", [1.0, float("inf")])
def test_training_saves_and_shares_packed_words(clip: float) -> None:
    conv = binop.nn.BinaryConv2d(64, 32, 3, padding=1, clip=clip, bias=False)
    x = torch.randn(2, 64, 8, 8, requires_grad=True)
    got = rewrite_training(conv, x)
    assert torch.equal(got.output, conv(x))
    assert got.counts["packed"] == 1
    readers = [line for line in got.after.splitlines() if "pack" in line and "primals_2" in line]
    assert len(readers) == 1, got.after
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        rewrite_training(conv, x).output.sum().backward()
    assert sum(t.numel() * t.element_size() for t in saved if t.shape[0] == 2) <= 2 * x.numel() // 8
    weights = [t for t in saved if t.shape == conv.weight.shape]
    assert len(saved) > 0
    assert len(weights) <= 1
