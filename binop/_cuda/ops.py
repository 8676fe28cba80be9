"""The ops on CUDA tensors, with the signatures and defaults of their schemas.

The first call with a key (shapes, strides, dtypes, devices, alignments, parameters) validates,
plans and loads; later ones only allocate and launch, with the addresses that the key needed
anyway. Nothing here waits for the device.

The keys are written out: a function for what all tensors add to them takes as long as the rest of a
key (2 us of a call).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from binop._cuda import prepare
from binop._cuda.choice import Choice, forced

# Prepared calls are small, but dynamic shapes may make any number of them.
_MAX_PREPARED = 4096

_prepared: dict[Hashable, Callable[..., Any]] = {}


def _keep(key: Hashable, run: Callable[..., Any]) -> Callable[..., Any]:
    if len(_prepared) >= _MAX_PREPARED:
        _prepared.clear()
    _prepared[key] = run
    return run


# Calls that were prepared by an explicit choice, which is not in the key.
_prepared_by: dict[Choice, dict[Hashable, Callable[..., Any]]] = {}


@contextmanager
def planned_by(choice: Choice) -> Iterator[None]:
    """For experiments: calls meanwhile, of any thread, convolve by ``choice`` (but for
    ``binary_conv2d_residual``). Those that it cannot serve raise ValueError."""
    global _prepared
    before, _prepared = _prepared, _prepared_by.setdefault(choice, {})
    try:
        with forced(choice):
            yield
    finally:
        _prepared = before


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
    at_x, at_weight = x.data_ptr(), weight.data_ptr()
    at_scale_a, at_scale_w = scale_a.data_ptr(), scale_w.data_ptr()
    key = (
        "binary_conv2d",
        x.shape,
        x.stride(),
        x.dtype,
        x.get_device(),
        at_x & 15,
        weight.shape,
        weight.stride(),
        weight.dtype,
        weight.get_device(),
        at_weight & 15,
        scale_a.shape,
        scale_a.stride(),
        scale_a.dtype,
        scale_a.get_device(),
        scale_w.shape,
        scale_w.stride(),
        scale_w.dtype,
        scale_w.get_device(),
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
    return run(x, at_x, at_weight, at_scale_a, at_scale_w)


def pack(x: Tensor) -> Tensor:
    at_x = x.data_ptr()
    key = (
        "pack",
        x.shape,
        x.stride(),
        x.dtype,
        x.get_device(),
        at_x & 15,
    )
    run = _prepared.get(key) or _keep(key, prepare.prepare_pack(x))
    return run(x, at_x)


def pack_with_mask(x: Tensor, scale_a: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    at_x, at_scale_a = x.data_ptr(), scale_a.data_ptr()
    key = (
        "pack_with_mask",
        x.shape,
        x.stride(),
        x.dtype,
        x.get_device(),
        at_x & 15,
        scale_a.shape,
        scale_a.stride(),
        scale_a.dtype,
        scale_a.get_device(),
        clip,
    )
    run = _prepared.get(key) or _keep(key, prepare.prepare_pack_with_mask(x, scale_a, clip))
    return run(x, at_x, at_scale_a)


def unpack(packed: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    packed = packed.contiguous()
    at_packed = packed.data_ptr()
    key = (
        "unpack",
        packed.shape,
        packed.stride(),
        packed.dtype,
        packed.get_device(),
        at_packed & 15,
        channels,
        dtype,
    )
    run = _prepared.get(key) or _keep(key, prepare.prepare_unpack(packed, channels, dtype))
    return run(packed, at_packed)


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
    at_x, at_weight, at_scale = x.data_ptr(), weight.data_ptr(), scale.data_ptr()
    at_bias = 0 if bias is None else bias.data_ptr()
    key = (
        "binary_conv2d_packed",
        x.shape,
        x.stride(),
        x.dtype,
        x.get_device(),
        at_x & 15,
        weight.shape,
        weight.stride(),
        weight.dtype,
        weight.get_device(),
        at_weight & 15,
        channels,
        scale.shape,
        scale.stride(),
        scale.dtype,
        scale.get_device(),
        None if bias is None else (bias.shape, bias.stride(), bias.dtype, bias.get_device()),
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
    return run(x, at_x, at_weight, at_scale, at_bias)


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
    at_x, at_weight = x.data_ptr(), weight.data_ptr()
    at_threshold, at_flip = threshold.data_ptr(), flip.data_ptr()
    key = (
        "binary_conv2d_threshold",
        x.shape,
        x.stride(),
        x.dtype,
        x.get_device(),
        at_x & 15,
        weight.shape,
        weight.stride(),
        weight.dtype,
        weight.get_device(),
        at_weight & 15,
        channels,
        threshold.shape,
        threshold.stride(),
        threshold.dtype,
        threshold.get_device(),
        flip.shape,
        flip.stride(),
        flip.dtype,
        flip.get_device(),
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
    return run(x, at_x, at_weight, at_threshold, at_flip)


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
) -> Any:
    """NotImplemented where no kernel makes both outputs in one pass of a channels_last residual."""
    x, weight, norm = x.contiguous(), weight.contiguous(), norm.contiguous()
    activation = None if activation is None else activation.contiguous()
    shift = None if shift is None else shift.contiguous()
    # A copy of another layout is a fraction of what the composition of ops takes.
    residual = residual.contiguous(memory_format=torch.channels_last)
    at_x, at_weight, at_scale, at_norm = (
        x.data_ptr(),
        weight.data_ptr(),
        scale.data_ptr(),
        norm.data_ptr(),
    )
    at_residual = residual.data_ptr()
    at_activation = 0 if activation is None else activation.data_ptr()
    at_shift = 0 if shift is None else shift.data_ptr()
    key = (
        "binary_conv2d_residual",
        x.shape,
        x.dtype,
        x.get_device(),
        at_x & 15,
        weight.shape,
        weight.dtype,
        weight.get_device(),
        at_weight & 15,
        channels,
        scale.shape,
        scale.stride(),
        scale.dtype,
        scale.get_device(),
        norm.shape,
        norm.dtype,
        norm.get_device(),
        residual.shape,
        residual.stride(),
        residual.dtype,
        residual.get_device(),
        at_residual & 15,
        None
        if activation is None
        else (activation.shape, activation.dtype, activation.get_device()),
        None if shift is None else (shift.shape, shift.dtype, shift.get_device()),
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
    return run(x, at_x, at_weight, at_scale, at_norm, at_residual, at_activation, at_shift)


def stem_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: Tensor | None,
    relu: bool,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Any:
    """NotImplemented where the kernel does not take the shape."""
    norm = None if norm is None else norm.contiguous()
    at_x, at_weight = x.data_ptr(), weight.data_ptr()
    at_bias = 0 if bias is None else bias.data_ptr()
    at_norm = 0 if norm is None else norm.data_ptr()
    key = (
        "stem_conv2d",
        x.shape,
        x.stride(),
        x.dtype,
        x.get_device(),
        weight.shape,
        weight.stride(),
        weight.dtype,
        weight.get_device(),
        None if bias is None else (bias.shape, bias.stride(), bias.dtype, bias.get_device()),
        None if norm is None else (norm.shape, norm.dtype, norm.get_device()),
        relu,
        tuple(stride),
        tuple(padding),
    )
    run = _prepared.get(key) or _keep(
        key, prepare.prepare_stem_conv2d(x, weight, bias, norm, relu, stride, padding)
    )
    return run(x, at_x, at_weight, at_bias, at_norm)


def stem_conv2d_threshold(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    low: Tensor,
    high: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Any:
    """NotImplemented where the kernel does not take the shape."""
    low, high = low.contiguous(), high.contiguous()
    at_x, at_weight = x.data_ptr(), weight.data_ptr()
    at_low, at_high = low.data_ptr(), high.data_ptr()
    at_bias = 0 if bias is None else bias.data_ptr()
    key = (
        "stem_conv2d_threshold",
        x.shape,
        x.stride(),
        x.dtype,
        x.get_device(),
        weight.shape,
        weight.stride(),
        weight.dtype,
        weight.get_device(),
        None if bias is None else (bias.shape, bias.stride(), bias.dtype, bias.get_device()),
        low.shape,
        low.dtype,
        low.get_device(),
        high.shape,
        high.dtype,
        high.get_device(),
        tuple(stride),
        tuple(padding),
    )
    run = _prepared.get(key) or _keep(
        key, prepare.prepare_stem_conv2d_threshold(x, weight, bias, low, high, stride, padding)
    )
    return run(x, at_x, at_weight, at_bias, at_low, at_high)
