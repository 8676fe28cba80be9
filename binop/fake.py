"""The outputs of every op without their values: shape, dtype, device and memory format.

Same functions and arguments as ``binop.reference``; the compiler calls these on FakeTensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from binop.geometry import Conv2dGeometry
from binop.packing import word_count


def _empty_output(
    geometry: Conv2dGeometry,
    dtype: torch.dtype,
    device: torch.device,
    memory_format: torch.memory_format,
) -> Tensor:
    size = (geometry.batch, geometry.out_channels, geometry.out_height, geometry.out_width)
    return torch.empty(size, dtype=dtype, device=device, memory_format=memory_format)


def binary_conv2d(
    x: Tensor,
    weight: Tensor,
    scale_a: Tensor,
    scale_w: Tensor,
    geometry: Conv2dGeometry,
    pad_value: int,
    memory_format: torch.memory_format,
) -> Tensor:
    return _empty_output(geometry, x.dtype, x.device, memory_format)


def pack(x: Tensor) -> Tensor:
    images, channels, height, width = x.shape
    return x.new_empty((images, height, width, word_count(channels)), dtype=torch.int32)


def pack_with_mask(x: Tensor, scale_a: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    return pack(x), pack(x)


def unpack(packed: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    images, height, width, _ = packed.shape
    return packed.new_empty((images, height, width, channels), dtype=dtype).permute(0, 3, 1, 2)


def binary_conv2d_packed(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    geometry: Conv2dGeometry,
    pad_value: int,
    out_dtype: torch.dtype,
) -> Tensor:
    return _empty_output(geometry, out_dtype, x.device, torch.channels_last)


def binary_conv2d_threshold(
    x: Tensor,
    weight: Tensor,
    threshold: Tensor,
    flip: Tensor,
    geometry: Conv2dGeometry,
    pad_value: int,
) -> Tensor:
    words = word_count(geometry.out_channels)
    return x.new_empty((geometry.batch, geometry.out_height, geometry.out_width, words))


def stem_conv2d(x: Tensor, geometry: Conv2dGeometry) -> Tensor:
    return _empty_output(geometry, x.dtype, x.device, torch.channels_last)


def stem_conv2d_threshold(x: Tensor, geometry: Conv2dGeometry) -> Tensor:
    words = word_count(geometry.out_channels)
    size = (geometry.batch, geometry.out_height, geometry.out_width, words)
    return x.new_empty(size, dtype=torch.int32)
