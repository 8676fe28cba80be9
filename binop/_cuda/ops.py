"""The ops on CUDA tensors, with the signatures and defaults of their schemas.

The first call with a key (shapes, strides, dtypes, devices, alignments, parameters) validates,
plans and loads; later ones only allocate and launch. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from binop._cuda import prepare

# Prepared calls are small, but dynamic shapes may make any number of them.
_MAX_PREPARED = 4096

_prepared: dict[Hashable, Callable[..., Any]] = {}


def _keep(key: Hashable, run: Callable[..., Any]) -> Callable[..., Any]:
    if len(_prepared) >= _MAX_PREPARED:
        _prepared.clear()
    _prepared[key] = run
    return run


def _facts(tensor: Tensor) -> Hashable:
    """All that a prepared call depends on of a tensor, except its values."""
    return (
        tensor.shape,
        tensor.stride(),
        tensor.dtype,
        tensor.device,
        tensor.data_ptr() & 15,
    )


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
        "binary_conv2d",
        _facts(x),
        _facts(weight),
        _facts(scale_a),
        _facts(scale_w),
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
    key = ("pack", _facts(x))
    run = _prepared.get(key) or _keep(key, prepare.prepare_pack(x))
    return run(x)


def pack_with_mask(x: Tensor, scale_a: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    key = ("pack_with_mask", _facts(x), _facts(scale_a), clip)
    run = _prepared.get(key) or _keep(key, prepare.prepare_pack_with_mask(x, scale_a, clip))
    return run(x, scale_a)


def unpack(packed: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    packed = packed.contiguous()
    key = ("unpack", _facts(packed), channels, dtype)
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
        "binary_conv2d_packed",
        _facts(x),
        _facts(weight),
        channels,
        _facts(scale),
        None if bias is None else _facts(bias),
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
        "binary_conv2d_threshold",
        _facts(x),
        _facts(weight),
        channels,
        _facts(threshold),
        _facts(flip),
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
