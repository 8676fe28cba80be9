"""vmap, FLOP counting, deep copies of calls under other torch machinery."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import binop

ops = torch.ops.binop
STACKED = (torch.Size([3, 2, 40, 7, 9]), torch.Size([3, 8, 20, 3, 3]))


def _call(x: torch.Tensor, w: torch.Tensor, a: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    return binop.functional.binary_conv2d(x, w, a, s, padding="same", groups=2, pad_value=1)


@pytest.mark.parametrize(
    "in_dims",
    [
        (0, None, None, None),  # a batch of batches
        (2, None, None, None),  # mapped over another dimension
        (None, 0, None, 0),  # an ensemble on the same input
        (0, 0, None, 0),  # an ensemble, each on its own
        (None, 0, None, None),
        (None, None, None, 0),
        (0, 0, 0, 0),  # does not fold: one by one
        (None, None, 0, None),
    ],
)
@pytest.mark.parametrize("scale_shape", [(8,), ()])
def test_vmap(in_dims: tuple[int | None, ...], scale_shape: tuple[int, ...]) -> None:
    stacked = [torch.randn(size) for size in STACKED]
    stacked += [torch.rand(3), torch.rand(3, *scale_shape)]
    arguments = [
        t[0] if dim is None else t.movedim(0, dim) for t, dim in zip(stacked, in_dims, strict=True)
    ]
    got = torch.vmap(_call, in_dims=in_dims)(*arguments)
    each = [
        _call(*(t[0] if dim is None else t[i] for t, dim in zip(stacked, in_dims, strict=True)))
        for i in range(3)
    ]
    assert torch.equal(got, torch.stack(each))


def test_vmap_of_an_empty_batch() -> None:
    x, weight, one = torch.randn(3, 0, 8, 5, 5), torch.randn(4, 8, 3, 3), torch.ones(())
    y = torch.vmap(lambda x: ops.binary_conv2d(x, weight, one, one))(x)
    assert y.shape == (3, 0, 4, 3, 3)


def test_vmap_of_the_packed_ops() -> None:
    x, weight = torch.randn(3, 2, 40, 5, 5), torch.randn(4, 40, 3, 3)
    scale = torch.rand(3, 4)
    packed = torch.vmap(ops.pack)(x)
    assert torch.equal(packed, torch.stack([ops.pack(t) for t in x]))
    signs = torch.vmap(lambda p: ops.unpack(p, 40, torch.int8))(packed)
    assert torch.equal(signs, torch.where(x >= 0, 1, -1).to(torch.int8))
    pairs = torch.vmap(lambda x: ops.pack_with_mask(x, scale[0, 0], 1.0))(x)
    each = [ops.pack_with_mask(t, scale[0, 0], 1.0) for t in x]
    assert torch.equal(pairs[0], torch.stack([signs for signs, _ in each]))
    assert torch.equal(pairs[1], torch.stack([mask for _, mask in each]))
    words = ops.pack(weight)
    by_batch = torch.vmap(lambda p: ops.binary_conv2d_packed(p, words, 40, scale[0]))(packed)
    by_scale = torch.vmap(lambda s: ops.binary_conv2d_packed(packed[0], words, 40, s))(scale)
    for i in range(3):
        assert torch.equal(by_batch[i], ops.binary_conv2d_packed(packed[i], words, 40, scale[0]))
        assert torch.equal(by_scale[i], ops.binary_conv2d_packed(packed[0], words, 40, scale[i]))


def test_vmap_differentiates() -> None:
    x = torch.randn(3, 2, 8, 5, 5, requires_grad=True)
    weight, one = torch.randn(4, 8, 3, 3, requires_grad=True), torch.ones(())
    tensors = (x, weight)
    mapped = torch.vmap(lambda x: ops.binary_conv2d(x, weight, one, one))(x)
    looped = torch.stack([ops.binary_conv2d(t, weight, one, one) for t in x])
    g = torch.randn_like(looped)
    for got, wanted in zip(
        torch.autograd.grad(mapped, tensors, g),
        torch.autograd.grad(looped, tensors, g),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


def test_flops_equal_those_of_conv2d() -> None:
    x, weight, one = torch.randn(2, 64, 9, 9), torch.randn(6, 32, 3, 3), torch.ones(())
    options = {"stride": [2, 1], "padding": [1, 0], "dilation": [1, 2], "groups": 2}
    packed = (ops.pack(x), ops.pack(weight), 64)
    threshold = (torch.zeros(6, dtype=torch.int32), torch.zeros(6, dtype=torch.bool))
    counts = []
    for call in (
        lambda: torch.nn.functional.conv2d(x, weight, None, **options),
        lambda: ops.binary_conv2d(x, weight, one, one, **options),
        lambda: ops.binary_conv2d_packed(*packed, torch.ones(6), **options),
        lambda: ops.binary_conv2d_threshold(*packed, *threshold, **options),
    ):
        with FlopCounterMode(display=False) as counter:
            call()
        counts.append(counter.get_total_flops())
    assert counts[0] > 0
    assert counts == [counts[0]] * 4
