"""``binary_conv2d_residual`` against numpy's scalar float32 arithmetic on the oracle's integers."""

from __future__ import annotations

import itertools

import numpy
import oracle
import pytest
import torch
from cases import CASES, Case, can_pack
from torch import Tensor

ops = torch.ops.binop
NAMES = {"channels33", "stride3x2", "groups-words", "even-kernel", "batch3", "1x1-padded-pad+1"}
CHOSEN = [case for case in CASES if case.name in NAMES and can_pack(case)]


def operands(case: Case) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: torch.randn(*shape, case.o, generator=generator)
        for name, shape in (("norm", (4,)), ("activation", (3,)), ("shift", ()))
    }
    tensors["norm"][2, ::3] = 0.0  # gammas of every sign
    return tensors


def expected(
    dots: numpy.ndarray, alpha: Tensor, residual: Tensor, parts: dict[str, Tensor], relu: bool
) -> tuple[Tensor, Tensor]:
    """One element after the other, one rounding after the other."""
    values = torch.empty(dots.shape)
    zero, f32 = numpy.float32(0), numpy.float32
    columns = {name: tensor.numpy() for name, tensor in parts.items()}
    for index in numpy.ndindex(*dots.shape):
        o = index[1]
        c = f32(alpha[o].item()) * f32(dots[index])
        c = f32(torch.tensor(c).to(residual.dtype).item())
        c = max(c, zero) if relu else c
        mean, inverse, gamma, beta = columns["norm"][:, o]
        s = (c - mean) * inverse * gamma + beta + f32(residual[index].item())
        if "activation" in columns:
            before, slope, after = columns["activation"][:, o]
            s = s + before
            s = (s if s > 0 else slope * s) + after
        values[index] = float(s)
    y = values.to(residual.dtype)
    decided = y.float()
    if "shift" in parts:
        decided = decided + parts["shift"].reshape(-1, 1, 1)
    return y, oracle.packed(oracle.bits(decided))


@pytest.mark.parametrize("case", CHOSEN, ids=lambda c: c.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equals_scalar_arithmetic(case: Case, dtype: torch.dtype) -> None:
    x, weight, scale_a, scale_w = case.tensors()
    alpha = scale_a * scale_w
    options = list(case.options.values())
    dots = oracle.dot(oracle.bits(x), oracle.bits(weight), *options)
    packed = (ops.pack(x), ops.pack(weight), case.c, alpha)
    for extra, relu in itertools.product(((), ("shift",), ("activation", "shift")), (False, True)):
        parts = {k: v for k, v in operands(case).items() if k == "norm" or k in extra}
        residual = torch.randn(dots.shape).to(dtype)
        residual[..., 0] = 0.0
        arguments = (parts["norm"], residual, parts.get("activation"), parts.get("shift"), relu)
        y, signs = ops.binary_conv2d_residual(*packed, *arguments, *map(_listed, options))
        wanted, words = expected(dots, alpha, residual, parts, relu)
        assert torch.equal(y, wanted)
        assert torch.equal(signs, words)
        assert y.is_contiguous(memory_format=torch.channels_last)


def _listed(option: object) -> object:
    return list(option) if isinstance(option, tuple) else option


def test_the_names_exist() -> None:
    assert {case.name for case in CHOSEN} == NAMES
