"""Per shape: validated geometry, planned and loaded launches, and the outputs' layout.

Every ``prepare_*`` is called once per key of ``binop._cuda.ops`` with the op's arguments, checks
them, and returns what the later calls with equal keys run: on the first argument (for its device)
and the addresses of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from binop import checks
from binop._cuda.conv_call import ConvCall, ResidualSum
from binop._cuda.launch import (
    current_device,
    device_facts,
    empty_strided,
    prepare_launch,
)
from binop._cuda.launches import (
    CONV_POINTERS,
    PACK_POINTERS,
    RESIDUAL_POINTERS,
    STEM_POINTERS,
    UNPACK_POINTERS,
    Launch,
)
from binop._cuda.plan_conv import plan_conv, plan_residual_sum, why_no_residual_sum
from binop._cuda.plan_fused import plan_fused
from binop._cuda.plan_pack import Image, plan_pack, plan_unpack
from binop._cuda.plan_stem import (
    StemCall,
    plan_stem,
    why_no_stem_device,
    why_not_image,
    why_not_stem,
)
from binop._cuda.wgmma_block import why_no_wgmma_device
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

Run = Callable[..., Any]


def _nothing(*pointers: int) -> None:
    """The launch of an empty tensor."""


def _load(launch: Launch | None, pointers: Sequence[str], like: Tensor) -> Callable[..., None]:
    if launch is None:
        return _nothing
    return prepare_launch(launch, len(pointers), _index(like))


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


def _allocator(
    like: Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    layout: torch.memory_format = torch.contiguous_format,
) -> Callable[[Tensor], Tensor]:
    """What allocates a dense tensor on the device of ``like``, from a call's first tensor."""
    strides = torch.empty(shape, device="meta", memory_format=layout).stride()
    device = _index(like)

    def empty(tensor: Tensor) -> Tensor:
        if current_device() == device:
            return empty_strided(shape, strides, dtype)
        return tensor.new_empty_strided(shape, strides, dtype=dtype)

    return empty


def _packed_shape(x: Tensor) -> tuple[int, ...]:
    images, channels, height, width = x.shape
    return images, height, width, word_count(channels)


def prepare_pack(x: Tensor) -> Run:
    checks.check_pack(x)
    launch = _load(plan_pack(_image(x)), PACK_POINTERS, x)
    empty = _allocator(x, _packed_shape(x), torch.int32)

    def run(x: Tensor, at_x: int) -> Tensor:
        packed = empty(x)
        launch(at_x, packed.data_ptr(), 0, 0, 0, 0)
        return packed

    return run


def prepare_pack_with_mask(x: Tensor, scale_a: Tensor, clip: float) -> Run:
    checks.check_pack_with_mask(x, scale_a, clip)
    planned = plan_pack(_image(x), mask=True, clip=clip, scale_dtype=_NAMES[scale_a.dtype])
    launch = _load(planned, PACK_POINTERS, x)
    empty = _allocator(x, _packed_shape(x), torch.int32)

    def run(x: Tensor, at_x: int, at_scale_a: int) -> tuple[Tensor, Tensor]:
        signs, mask = empty(x), empty(x)
        launch(at_x, signs.data_ptr(), mask.data_ptr(), at_scale_a, 0, 0)
        return signs, mask

    return run


def prepare_unpack(packed: Tensor, channels: int, dtype: torch.dtype) -> Run:
    checks.check_unpack(packed, channels, dtype)
    images, height, width, _ = packed.shape
    planned = plan_unpack(images * height * width, channels, _NAMES[dtype])
    launch = _load(planned, UNPACK_POINTERS, packed)
    empty = _allocator(packed, (images, channels, height, width), dtype, torch.channels_last)

    def run(packed: Tensor, at_packed: int) -> Tensor:
        signs = empty(packed)
        launch(at_packed, signs.data_ptr())
        return signs

    return run


def _out_shape(geometry: Conv2dGeometry) -> tuple[int, ...]:
    return geometry.batch, geometry.out_channels, geometry.out_height, geometry.out_width


