"""The semantics of every op in plain torch: the specification, and the backend of last resort.

Faster backends must return the same bits; they never call this module. Arguments arrive
validated (``binop.checks``), with the geometry that the check returned.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from binop.geometry import Conv2dGeometry
from binop.packing import WORD_BITS, word_count

# Integer type of the same width, and the bit pattern of +inf in it.
_INTEGER_VIEW = {
    torch.float16: (torch.int16, 0x7C00),
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float32: (torch.int32, 0x7F80_0000),
    torch.float64: (torch.int64, 0x7FF0_0000_0000_0000),
}

# A matrix product may sum in as few as 11 significant bits (TF32): exact up to 2**11.
_EXACT_TERMS = 2**11


def sign_bits(x: Tensor) -> Tensor:
    """``x >= 0`` as bool, for every bit pattern: -0.0 is True, NaN and negative subnormals False.

    Floats are decided on their integer representation, because a float comparison goes wrong
    where subnormals are flushed to zero (``torch.set_flush_denormal``).
    """
    if x.dtype is torch.int8:
        return x >= 0
    integer, infinity = _INTEGER_VIEW[x.dtype]
    bits = x.view(integer)
    minus_zero = torch.iinfo(integer).min
    return ((bits >= 0) & (bits <= infinity)) | (bits == minus_zero)


def clip_bits(x: Tensor, scale_a: Tensor, clip: float) -> Tensor:
    """``abs(x) <= clip * abs(scale_a)`` as bool, in float32 (float64 for float64 ``x``)."""
    compute = _compute_dtype(x.dtype)
    return x.abs().to(compute) <= clip * scale_a.abs().to(compute)


def pack(x: Tensor) -> Tensor:
    return _pack_bits(sign_bits(x))


def pack_with_mask(x: Tensor, scale_a: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    return pack(x), _pack_bits(clip_bits(x, scale_a, clip))


def _pack_bits(bits: Tensor) -> Tensor:
    """Bool ``[A, C, H, W]`` -> int32 ``[A, H, W, ceil(C/32)]``, in the layout of packing.py."""
    channels = bits.shape[1]
    words = word_count(channels)
    tail = words * WORD_BITS - channels
    lanes = F.pad(bits.permute(0, 2, 3, 1).to(torch.uint8), (0, tail))
    lanes = lanes.unflatten(-1, (words, WORD_BITS)).to(torch.int32)
    shifts = torch.arange(WORD_BITS, dtype=torch.int32, device=bits.device)
    return (lanes << shifts).sum(-1, dtype=torch.int32)


def unpack(packed: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """int32 ``[A, H, W, words]`` -> +1 and -1 as ``[A, channels, H, W]``, channels_last."""
    shifts = torch.arange(WORD_BITS, dtype=torch.int32, device=packed.device)
    bits = (packed.unsqueeze(-1) >> shifts) & 1
    signs = bits.flatten(-2)[..., :channels].to(dtype) * 2 - 1
    return signs.permute(0, 3, 1, 2)


def dot(xh: Tensor, wh: Tensor, geometry: Conv2dGeometry, pad_value: int) -> Tensor:
    """Convolution of float32 signs, an exact int32 ``[N, O, P, Q]``."""
    # Autocast stays active inside an op's kernel and would round the sums to 16 bits.
    with torch.autocast(xh.device.type, enabled=False):
        if xh.device.type == "cpu" and torch.backends.mkldnn.enabled:
            exact = _dot_direct(xh, wh, geometry, pad_value)
        else:
            exact = _dot_by_taps(xh, wh, geometry, pad_value)
    # Through int32 also because float sums of padding taps alone may come out as -0.0.
    return exact.to(torch.int32)


def _pad(xh: Tensor, geometry: Conv2dGeometry, pad_value: int) -> Tensor:
    rows, columns = geometry.padding
    return F.pad(xh, (columns, columns, rows, rows), value=float(pad_value))


def _dot_direct(xh: Tensor, wh: Tensor, geometry: Conv2dGeometry, pad_value: int) -> Tensor:
    # torch asks oneDNN for its direct algorithm (or falls to im2col and a matrix product): sums
    # in float32 of products of +-1, each partial sum an integer below 2**24, in whatever order.
    padding = geometry.padding
    if pad_value != 0:
        xh = _pad(xh, geometry, pad_value)
        padding = (0, 0)
    return F.conv2d(xh, wh, None, geometry.stride, padding, geometry.dilation, geometry.groups)


def _dot_by_taps(xh: Tensor, wh: Tensor, geometry: Conv2dGeometry, pad_value: int) -> Tensor:
    """One matrix product per kernel tap, each over at most ``_EXACT_TERMS`` channels.

    For libraries that may choose Winograd, FFT or TF32: every product's sum stays exact even
    in an 11-bit accumulator, and the products are added up in float32.
    """
    groups, depth = geometry.groups, geometry.group_channels
    height, width = geometry.out_height, geometry.out_width
    image = _pad(xh, geometry, pad_value).unflatten(1, (groups, depth))
    filters = wh.unflatten(0, (groups, geometry.out_channels // groups))
    total = image.new_zeros((geometry.batch, groups, filters.shape[1], height * width))
    for row in range(geometry.kernel[0]):
        for column in range(geometry.kernel[1]):
            top, left = row * geometry.dilation[0], column * geometry.dilation[1]
            seen = image[
                ...,
                top : top + (height - 1) * geometry.stride[0] + 1 : geometry.stride[0],
                left : left + (width - 1) * geometry.stride[1] + 1 : geometry.stride[1],
            ]
            for first in range(0, depth, _EXACT_TERMS):
                channels = slice(first, first + _EXACT_TERMS)
                total += filters[:, :, channels, row, column] @ seen[:, :, channels].flatten(-2)
    return total.reshape(geometry.batch, geometry.out_channels, height, width)


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the epilogue's arithmetic and of the clip comparison."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def _epilogue(
    dots: Tensor,
    alpha: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
) -> Tensor:
    """``alpha * dot (+ bias)``: one rounding per operation, then one to ``dtype``."""
    y = alpha.reshape(1, -1, 1, 1) * dots.to(alpha.dtype)
    if bias is not None:
        y = y + bias.reshape(1, -1, 1, 1)
    out = torch.empty(y.shape, dtype=dtype, device=y.device, memory_format=memory_format)
    return out.copy_(y)


def binary_conv2d(
    x: Tensor,
    weight: Tensor,
    scale_a: Tensor,
    scale_w: Tensor,
    geometry: Conv2dGeometry,
    pad_value: int,
    memory_format: torch.memory_format,
) -> Tensor:
    dots = dot(_float_signs(x), _float_signs(weight), geometry, pad_value)
    compute = _compute_dtype(x.dtype)
    alpha = scale_a.to(compute) * scale_w.to(compute)
    return _epilogue(dots, alpha, None, x.dtype, memory_format)


def binary_conv2d_packed(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    geometry: Conv2dGeometry,
    pad_value: int,
    out_dtype: torch.dtype,
) -> Tensor:
    dots = _packed_dot(x, weight, geometry, pad_value)
    return _epilogue(dots, scale, bias, out_dtype, torch.channels_last)


def binary_conv2d_threshold(
    x: Tensor,
    weight: Tensor,
    threshold: Tensor,
    flip: Tensor,
    geometry: Conv2dGeometry,
    pad_value: int,
) -> Tensor:
    dots = _packed_dot(x, weight, geometry, pad_value)
    return _pack_bits((dots >= threshold.reshape(1, -1, 1, 1)) ^ flip.reshape(1, -1, 1, 1))


def _float_signs(x: Tensor) -> Tensor:
    return sign_bits(x).to(torch.float32).mul_(2).sub_(1)


def _packed_dot(x: Tensor, weight: Tensor, geometry: Conv2dGeometry, pad_value: int) -> Tensor:
    xh = unpack(x, geometry.channels, torch.float32)
    wh = unpack(weight, geometry.group_channels, torch.float32)
    return dot(xh, wh, geometry, pad_value)
