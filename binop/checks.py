"""Validation of each op's arguments. The real kernels and the fake ones call these same
functions, so that eager, FakeTensors, ``torch.compile`` and raw ``torch.ops`` calls raise the
same text (SEMANTICS: errors). The convolutions' checks return the geometry that they checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from binop.arguments import (
    FLOAT_DTYPES,
    HALF_DTYPES,
    SIGN_DTYPES,
    require,
    require_clip,
    require_dtype,
    require_float64_on_cpu,
    require_one_element,
    require_one_of,
    require_one_or_per_channel,
    require_packed,
    require_pair,
    require_per_channel,
    require_rank,
    require_same_device,
    require_shape,
    text,
)
from binop.geometry import MAX_TAPS, Conv2dGeometry
from binop.packing import WORD_BITS


def _geometry(
    op: str,
    image: tuple[int, int, int, int],
    filters: tuple[int, int, int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: int,
) -> Conv2dGeometry:
    """What the float and the packed convolutions have in common. ``image`` is (N, C, H, W),
    ``filters`` is (O, KH, KW)."""
    require(pad_value in (-1, 0, 1), lambda: text(op, "pad_value", "-1, 0 or 1", pad_value))
    require(groups >= 1, lambda: text(op, "groups", "at least 1", groups))
    for size in image[1:]:
        require(
            size >= 1,
            lambda: text(op, "x", "channels, height and width of at least 1", f"{image} (NCHW)"),
        )
    for size in filters:
        require(
            size >= 1,
            lambda: text(op, "weight", "sizes of at least 1", f"{filters} (O, KH, KW)"),
        )
    batch, channels, height, width = image
    out_channels, *kernel = filters
    require(
        channels % groups == 0 and out_channels % groups == 0,
        lambda: text(
            op,
            "groups",
            f"a divisor of the {channels} input and the {out_channels} output channels",
            groups,
        ),
    )
    geometry = Conv2dGeometry(
        batch,
        channels,
        height,
        width,
        out_channels,
        (kernel[0], kernel[1]),
        require_pair(op, "stride", stride, 1),
        require_pair(op, "padding", padding, 0),
        require_pair(op, "dilation", dilation, 1),
        groups,
    )
    require(
        geometry.taps < MAX_TAPS,
        lambda: text(op, "weight", f"C/groups*KH*KW below {MAX_TAPS} (exact sums)", geometry.taps),
    )
    for size in (geometry.out_height, geometry.out_width):
        require(
            size >= 1,
            lambda: text(
                op,
                "x",
                f"a padded image no smaller than the kernel {tuple(kernel)} of dilation "
                f"{tuple(dilation)}",
                f"{(height, width)} with padding {tuple(padding)}",
            ),
        )
    return geometry


def check_binary_conv2d(
    x: Tensor,
    weight: Tensor,
    scale_a: Tensor,
    scale_w: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: int,
    clip: float,
) -> Conv2dGeometry:
    op = "binary_conv2d"
    require_rank(op, "x", x, "[N, C, H, W]")
    require_dtype(op, "x", x, FLOAT_DTYPES)
    require_float64_on_cpu(op, "x", x.dtype, x.device)
    require_rank(op, "weight", weight, "[O, C/groups, KH, KW]")
    require_dtype(op, "weight", weight, SIGN_DTYPES)
    require_dtype(op, "scale_a", scale_a, FLOAT_DTYPES)
    require_dtype(op, "scale_w", scale_w, FLOAT_DTYPES)
    require_same_device(op, x, weight=weight, scale_a=scale_a, scale_w=scale_w)
    require_clip(op, clip)
    batch, channels, height, width = x.shape
    out_channels, group_channels, *kernel = weight.shape
    geometry = _geometry(
        op,
        (batch, channels, height, width),
        (out_channels, kernel[0], kernel[1]),
        stride,
        padding,
        dilation,
        groups,
        pad_value,
    )
    require(
        group_channels == geometry.group_channels,
        lambda: text(
            op,
            "weight",
            f"{geometry.group_channels} input channels (C/groups)",
            f"{group_channels} (shape {tuple(weight.shape)})",
        ),
    )
    require_one_element(op, "scale_a", scale_a)
    require_one_or_per_channel(op, "scale_w", scale_w, out_channels)
    return geometry


def check_pack(x: Tensor) -> None:
    require_rank("pack", "x", x, "[A, C, H, W]")
    require_dtype("pack", "x", x, SIGN_DTYPES)
    require_float64_on_cpu("pack", "x", x.dtype, x.device)


def check_pack_with_mask(x: Tensor, scale_a: Tensor, clip: float) -> None:
    op = "pack_with_mask"
    require_rank(op, "x", x, "[A, C, H, W]")
    require_dtype(op, "x", x, FLOAT_DTYPES)
    require_float64_on_cpu(op, "x", x.dtype, x.device)
    require_dtype(op, "scale_a", scale_a, FLOAT_DTYPES)
    require_same_device(op, x, scale_a=scale_a)
    require_clip(op, clip)
    require_one_element(op, "scale_a", scale_a)


def check_unpack(packed: Tensor, channels: int, dtype: torch.dtype) -> None:
    op = "unpack"
    require(channels >= 0, lambda: text(op, "channels", "at least 0", channels))
    require_packed(op, "packed", packed, "[A, H, W, words]", channels)
    require_one_of(op, "dtype", dtype, SIGN_DTYPES)
    require_float64_on_cpu(op, "dtype", dtype, packed.device)


def packed_geometry(
    op: str,
    x: Tensor,
    weight: Tensor,
    channels: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: int,
) -> Conv2dGeometry:
    require(channels >= 1, lambda: text(op, "channels", "at least 1", channels))
    require_packed(op, "x", x, "[N, H, W, words]", channels)
    require_rank(op, "weight", weight, "[O, KH, KW, words]")
    batch, height, width, _ = x.shape
    out_channels, *kernel, _ = weight.shape
    geometry = _geometry(
        op,
        (batch, channels, height, width),
        (out_channels, kernel[0], kernel[1]),
        stride,
        padding,
        dilation,
        groups,
        pad_value,
    )
    require_packed(op, "weight", weight, "[O, KH, KW, words]", geometry.group_channels)
    require(
        groups == 1 or geometry.group_channels % WORD_BITS == 0,
        lambda: text(
            op,
            "channels",
            f"a multiple of {WORD_BITS} per group, so that groups start at whole words",
            f"{geometry.group_channels} per group",
        ),
    )
    return geometry


def check_binary_conv2d_packed(
    x: Tensor,
    weight: Tensor,
    channels: int,
    scale: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: int,
    out_dtype: torch.dtype,
) -> Conv2dGeometry:
    op = "binary_conv2d_packed"
    geometry = packed_geometry(
        op, x, weight, channels, stride, padding, dilation, groups, pad_value
    )
    require_dtype(op, "scale", scale, (torch.float32,))
    require_one_or_per_channel(op, "scale", scale, geometry.out_channels)
    if bias is not None:
        require_dtype(op, "bias", bias, (torch.float32,))
        require_per_channel(op, "bias", bias, geometry.out_channels)
    require_same_device(op, x, weight=weight, scale=scale, bias=bias)
    require_one_of(op, "out_dtype", out_dtype, FLOAT_DTYPES)
    require_float64_on_cpu(op, "out_dtype", out_dtype, x.device)
    return geometry


def check_binary_conv2d_threshold(
    x: Tensor,
    weight: Tensor,
    channels: int,
    threshold: Tensor,
    flip: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: int,
) -> Conv2dGeometry:
    op = "binary_conv2d_threshold"
    geometry = packed_geometry(
        op, x, weight, channels, stride, padding, dilation, groups, pad_value
    )
    require_dtype(op, "threshold", threshold, (torch.int32,))
    require_per_channel(op, "threshold", threshold, geometry.out_channels)
    require_dtype(op, "flip", flip, (torch.bool,))
    require_per_channel(op, "flip", flip, geometry.out_channels)
    require_same_device(op, x, weight=weight, threshold=threshold, flip=flip)
    return geometry


def check_binary_conv2d_residual(
    x: Tensor,
    weight: Tensor,
    channels: int,
    scale: Tensor,
    norm: Tensor,
    residual: Tensor,
    activation: Tensor | None,
    shift: Tensor | None,
    *options: Any,
) -> Conv2dGeometry:
    """``options`` are stride, padding, dilation, groups and pad_value."""
    op = "binary_conv2d_residual"
    geometry = packed_geometry(op, x, weight, channels, *options)
    outs = geometry.out_channels
    require_dtype(op, "scale", scale, (torch.float32,))
    require_one_or_per_channel(op, "scale", scale, outs)
    for argument, tensor, shape in (
        ("norm", norm, (4, outs)),
        ("residual", residual, (geometry.batch, outs, geometry.out_height, geometry.out_width)),
        ("activation", activation, (3, outs)),
        ("shift", shift, (outs,)),
    ):
        if tensor is not None:
            wanted = FLOAT_DTYPES[:3] if argument == "residual" else (torch.float32,)
            require_dtype(op, argument, tensor, wanted)
            require_shape(op, argument, tensor, shape)
    require_same_device(
        op,
        x,
        weight=weight,
        scale=scale,
        norm=norm,
        residual=residual,
        activation=activation,
        shift=shift,
    )
    return geometry


def _stem_geometry(
    op: str, x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]
) -> Conv2dGeometry:
    require_rank(op, "x", x, "[N, C, H, W]")
    require_dtype(op, "x", x, HALF_DTYPES)
    require_rank(op, "weight", weight, "[O, C, KH, KW]")
    require_dtype(op, "weight", weight, (x.dtype,))
    batch, channels, height, width = x.shape
    out_channels, filter_channels, *kernel = weight.shape
    require(
        filter_channels == channels,
        lambda: text(
            op, "weight", f"{channels} input channels", f"{filter_channels} ({tuple(weight.shape)})"
        ),
    )
    return _geometry(
        op,
        (batch, channels, height, width),
        (out_channels, kernel[0], kernel[1]),
        stride,
        padding,
        (1, 1),
        1,
        0,
    )


def _check_stem_bias(op: str, x: Tensor, bias: Tensor | None, geometry: Conv2dGeometry) -> None:
    if bias is not None:
        require_dtype(op, "bias", bias, (x.dtype,))
        require_per_channel(op, "bias", bias, geometry.out_channels)


def check_stem_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: Tensor | None,
    relu: bool,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Conv2dGeometry:
    op = "stem_conv2d"
    geometry = _stem_geometry(op, x, weight, stride, padding)
    _check_stem_bias(op, x, bias, geometry)
    if norm is not None:
        require_dtype(op, "norm", norm, (torch.float32,))
        require_shape(op, "norm", norm, (4, geometry.out_channels))
    require_same_device(op, x, weight=weight, bias=bias, norm=norm)
    return geometry


def check_stem_conv2d_threshold(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    low: Tensor,
    high: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Conv2dGeometry:
    op = "stem_conv2d_threshold"
    geometry = _stem_geometry(op, x, weight, stride, padding)
    _check_stem_bias(op, x, bias, geometry)
    for argument, bound in (("low", low), ("high", high)):
        require_dtype(op, argument, bound, (torch.float32,))
        require_per_channel(op, argument, bound, geometry.out_channels)
    require_same_device(op, x, weight=weight, bias=bias, low=low, high=high)
    return geometry


def separate_options(
    options: Sequence[int],
) -> tuple[Sequence[int], Sequence[int], Sequence[int], int, int]:
    """Stride, padding, dilation, groups and pad_value, from the one list of pack_and_convolve."""
    require(
        len(options) == 8,
        lambda: text(
            "pack_and_convolve",
            "options",
            "8 values (stride, padding, dilation: height and width each; groups; pad_value)",
            list(options),
        ),
    )
    return options[:2], options[2:4], options[4:6], options[6], options[7]
