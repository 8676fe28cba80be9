"""``torch.library.opcheck`` on every op: schema, fake, autograd, AOT with dynamic shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import Case
from torch.library import opcheck

ops = torch.ops.binop
GEOMETRIES = [
    Case("plain", 33, 4, n=2),
    Case("nhwc", 33, 4, n=2, channels_last=True),
    Case("strided", 8, 6, n=2, h=9, w=7, stride=(2, 3), dilation=(2, 1), groups=2, pad_value=-1),
    Case("words", 64, 4, n=2, groups=2, dtype=torch.bfloat16, pad_value=1),
    Case("empty", 8, 4, n=0),
    Case("one-pixel", 8, 1, h=1, w=1, dtype=torch.float16),
    Case("double", 8, 3, dtype=torch.float64),
]
Sample = tuple[Any, tuple[Any, ...], dict[str, Any]]


def _samples() -> Iterator[Sample]:
    for case in GEOMETRIES:
        x, weight, scale_a, scale_w = (t.nan_to_num() for t in case.tensors())
        options = case.options
        yield ops.binary_conv2d.default, (x, weight, scale_a, scale_w), options
        tensors = tuple(t.clone().requires_grad_() for t in (x, weight, scale_a, scale_w))
        yield ops.binary_conv2d.default, tensors, options
        yield ops.binary_conv2d.default, tensors, {**options, "clip": float("inf")}
        yield (
            ops.binary_conv2d.default,
            (tensors[0], weight.to(torch.int8), scale_a, scale_w),
            options,
        )
        yield ops.pack.default, (x,), {}
        yield ops.pack_with_mask.default, (x, scale_a, 1.0), {}
        yield ops.unpack.default, (ops.pack(x), case.c, torch.float32), {}
        yield ops.unpack.default, (ops.pack(x), case.c, torch.int8), {}
        if case.groups == 2 and case.c != 64:
            continue
        packed = (ops.pack(x), ops.pack(weight), case.c)
        bias = torch.randn(case.o)
        yield ops.binary_conv2d_packed.default, (*packed, scale_w), options
        explicit = (*(list(v) if isinstance(v, tuple) else v for v in options.values()),)
        arguments = (*packed, scale_w, None, *explicit, torch.float32)
        yield ops.binary_conv2d_packed.explicit, arguments, {}
        flat = [number for pair in explicit[:3] for number in pair] + [*explicit[3:]]
        yield ops.pack_and_convolve.default, (x, packed[1], scale_w, flat), {}
        half = {**options, "out_dtype": torch.float16}
        yield ops.binary_conv2d_packed.default, (*packed, scale_w[:1], bias), half
        threshold = torch.arange(case.o, dtype=torch.int32)
        flip = torch.arange(case.o) % 2 == 0
        yield ops.binary_conv2d_threshold.default, (*packed, threshold, flip), options
        if case.dtype is not torch.float64:
            yield from _residual_samples(case, packed, scale_w, explicit)


def _residual_samples(
    case: Case, packed: tuple[Any, ...], scale: torch.Tensor, options: tuple[Any, ...]
) -> Iterator[Sample]:
    op = ops.binary_conv2d_residual.default
    y = ops.binary_conv2d_packed.explicit(*packed, scale, None, *options, case.dtype)
    norm, activation, shift = torch.rand(4, case.o), torch.rand(3, case.o), torch.rand(case.o)
    yield op, (*packed, scale, norm, y, None, None, False, *options), {}
    residual = y.contiguous()
    yield op, (*packed, scale[:1], norm, residual, activation, shift, True, *options), {}


def _stem_samples() -> Iterator[Sample]:
    x, weight = torch.randn(2, 3, 9, 8).half(), torch.randn(40, 3, 3, 3).half()
    low, norm = torch.randn(40), torch.rand(4, 40)
    for bias in (None, torch.randn(40).half()):
        rest = ([2, 1], [1, 0])
        yield ops.stem_conv2d.default, (x, weight, bias, norm, bias is None, *rest), {}
        yield ops.stem_conv2d_threshold.default, (x, weight, bias, low, low + 1, *rest), {}


SAMPLES = [*_samples(), *_stem_samples()]


@pytest.mark.compile
@pytest.mark.parametrize("sample", SAMPLES, ids=[f"{i}-{s[0]}" for i, s in enumerate(SAMPLES)])
def test_opcheck(sample: Sample) -> None:
    op, arguments, options = sample
    options = {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}
    results = opcheck(op, arguments, options)
    assert set(results.values()) == {"SUCCESS"}
    assert len(results) == 4


def test_every_op_is_checked() -> None:
    registered = {
        name if "." in name else f"{name}.default"
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("binop::")
    }
    assert {
        op.name() if op._overloadname != "default" else f"{op.name()}.default" for op, *_ in SAMPLES
    } == registered
