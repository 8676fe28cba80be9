"""Per shape: validated geometry, planned and loaded launches, and the outputs' layout.

Every ``prepare_*`` is called once per key of ``binop._cuda.ops`` with the op's arguments, checks
them, and returns what the later calls with equal keys run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from binop import checks
from binop._cuda.launch import PreparedLaunch, device_facts
from binop._cuda.launches import CONV_POINTERS, PACK_POINTERS, UNPACK_POINTERS, Launch
from binop._cuda.conv_call import ConvCall
from binop._cuda.plan_conv import plan_conv
from binop._cuda.plan_pack import Image, plan_pack, plan_unpack
from binop.geometry import Conv2dGeometry
from binop.layout import memory_format
from binop.packing import word_count

_NAMES = {
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    torch.float64: "float64",
    torch.int8: "int8",
}

# Both packed operands of a float convolution share one allocation, each at a 256-byte boundary.
_SCRATCH_WORDS = 64


def _nothing(*pointers: int) -> None:
    """The launch of an empty tensor."""


def _load(launch: Launch | None, pointers: Sequence[str], like: Tensor) -> Callable[..., None]:
    if launch is None:
        return _nothing
    return PreparedLaunch(launch, len(pointers), _index(like))


def _index(tensor: Tensor) -> int:
    return tensor.get_device()


def _alignment(*tensors: Tensor) -> int:
    """The largest power of two up to 16 that divides all addresses."""
    return math.gcd(16, *(tensor.data_ptr() for tensor in tensors))


def _stride(per_channel: Tensor | None) -> int:
    """Elements from one channel's value to the next; 0 where one value serves all."""
    if per_channel is None or per_channel.numel() <= 1:
        return 0
    return per_channel.stride(0)


def _image(x: Tensor) -> Image:
    return Image(_NAMES[x.dtype], tuple(x.shape), x.stride(), _alignment(x))


def _packed_shape(x: Tensor) -> tuple[int, ...]:
    images, channels, height, width = x.shape
    return images, height, width, word_count(channels)


def prepare_pack(x: Tensor) -> Callable[[Tensor], Tensor]:
    checks.check_pack(x)
    launch = _load(plan_pack(_image(x)), PACK_POINTERS, x)
    shape, device = _packed_shape(x), x.device

    def run(x: Tensor) -> Tensor:
        packed = torch.empty(shape, dtype=torch.int32, device=device)
        launch(x.data_ptr(), packed.data_ptr(), 0, 0)
        return packed

    return run


