"""The autograd formula against SEMANTICS 4 composed from torch operations."""

from __future__ import annotations

import math

import pytest
import torch
from cases import CASES, Case
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

import binop

ops = torch.ops.binop
DIFFERENTIABLE = [case for case in CASES if case.dtype is torch.float32]


def _inputs(case: Case, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Finite inputs (a NaN gradient equals nothing); scale_w of both signs."""
    x = 1.5 * torch.randn(case.n, case.c, case.h, case.w)
    weight = torch.randn(case.o, case.c // case.groups, *case.kernel)
    tensors = [x, weight, torch.tensor([-0.75]), torch.randn(case.o)]
    return [tensor.to(dtype).requires_grad_() for tensor in tensors]


def _wanted(
    case: Case, x: Tensor, weight: Tensor, scale_a: Tensor, scale_w: Tensor, g: Tensor, clip: float
) -> list[Tensor]:
    xh, wh = torch.where(x >= 0, 1.0, -1.0).to(x), torch.where(weight >= 0, 1.0, -1.0).to(x)
    rows, columns = case.padding
    padded = F.pad(xh, (columns, columns, rows, rows), value=float(case.pad_value))
    rest = (case.stride, case.dilation, case.groups)
    dot = F.conv2d(padded, wh, None, rest[0], 0, *rest[1:])
    passes = torch.ones_like(x) if clip == math.inf else (x.abs() <= clip * scale_a.abs()).to(x)
    channel_scale = scale_w.reshape(-1, 1, 1, 1)
    return [
        passes * conv2d_input(x.shape, channel_scale * wh, g, rest[0], case.padding, *rest[1:]),
        conv2d_weight(scale_a * padded, weight.shape, g, rest[0], 0, *rest[1:]),
        (g * scale_w.reshape(1, -1, 1, 1) * dot).sum().reshape(1),
        (g * scale_a * dot).sum((0, 2, 3)),
    ]


@pytest.mark.parametrize("clip", [1.0, math.inf])
@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=lambda case: case.name)
def test_formula_in_float64(case: Case, clip: float) -> None:
    tensors = _inputs(case)
    y = ops.binary_conv2d(*tensors, **case.options, clip=clip)
    g = torch.randn_like(y)
    got = torch.autograd.grad(y, tensors, g)
    wanted = _wanted(case, *(t.detach() for t in tensors), g, clip)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("channels_last", [False, True])
def test_low_precision(dtype: torch.dtype, channels_last: bool, device: str) -> None:
    """Against float64 on the same (rounded) numbers; mixed with float32 parameters."""
    case = Case("low", 33, 6, n=2, h=6, w=7, stride=(2, 1), pad_value=-1)
    tensors = [t.detach().to(device) for t in _inputs(case, torch.float32)]
    tensors[0] = tensors[0].to(dtype)
    if channels_last:
        tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
    tensors = [t.requires_grad_() for t in tensors]
    y = ops.binary_conv2d(*tensors, **case.options)
    g = torch.randn_like(y)
    got = torch.autograd.grad(y, tensors, g)
    exact = [t.detach().cpu().double() for t in tensors]
    wanted = _wanted(case, *exact, g.cpu().double(), 1.0)
    # Sums of about 250 products whose factors carry the rounding of the dtype.
    tolerance = 8 * torch.finfo(dtype).eps
    for ours, theirs, source in zip(got, wanted, tensors, strict=True):
        assert ours.dtype == source.dtype
        size = theirs.abs().max()
        assert (ours.cpu().double() - theirs).abs().max() <= tolerance * size
    assert got[0].is_contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )


def test_the_boundary_passes_and_nan_does_not() -> None:
    edge = 0.5 * 1.5
    values = [edge, -edge, math.nextafter(edge, 1), 0.0, math.nan, math.inf]
    x = torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, -1).requires_grad_()
    weight = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64)
    scale_a = torch.tensor(-0.5, dtype=torch.float64)
    ops.binary_conv2d(x, weight, scale_a, one, clip=1.5).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [1, 1, 0, 1, 0, 0]
    x.grad = None
    ops.binary_conv2d(x, weight, scale_a, one, clip=math.inf).sum().backward()
    assert x.grad.flatten().tolist() == [1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (0, 1), (2, 3)])
@pytest.mark.parametrize("scale_shape", [(), (1,), (6,)])
def test_only_what_is_asked_for(wanted: tuple[int, ...], scale_shape: tuple[int, ...]) -> None:
    case = Case("some", 8, 6)
    tensors = [t.detach() for t in _inputs(case)]
    tensors[3] = torch.rand(scale_shape, dtype=torch.float64)
    full = [t.clone().requires_grad_() for t in tensors]
    ops.binary_conv2d(*full).sum().backward()
    some = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(tensors)]
    ops.binary_conv2d(*some).sum().backward()
    for index, (one, other) in enumerate(zip(some, full, strict=True)):
        assert (one.grad is not None) == (index in wanted)
        if one.grad is not None:
            assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("source", ["x", "g"])
def test_second_derivatives_raise(source: str) -> None:
    x, weight, scale_a, scale_w = _inputs(Case("twice", 8, 6))
    y = ops.binary_conv2d(x, weight, scale_a, scale_w)
    g = torch.ones_like(y, requires_grad=source == "g")
    (grad,) = torch.autograd.grad(y, x, g, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        grad.sum().backward()


def _saved_bytes(x: Tensor, weight: Tensor, clip: float) -> int:
    sizes = []

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() != weight.data_ptr():
            sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        binop.functional.binary_conv2d(x, weight, padding=1, clip=clip)
    return sum(sizes)


def test_what_is_saved_for_backward() -> None:
    """2 bits an element of x (1 without a clip mask): an eighth of bfloat16, plus two scales."""
    x = torch.randn(4, 64, 16, 16, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(8, 64, 3, 3, requires_grad=True)
    scales = 2 * 4
    assert _saved_bytes(x, weight, clip=1.0) == x.numel() * 2 // 8 + scales
    assert _saved_bytes(x, weight, clip=math.inf) == x.numel() // 8 + scales
    # A frozen weight needs no signs of x.
    assert _saved_bytes(x, weight.detach(), clip=1.0) == x.numel() // 8 + scales