def prepare_binary_conv2d(
    x: Tensor, weight: Tensor, scale_a: Tensor, scale_w: Tensor, *options: Any
) -> Run:
    geometry = checks.check_binary_conv2d(x, weight, scale_a, scale_w, *options)
    layout = memory_format(x)
    call = ConvCall(
        out=_NAMES[x.dtype],
        pad_value=options[4],
        channels_last=layout is torch.channels_last,
        alignment=16,
        scale_a_dtype=_NAMES[scale_a.dtype],
        scale_w_dtype=_NAMES[scale_w.dtype],
        scale_w_stride=_stride(scale_w),
    )
    empty = _allocator(x, _out_shape(geometry), x.dtype, layout)
    fused = plan_fused(geometry, call, _image(x), _image(weight))
    if fused is not None:
        return _run_fused(_load(fused, CONV_POINTERS, x), empty)
    # Packed by group, so that groups of any channel count start at whole words.
    planned = plan_pack(_image(x), groups=geometry.groups, filters=_image(weight))
    pack_both = _load(planned, PACK_POINTERS, x)
    conv = _load(plan_conv(geometry, call, device_facts(_index(x))), CONV_POINTERS, x)

    words = word_count(geometry.group_channels)
    x_words = geometry.batch * geometry.height * geometry.width * geometry.groups * words
    weight_start = -(-x_words // _SCRATCH_WORDS) * _SCRATCH_WORDS
    filter_words = geometry.out_channels * math.prod(geometry.kernel) * words
    scratch = _allocator(x, (weight_start + filter_words,), torch.int32)
    weight_offset = 4 * weight_start

    def run(x: Tensor, at_x: int, at_weight: int, at_scale_a: int, at_scale_w: int) -> Tensor:
        out = empty(x)
        bits = scratch(x)  # lives until the launches are enqueued: the allocator orders the rest
        at_bits = bits.data_ptr()
        pack_both(at_x, at_bits, 0, 0, at_weight, at_bits + weight_offset)
        conv(at_bits, at_bits + weight_offset, out.data_ptr(), at_scale_a, at_scale_w, 0, 0, 0)
        return out

    return run


def _run_fused(launch: Callable[..., None], empty: Callable[[Tensor], Tensor]) -> Run:
    def run(x: Tensor, at_x: int, at_weight: int, at_scale_a: int, at_scale_w: int) -> Tensor:
        out = empty(x)
        launch(at_x, at_weight, out.data_ptr(), at_scale_a, at_scale_w, 0, 0, 0)
        return out

    return run


def prepare_binary_conv2d_packed(
    x: Tensor, weight: Tensor, channels: int, scale: Tensor, bias: Tensor | None, *options: Any
) -> Run:
    geometry = checks.check_binary_conv2d_packed(x, weight, channels, scale, bias, *options)
    *_, pad_value, dtype = options
    call = ConvCall(
        out=_NAMES[dtype],
        pad_value=pad_value,
        channels_last=True,
        alignment=_alignment(x, weight),
        scale_w_stride=_stride(scale),
        bias=bias is not None,
        bias_stride=_stride(bias),
    )
    conv = _load(plan_conv(geometry, call, device_facts(_index(x))), CONV_POINTERS, x)
    empty = _allocator(x, _out_shape(geometry), dtype, torch.channels_last)

    def run(x: Tensor, at_x: int, at_weight: int, at_scale: int, at_bias: int) -> Tensor:
        out = empty(x)
        conv(at_x, at_weight, out.data_ptr(), 0, at_scale, at_bias, 0, 0)
        return out

    return run


def prepare_binary_conv2d_threshold(
    x: Tensor, weight: Tensor, channels: int, threshold: Tensor, flip: Tensor, *options: Any
) -> Run:
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
    empty = _allocator(x, (batch, height, width, word_count(out_channels)), torch.int32)

    def run(x: Tensor, at_x: int, at_weight: int, at_threshold: int, at_flip: int) -> Tensor:
        out = empty(x)
        conv(at_x, at_weight, out.data_ptr(), 0, 0, 0, at_threshold, at_flip)
        return out

    return run


def residual_device_obstacle(device: int) -> str | None:
    """Why a device has no kernel for ``binary_conv2d_residual``."""
    return why_no_wgmma_device(device_facts(device))


def residual_obstacle(
    geometry: Conv2dGeometry, dtype: torch.dtype, pad_value: int, device: int
) -> str | None:
    """Why no kernel serves ``binary_conv2d_residual`` (with a channels_last residual)."""
    call = ConvCall(_NAMES[dtype], pad_value, True, 16, residual=ResidualSum(True, True, True))
    return why_no_residual_sum(geometry, call, device_facts(device))


def prepare_binary_conv2d_residual(
    x: Tensor,
    weight: Tensor,
    channels: int,
    scale: Tensor,
    norm: Tensor,
    residual: Tensor,
    activation: Tensor | None,
    shift: Tensor | None,
    relu: bool,
    *options: Any,
) -> Run:
    geometry = checks.check_binary_conv2d_residual(
        x, weight, channels, scale, norm, residual, activation, shift, *options
    )
    facts = device_facts(_index(x))
    call = ConvCall(
        out=_NAMES[residual.dtype],
        pad_value=options[-1],
        channels_last=True,
        alignment=_alignment(x, weight),
        scale_w_stride=_stride(scale),
        residual=ResidualSum(
            relu, activation is not None, shift is not None, _alignment(residual) == 16
        ),
    )
    if residual.numel() == 0 or why_no_residual_sum(geometry, call, facts) is not None:
        return lambda *arguments: NotImplemented
    launch = plan_residual_sum(geometry, call, facts)
    conv = _load(launch, RESIDUAL_POINTERS + CONV_POINTERS, x)
    batch, out_channels, height, width = shape = _out_shape(geometry)
    empty = _allocator(x, shape, residual.dtype, torch.channels_last)
    empty_signs = _allocator(x, (batch, height, width, word_count(out_channels)), torch.int32)

    def run(x: Tensor, *addresses: int) -> tuple[Tensor, Tensor]:
        at_x, at_weight, at_scale, at_norm, at_residual, at_activation, at_shift = addresses
        y, signs = empty(x), empty_signs(x)
        conv(
            signs.data_ptr(),
            at_residual,
            at_norm,
            at_activation,
            at_shift,
            at_x,
            at_weight,
            y.data_ptr(),
            0,
            at_scale,
            0,
            0,
            0,
        )
        return y, signs

    return run


def stem_device_obstacle(device: int) -> str | None:
    """Why a device has no kernel for ``stem_conv2d``."""
    return why_no_stem_device(device_facts(device))


def stem_obstacle(
    geometry: Conv2dGeometry, dtype: torch.dtype, packed: bool, device: int
) -> str | None:
    """Why no kernel serves ``stem_conv2d`` (or, ``packed``, the op of bits), whatever the image."""
    call = StemCall(_NAMES[dtype], bias=True, packed=packed, norm=not packed)
    return why_not_stem(geometry, call, device_facts(device))


def _stem(
    x: Tensor, weight: Tensor, geometry: Conv2dGeometry, call: StemCall
) -> Callable[..., None] | None:
    """The launch; None where the kernel does not take the shape."""
    facts = device_facts(_index(x))
    image = _image(x)
    if why_not_stem(geometry, call, facts) or why_not_image(geometry, image):
        return None
    launch = plan_stem(geometry, call, image, _image(weight), facts)
    return _load(launch, STEM_POINTERS, x)


def prepare_stem_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, norm: Tensor | None, relu: bool, *options: Any
) -> Run:
    geometry = checks.check_stem_conv2d(x, weight, bias, norm, relu, *options)
    call = StemCall(
        _NAMES[x.dtype],
        bias is not None,
        norm=norm is not None,
        relu=relu,
        bias_stride=_stride(bias),
    )
    launch = _stem(x, weight, geometry, call)
    if launch is None:
        return lambda *arguments: NotImplemented
    empty = _allocator(x, _out_shape(geometry), x.dtype, torch.channels_last)

    def run(x: Tensor, at_x: int, at_weight: int, at_bias: int, at_norm: int) -> Tensor:
        out = empty(x)
        launch(at_x, at_weight, out.data_ptr(), at_bias, at_norm, 0, 0)
        return out

    return run


def prepare_stem_conv2d_threshold(
    x: Tensor, weight: Tensor, bias: Tensor | None, low: Tensor, high: Tensor, *options: Any
) -> Run:
    geometry = checks.check_stem_conv2d_threshold(x, weight, bias, low, high, *options)
    call = StemCall(_NAMES[x.dtype], bias is not None, packed=True, bias_stride=_stride(bias))
    launch = _stem(x, weight, geometry, call)
    if launch is None:
        return lambda *arguments: NotImplemented
    batch, out_channels, height, width = _out_shape(geometry)
    empty = _allocator(x, (batch, height, width, word_count(out_channels)), torch.int32)

    def run(
        x: Tensor, at_x: int, at_weight: int, at_bias: int, at_low: int, at_high: int
    ) -> Tensor:
        out = empty(x)
        launch(at_x, at_weight, out.data_ptr(), at_bias, 0, at_low, at_high)
        return out

    return run
