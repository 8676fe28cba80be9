"""FLOP formulas for ``torch.utils.flop_counter``: two operations per tap, like a convolution's."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from binop import pack_and_convolve, residual, stem  # noqa: F401  (they register their ops)

_ops = torch.ops.binop


@register_flop_formula(_ops.binary_conv2d)
def _binary_conv2d_flops(
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    *args: Any,
    out_shape: Sequence[int],
    **kwargs: Any,
) -> int:
    return 2 * prod(out_shape) * prod(weight_shape[1:])


def _packed_flops(outputs: int, weight_shape: Sequence[int], channels: int, groups: int) -> int:
    return 2 * outputs * (channels // groups) * weight_shape[1] * weight_shape[2]


@register_flop_formula(_ops.binary_conv2d_packed)
def _binary_conv2d_packed_flops(
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    channels: int,
    scale_shape: Sequence[int],
    bias_shape: Sequence[int] | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    *args: Any,
    out_shape: Sequence[int],
    **kwargs: Any,
) -> int:
    return _packed_flops(prod(out_shape), weight_shape, channels, groups)


@register_flop_formula(_ops.binary_conv2d_residual)
def _binary_conv2d_residual_flops(
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    channels: int,
    *args: Any,
    out_shape: Sequence[Sequence[int]],
    **kwargs: Any,
) -> int:
    groups = args[-2]
    return _packed_flops(prod(out_shape[0]), weight_shape, channels, groups)


@register_flop_formula(_ops.stem_conv2d)
def _stem_conv2d_flops(
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    *args: Any,
    out_shape: Sequence[int],
    **kwargs: Any,
) -> int:
    return 2 * prod(out_shape) * prod(weight_shape[1:])


@register_flop_formula(_ops.stem_conv2d_threshold)
def _stem_conv2d_threshold_flops(
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    *args: Any,
    out_shape: Sequence[int],
    **kwargs: Any,
) -> int:
    return 2 * prod(out_shape[:3]) * prod(weight_shape)  # The output is packed.


@register_flop_formula(_ops.pack_and_convolve)
def _pack_and_convolve_flops(
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    scale_shape: Sequence[int],
    options: Sequence[int],
    *,
    out_shape: Sequence[int],
    **kwargs: Any,
) -> int:
    groups = options[-2]
    return _packed_flops(prod(out_shape), weight_shape, x_shape[1], groups)


@register_flop_formula(_ops.binary_conv2d_threshold)
def _binary_conv2d_threshold_flops(
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    channels: int,
    threshold_shape: Sequence[int],
    flip_shape: Sequence[int],
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    *args: Any,
    out_shape: Sequence[int],
    **kwargs: Any,
) -> int:
    # The output is packed; the weight has a filter for every output channel.
    outputs = prod(out_shape[:3]) * weight_shape[0]
    return _packed_flops(outputs, weight_shape, channels, groups)
