"""An independent, slow statement of the semantics: Python loops over integers.

It shares no code with binop and no algorithm with ``binop.reference``: signs come from the bytes
of each number (through ``struct``), the convolution is a nested loop, rounding is numpy's scalar
float32 arithmetic.
"""

from __future__ import annotations

import itertools
import struct

import numpy
import torch

_FORMATS = {
    torch.float16: ("<h", torch.int16, 5, 10),
    torch.bfloat16: ("<h", torch.int16, 8, 7),
    torch.float32: ("<i", torch.int32, 8, 23),
    torch.float64: ("<q", torch.int64, 11, 52),
}


def bit_of(pattern: int, exponent_bits: int, mantissa_bits: int) -> int:
    """1 if the float with this (unsigned) bit pattern is >= 0, from its fields."""
    mantissa = pattern & ((1 << mantissa_bits) - 1)
    exponent = (pattern >> mantissa_bits) & ((1 << exponent_bits) - 1)
    negative = pattern >> (mantissa_bits + exponent_bits)
    if exponent == (1 << exponent_bits) - 1 and mantissa != 0:
        return 0  # NaN
    if exponent == 0 and mantissa == 0:
        return 1  # either zero
    return 0 if negative else 1


def bits(x: torch.Tensor) -> numpy.ndarray:
    """0/1 of every element, as an int64 array of the shape of ``x``."""
    if x.dtype is torch.int8:
        flat = [int(v >= 0) for v in x.flatten().tolist()]
    else:
        code, integer, exponent_bits, mantissa_bits = _FORMATS[x.dtype]
        unsigned = code.upper()
        patterns = x.contiguous().view(integer).flatten().tolist()
        flat = [
            bit_of(struct.unpack(unsigned, struct.pack(code, p))[0], exponent_bits, mantissa_bits)
            for p in patterns
        ]
    return numpy.array(flat, dtype=numpy.int64).reshape(tuple(x.shape))


def dot(
    x_bits: numpy.ndarray,
    w_bits: numpy.ndarray,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    pad_value: int,
) -> numpy.ndarray:
    """``dot`` of SEMANTICS 2 as int64 ``[N, O, P, Q]``, one tap at a time."""
    batch, channels, height, width = x_bits.shape
    out_channels, depth, kernel_h, kernel_w = w_bits.shape
    out_h = (height + 2 * padding[0] - dilation[0] * (kernel_h - 1) - 1) // stride[0] + 1
    out_w = (width + 2 * padding[1] - dilation[1] * (kernel_w - 1) - 1) // stride[1] + 1
    result = numpy.zeros((batch, out_channels, out_h, out_w), dtype=numpy.int64)
    signs_x, signs_w = 2 * x_bits - 1, 2 * w_bits - 1
    per_group = out_channels // groups
    assert channels == depth * groups
    for p, q, i, j in itertools.product(
        range(out_h), range(out_w), range(kernel_h), range(kernel_w)
    ):
        row = p * stride[0] - padding[0] + i * dilation[0]
        column = q * stride[1] - padding[1] + j * dilation[1]
        inside = 0 <= row < height and 0 <= column < width
        for n, o in itertools.product(range(batch), range(out_channels)):
            first = (o // per_group) * depth
            for c in range(depth):
                value = signs_x[n, first + c, row, column] if inside else pad_value
                result[n, o, p, q] += value * signs_w[o, c, i, j]
    return result


def scaled(
    dots: numpy.ndarray, scale_a: torch.Tensor, scale_w: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """``alpha * dot`` of SEMANTICS 3, with numpy's scalar arithmetic."""
    real = numpy.float64 if dtype is torch.float64 else numpy.float32
    a = real(scale_a.to(torch.float64).item())
    w = [real(v) for v in scale_w.to(torch.float64).reshape(-1).tolist()]
    out = numpy.empty(dots.shape, dtype=real)
    for index in numpy.ndindex(*dots.shape):
        alpha = a * w[index[1] if len(w) > 1 else 0]
        out[index] = alpha * real(dots[index])
    return torch.from_numpy(out).to(dtype)


def packed(x_bits: numpy.ndarray) -> torch.Tensor:
    """The words of SEMANTICS 5, bit by bit."""
    images, channels, height, width = x_bits.shape
    words = numpy.zeros((images, height, width, (channels + 31) // 32), dtype=numpy.uint32)
    for n, c, h, w in numpy.ndindex(*x_bits.shape):
        words[n, h, w, c // 32] |= numpy.uint32(int(x_bits[n, c, h, w]) << (c % 32))
    return torch.from_numpy(words.view(numpy.int32))
