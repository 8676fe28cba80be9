"""The structs of ``kernels/cpu/abi.h``."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

_I64 = ctypes.c_int64

DTYPES = {
    torch.float16: 0,
    torch.bfloat16: 1,
    torch.float32: 2,
    torch.float64: 3,
    torch.int8: 4,
}
BITS = 5

# What binop_cpu_conv returns.
DONE, STALE, NO_MEMORY = range(3)


class Image(ctypes.Structure):
    _fields_ = [("dtype", _I64), ("shape", _I64 * 4), ("stride", _I64 * 4)]


class PerChannel(ctypes.Structure):
    _fields_ = [("dtype", _I64), ("stride", _I64)]


class ResidualSpec(ctypes.Structure):
    _fields_ = [("stride", _I64 * 4), ("relu", _I64)]


class ConvSpec(ctypes.Structure):
    _fields_ = [
        ("path", _I64),
        ("x", Image),
        ("weight", Image),
        ("stride", _I64 * 2),
        ("padding", _I64 * 2),
        ("dilation", _I64 * 2),
        ("groups", _I64),
        ("pad_value", _I64),
        ("out_size", _I64 * 2),
        ("out_dtype", _I64),
        ("out_channels_last", _I64),
        ("scale_a", PerChannel),
        ("scale_w", PerChannel),
        ("bias", PerChannel),
        ("threshold", PerChannel),
        ("flip", PerChannel),
        ("residual", ResidualSpec),
    ]


_NORM_SOURCES = 6


class Norm(ctypes.Structure):
    _fields_ = [
        ("source", ctypes.c_void_p * _NORM_SOURCES),
        ("copy", ctypes.c_void_p * _NORM_SOURCES),
        ("scale", ctypes.c_void_p),
        ("shift", ctypes.c_void_p),
        ("fused", _I64),
    ]


class PackSpec(ctypes.Structure):
    _fields_ = [
        ("path", _I64),
        ("x", Image),
        ("clip", ctypes.c_double),
        ("scale_dtype", _I64),
    ]


class UnpackSpec(ctypes.Structure):
    _fields_ = [("path", _I64), ("pixels", _I64), ("channels", _I64), ("dtype", _I64)]


def norm(sources: Sequence[Tensor | None], copies: Tensor, affine: Tensor) -> Norm:
    """``affine`` is scale and shift. The tensors must live as long as the struct is used."""
    pointers = ctypes.c_void_p * _NORM_SOURCES
    return Norm(
        source=pointers(*[None if source is None else source.data_ptr() for source in sources]),
        copy=pointers(*[copy.data_ptr() for copy in copies]),
        scale=affine[0].data_ptr(),
        shift=affine[1].data_ptr(),
    )


def image(x: Tensor) -> Image:
    """A float (or int8) tensor ``[N, C, H, W]`` of any strides."""
    return Image(DTYPES[x.dtype], (_I64 * 4)(*x.shape), (_I64 * 4)(*x.stride()))


def packed_image(shape: Sequence[int]) -> Image:
    """A packed tensor of these logical sizes ``[N, C, H, W]``."""
    return Image(BITS, (_I64 * 4)(*shape), (_I64 * 4)())


def residual(x: Tensor, relu: bool) -> ResidualSpec:
    return ResidualSpec((_I64 * 4)(*x.stride()), relu)


def per_channel(values: Tensor | None) -> PerChannel:
    """One value or one per channel. The dtype is that of a float; other ops know theirs."""
    if values is None:
        return PerChannel()
    stride = 0 if values.numel() <= 1 else values.stride(0)
    return PerChannel(DTYPES.get(values.dtype, 0), stride)