def prepare_pack_with_mask(
    x: Tensor, scale_a: Tensor, clip: float
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    checks.check_pack_with_mask(x, scale_a, clip)
    planned = plan_pack(_image(x), mask=True, clip=clip, scale_dtype=_NAMES[scale_a.dtype])
    launch = _load(planned, PACK_POINTERS, x)
    shape, device = _packed_shape(x), x.device

    def run(x: Tensor, scale_a: Tensor) -> tuple[Tensor, Tensor]:
        signs = torch.empty(shape, dtype=torch.int32, device=device)
        mask = torch.empty(shape, dtype=torch.int32, device=device)
        launch(x.data_ptr(), signs.data_ptr(), mask.data_ptr(), scale_a.data_ptr())
        return signs, mask

    return run


def prepare_unpack(packed: Tensor, channels: int, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    checks.check_unpack(packed, channels, dtype)
    images, height, width, _ = packed.shape
    planned = plan_unpack(images * height * width, channels, _NAMES[dtype])
    launch = _load(planned, UNPACK_POINTERS, packed)
    shape, device = (images, height, width, channels), packed.device

    def run(packed: Tensor) -> Tensor:
        signs = torch.empty(shape, dtype=dtype, device=device)
        launch(packed.data_ptr(), signs.data_ptr())
        return signs.permute(0, 3, 1, 2)

    return run


def _out_shape(geometry: Conv2dGeometry) -> tuple[int, ...]:
    return geometry.batch, geometry.out_channels, geometry.out_height, geometry.out_width


def _dense_strides(shape: tuple[int, ...], channels_last: bool) -> tuple[int, ...]:
    """For ``torch.empty_strided``, whose call takes 2 us where ``torch.empty`` takes 3.4."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, device="meta", memory_format=layout).stride()


def prepare_binary_conv2d(
    x: Tensor, weight: Tensor, scale_a: Tensor, scale_w: Tensor, *options: Any
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    geometry = checks.check_binary_conv2d(x, weight, scale_a, scale_w, *options)
    channels_last = memory_format(x) is torch.channels_last
    call = ConvCall(
        out=_NAMES[x.dtype],
        pad_value=options[4],
        channels_last=channels_last,
        alignment=16,
        scale_a_dtype=_NAMES[scale_a.dtype],
        scale_w_dtype=_NAMES[scale_w.dtype],
        scale_w_stride=_stride(scale_w),
    )
    # Packed by group, so that groups of any channel count start at whole words.
    pack_x = _load(plan_pack(_image(x), groups=geometry.groups), PACK_POINTERS, x)
    pack_weight = _load(plan_pack(_image(weight)), PACK_POINTERS, x)
    conv = _load(plan_conv(geometry, call, device_facts(_index(x))), CONV_POINTERS, x)

    words = word_count(geometry.group_channels)
    x_words = geometry.batch * geometry.height * geometry.width * geometry.groups * words
    weight_start = -(-x_words // _SCRATCH_WORDS) * _SCRATCH_WORDS
    scratch_words = weight_start + geometry.out_channels * math.prod(geometry.kernel) * words
    shape, dtype, device = _out_shape(geometry), x.dtype, x.device
    strides = _dense_strides(shape, channels_last)

    def run(x: Tensor, weight: Tensor, scale_a: Tensor, scale_w: Tensor) -> Tensor:
        out = torch.empty_strided(shape, strides, dtype=dtype, device=device)
        if shape[0] == 0:
            return out
        scratch = torch.empty_strided((scratch_words,), (1,), dtype=torch.int32, device=device)
        x_bits = scratch.data_ptr()
        weight_bits = x_bits + 4 * weight_start
        pack_x(x.data_ptr(), x_bits, 0, 0)
        pack_weight(weight.data_ptr(), weight_bits, 0, 0)
        conv(x_bits, weight_bits, out.data_ptr(), scale_a.data_ptr(), scale_w.data_ptr(), 0, 0, 0)
        return out

    return run


def prepare_binary_conv2d_packed(
    x: Tensor, weight: Tensor, channels: int, scale: Tensor, bias: Tensor | None, *options: Any
) -> Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]:
    geometry = checks.check_binary_conv2d_packed(x, weight, channels, scale, bias, *options)
    *_, pad_value, dtype = options
    call = ConvCall(
        out=_NAMES[dtype],
        pad_value=pad_value,
        channels_last=True,
        alignment=_alignment(x, weight),
        scale_w_stride=_stride(scale),
        bias_stride=_stride(bias),
    )
    conv = _load(plan_conv(geometry, call, device_facts(_index(x))), CONV_POINTERS, x)
    shape, device = _out_shape(geometry), x.device
    strides = _dense_strides(shape, channels_last=True)

    def run(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        out = torch.empty_strided(shape, strides, dtype=dtype, device=device)
        conv(
            x.data_ptr(),
            weight.data_ptr(),
            out.data_ptr(),
            0,
            scale.data_ptr(),
            0 if bias is None else bias.data_ptr(),
            0,
            0,
        )
        return out

    return run


def prepare_binary_conv2d_threshold(
    x: Tensor, weight: Tensor, channels: int, threshold: Tensor, flip: Tensor, *options: Any
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    geometry = checks.check_binary_conv2d_threshold(x, weight, channels, threshold, flip, *options)
    call = ConvCall(
        out="bits",
        pad_value=options[-1],
        channels_last=True,
        alignment=_alignment(x, weight),
        threshold_stride=_stride(threshold),
        flip_stride=_stride(flip),
    )
    conv = _load(plan_conv(geometry, call, device_facts(_index(x))), CONV_POINTERS, x)
    batch, out_channels, height, width = _out_shape(geometry)
    shape, device = (batch, height, width, word_count(out_channels)), x.device

    def run(x: Tensor, weight: Tensor, threshold: Tensor, flip: Tensor) -> Tensor:
        out = torch.empty(shape, dtype=torch.int32, device=device)
        conv(
            x.data_ptr(),
            weight.data_ptr(),
            out.data_ptr(),
            0,
            0,
            0,
            threshold.data_ptr(),
            flip.data_ptr(),
        )
        return out

    return run
