"""The ops on CPU tensors, with the signatures and defaults of their schemas.

The first call with a key (shapes, strides, dtypes, parameters) validates and plans; later ones
only allocate and compute.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from binop import checks
from binop._cpu import library, norms, prepare, weights
from binop.batch_norm import BatchNorm

# Prepared calls are small, but dynamic shapes may make any number of them.
_MAX_PREPARED = 4096

_prepared: dict[Hashable, Callable[..., Any]] = {}
# Another one for every path.
_generation = object()


def _keep(key: Hashable, run: Callable[..., Any]) -> Callable[..., Any]:
    if len(_prepared) >= _MAX_PREPARED:
        _prepared.clear()
    _prepared[key] = run
    return run


@contextmanager
def isa(name: str) -> Iterator[None]:
    """Computes on another path of the library meanwhile: for tests and benchmarks."""
    before = library.use(name)
    _forget()
    try:
        yield
    finally:
        library.use(before)
        _forget()


def _forget() -> None:
    global _generation
    _generation = object()
    _prepared.clear()
    weights.forget()


def binary_conv2d(
    x: Tensor,
    weight: Tensor,
    scale_a: Tensor,
    scale_w: Tensor,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    pad_value: int = 0,
    clip: float = 1.0,
) -> Tensor:
    key = (
        x.shape,
        x.stride(),
        x.dtype,
        weight.shape,
        weight.stride(),
        weight.dtype,
        scale_a.shape,
        scale_a.dtype,
        scale_w.shape,
        scale_w.stride(),
        scale_w.dtype,
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        groups,
        pad_value,
        clip,
    )
    run = _prepared.get(key) or _keep(
        key,
        prepare.prepare_binary_conv2d(
            x, weight, scale_a, scale_w, stride, padding, dilation, groups, pad_value, clip
        ),
    )
    return run(x, weight, scale_a, scale_w)


def pack(x: Tensor) -> Tensor:
    key = ("pack", x.shape, x.stride(), x.dtype)
    run = _prepared.get(key) or _keep(key, prepare.prepare_pack(x))
    return run(x)


def pack_with_mask(x: Tensor, scale_a: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    key = ("mask", x.shape, x.stride(), x.dtype, scale_a.shape, scale_a.dtype, clip)
    run = _prepared.get(key) or _keep(key, prepare.prepare_pack_with_mask(x, scale_a, clip))
    return run(x, scale_a)


def unpack(packed: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    packed = packed.contiguous()
    key = ("unpack", packed.shape, packed.dtype, channels, dtype)
    run = _prepared.get(key) or _keep(key, prepare.prepare_unpack(packed, channels, dtype))
    return run(packed)


def binary_conv2d_packed(
    x: Tensor,
    weight: Tensor,
    channels: int,
    scale: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    pad_value: int = 0,
    out_dtype: torch.dtype = torch.float32,
) -> Tensor:
    x, weight = x.contiguous(), weight.contiguous()
    key = (
        x.shape,
        x.dtype,
        weight.shape,
        weight.dtype,
        channels,
        scale.shape,
        scale.stride(),
        scale.dtype,
        None if bias is None else (bias.shape, bias.stride(), bias.dtype),
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        groups,
        pad_value,
        out_dtype,
    )
    run = _prepared.get(key) or _keep(
        key,
        prepare.prepare_binary_conv2d_packed(
            x,
            weight,
            channels,
            scale,
            bias,
            stride,
            padding,
            dilation,
            groups,
            pad_value,
            out_dtype,
        ),
    )
    return run(x, weight, scale, bias)


def pack_and_convolve(x: Tensor, weight: Tensor, scale: Tensor, options: Sequence[int]) -> Tensor:
    """For ``x`` that is not float64: one call of the library, and no packed ``x`` between two."""
    weight = weight.contiguous()
    key = (
        "pack_and_convolve",
        x.shape,
        x.stride(),
        x.dtype,
        weight.shape,
        weight.dtype,
        scale.shape,
        scale.stride(),
        scale.dtype,
        tuple(options),
    )
    run = _prepared.get(key)
    if run is None:
        separate = checks.separate_options(options)
        run = _keep(key, prepare.prepare_pack_and_convolve(x, weight, scale, None, *separate))
    return run(x, weight, scale, None)


def bind_pack_and_convolve(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: int,
    norm: BatchNorm | None,
) -> Callable[[Tensor], Tensor | None] | None:
    """``pack_and_convolve`` and a BatchNorm, for inputs like ``x`` and these very tensors, whose
    values may change. None where the library has no such call. The call itself returns None where
    the BatchNorm's vectors have changed, or the path of the library: then bind again."""
    if not weight.is_contiguous():
        return None
    run = prepare.prepare_pack_and_convolve(
        x, weight, scale, bias, stride, padding, dilation, groups, pad_value
    )
    kept, generation = None, _generation
    if norm is not None:
        kept = norms.find(norm, weight, scale, bias) if x.dtype is torch.float32 else None
        if kept is None:
            return None

    def call(x: Tensor) -> Tensor | None:
        if generation is not _generation:
            return None
        # This holds what was kept, to which it points.
        return run(x, weight, scale, bias, None if kept is None else kept.pointer)

    return call


def binary_conv2d_threshold(
    x: Tensor,
    weight: Tensor,
    channels: int,
    threshold: Tensor,
    flip: Tensor,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    pad_value: int = 0,
) -> Tensor:
    x, weight = x.contiguous(), weight.contiguous()
    key = (
        x.shape,
        x.dtype,
        weight.shape,
        weight.dtype,
        channels,
        threshold.shape,
        threshold.stride(),
        threshold.dtype,
        flip.shape,
        flip.stride(),
        flip.dtype,
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        groups,
        pad_value,
    )
    run = _prepared.get(key) or _keep(
        key,
        prepare.prepare_binary_conv2d_threshold(
            x, weight, channels, threshold, flip, stride, padding, dilation, groups, pad_value
        ),
    )
    return run(x, weight, threshold, flip)


def binary_conv2d_residual(
    x: Tensor,
    weight: Tensor,
    channels: int,
    scale: Tensor,
    norm: Tensor,
    residual: Tensor,
    activation: Tensor | None,
    shift: Tensor | None,
    relu: bool,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: int,
) -> tuple[Tensor, Tensor]:
    x, weight, norm = x.contiguous(), weight.contiguous(), norm.contiguous()
    activation = None if activation is None else activation.contiguous()
    shift = None if shift is None else shift.contiguous()
    key = (
        "residual",
        x.shape,
        x.dtype,
        weight.shape,
        weight.dtype,
        channels,
        scale.shape,
        scale.stride(),
        scale.dtype,
        norm.shape,
        norm.dtype,
        residual.shape,
        residual.stride(),
        residual.dtype,
        None if activation is None else (activation.shape, activation.dtype),
        None if shift is None else (shift.shape, shift.dtype),
        relu,
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        groups,
        pad_value,
    )
    run = _prepared.get(key) or _keep(
        key,
        prepare.prepare_binary_conv2d_residual(
            x,
            weight,
            channels,
            scale,
            norm,
            residual,
            activation,
            shift,
            relu,
            stride,
            padding,
            dilation,
            groups,
            pad_value,
        ),
    )
    return run(x, weight, scale, norm, residual, activation, shift)
