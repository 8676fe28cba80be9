"""Per shape: validated geometry, the library's plan, and the outputs' layout.

Every ``prepare_*`` is called once per key of ``binop._cpu.ops`` with the op's arguments, checks
them, and returns what the later calls with equal keys run.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from binop import checks
from binop._cpu import abi, library, weights
from binop.geometry import Conv2dGeometry
from binop.layout import memory_format
from binop.packing import word_count

# What Inductor's own code calls: half the time of torch.empty_strided.
_empty: Callable[..., Tensor] = torch._C._dynamo.guards._empty_strided_cpu  # type: ignore[attr-defined]
_threads = torch.get_num_threads


def _packed_shape(x: Tensor) -> tuple[int, ...]:
    images, channels, height, width = x.shape
    return images, height, width, word_count(channels)


def _dense_strides(shape: Sequence[int], channels_last: bool = False) -> tuple[int, ...]:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, device="meta", memory_format=layout).stride()


def prepare_pack(x: Tensor) -> Callable[[Tensor], Tensor]:
    checks.check_pack(x)
    shape = _packed_shape(x)
    strides = _dense_strides(shape)
    if x.numel() == 0:
        return lambda x: torch.zeros(shape, dtype=torch.int32)
    spec = abi.PackSpec(library.current(), abi.image(x), 0.0, 0)
    pack, reference = library.load().binop_cpu_pack, ctypes.byref(spec)

    def run(x: Tensor) -> Tensor:
        packed = _empty(shape, strides, torch.int32)
        pack(reference, x.data_ptr(), packed.data_ptr(), None, None, _threads())
        return packed

    return run


def prepare_pack_with_mask(
    x: Tensor, scale_a: Tensor, clip: float
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    checks.check_pack_with_mask(x, scale_a, clip)
    shape = _packed_shape(x)
    strides = _dense_strides(shape)
    if x.numel() == 0:
        return lambda x, scale_a: (
            torch.zeros(shape, dtype=torch.int32),
            torch.zeros(shape, dtype=torch.int32),
        )
    spec = abi.PackSpec(library.current(), abi.image(x), clip, abi.DTYPES[scale_a.dtype])
    pack, reference = library.load().binop_cpu_pack, ctypes.byref(spec)

    def run(x: Tensor, scale_a: Tensor) -> tuple[Tensor, Tensor]:
        signs = _empty(shape, strides, torch.int32)
        mask = _empty(shape, strides, torch.int32)
        pack(
            reference,
            x.data_ptr(),
            signs.data_ptr(),
            mask.data_ptr(),
            scale_a.data_ptr(),
            _threads(),
        )
        return signs, mask

    return run


def prepare_unpack(packed: Tensor, channels: int, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    checks.check_unpack(packed, channels, dtype)
    images, height, width, _ = packed.shape
    shape = (images, channels, height, width)
    image, row, pixel, channel = _dense_strides((images, height, width, channels))
    strides = (image, channel, row, pixel)
    pixels = images * height * width
    spec = abi.UnpackSpec(library.current(), pixels, channels, abi.DTYPES[dtype])
    unpack, reference = library.load().binop_cpu_unpack, ctypes.byref(spec)

    def run(packed: Tensor) -> Tensor:
        signs = _empty(shape, strides, dtype)
        unpack(reference, packed.data_ptr(), signs.data_ptr(), _threads())
        return signs

    return run


def _spec(
    geometry: Conv2dGeometry,
    x: abi.Image,
    weight: abi.Image,
    pad_value: int,
    out_dtype: int,
    channels_last: bool,
    residual: abi.ResidualSpec | None = None,
    **per_channel: Tensor | None,
) -> abi.ConvSpec:
    pair = ctypes.c_int64 * 2
    return abi.ConvSpec(
        path=library.current(),
        x=x,
        weight=weight,
        stride=pair(*geometry.stride),
        padding=pair(*geometry.padding),
        dilation=pair(*geometry.dilation),
        groups=geometry.groups,
        pad_value=pad_value,
        out_size=pair(geometry.out_height, geometry.out_width),
        out_dtype=out_dtype,
        out_channels_last=channels_last,
        residual=residual or abi.ResidualSpec(),
        **{name: abi.per_channel(values) for name, values in per_channel.items()},
    )


class _Plan:
    """The library's plan of one convolution, and its call."""

    def __init__(self, spec: abi.ConvSpec) -> None:
        native = library.load()
        reference = ctypes.byref(spec)
        self.memory = ctypes.create_string_buffer(native.binop_cpu_plan_bytes(reference))
        native.binop_cpu_plan(reference, self.memory)
        self.conv = native.binop_cpu_conv
        self.conv_residual = native.binop_cpu_conv_residual
        self._prepare = native.binop_cpu_prepare
        self._prepared_bytes = native.binop_cpu_prepared_bytes(self.memory)
        # What the layout of prepared weights depends on.
        self._weight_key = (
            spec.path,
            tuple(spec.weight.shape),
            spec.groups,
            spec.pad_value == 0 and any(spec.padding),
        )

    def run(self, x: Tensor, weight: Tensor, out: Tensor, *pointers: int | None) -> bool:
        """Writes the convolution of a packed weight into ``out``. False: with a norm whose vectors
        may have changed."""
        return self._run(self.conv, pointers[-1] is None, x, weight, out, *pointers)

    def run_residual(self, x: Tensor, weight: Tensor, y: Tensor, *pointers: int | None) -> None:
        """Writes the residual sum behind the convolution of a packed weight into ``y``."""
        self._run(self.conv_residual, True, x, weight, y, *pointers)

    def _run(
        self,
        conv: Callable[..., int],
        again: bool,
        x: Tensor,
        weight: Tensor,
        out: Tensor,
        *pointers: int | None,
    ) -> bool:
        """Until kept weights are not stale; unless ``again``, only once, and False if they were."""
        key = (weight.data_ptr(), self._weight_key)
        kept = weights.find(key) or self._keep(key, weight)
        while True:
            outcome = conv(
                self.memory,
                x.data_ptr(),
                weight.data_ptr(),
                kept.raw_pointer,
                kept.prepared_pointer,
                out.data_ptr(),
                *pointers,
                _threads(),
            )
            if outcome == abi.DONE:
                return True
            _require_memory(outcome)
            kept = self._keep(key, weight)
            if not again:
                return False

    def _keep(self, key: Any, weight: Tensor) -> weights.PreparedWeight:
        def prepare(raw: int, prepared: int) -> None:
            self._prepare(self.memory, raw, prepared, _threads())

        return weights.keep(key, weight, self._prepared_bytes, prepare)


def _require_memory(outcome: int) -> None:
    if outcome == abi.NO_MEMORY:
        raise MemoryError("binop: no memory for the packed operands of a convolution")


def _packed_x(geometry: Conv2dGeometry) -> abi.Image:
    return abi.packed_image((geometry.batch, geometry.channels, geometry.height, geometry.width))


def _packed_plan(
    geometry: Conv2dGeometry,
    x: abi.Image,
    pad_value: int,
    out_dtype: int,
    residual: abi.ResidualSpec | None = None,
    **per_channel: Tensor | None,
) -> _Plan:
    weight = (geometry.out_channels, geometry.group_channels, *geometry.kernel)
    return _Plan(
        _spec(
            geometry,
            x,
            abi.packed_image(weight),
            pad_value,
            out_dtype,
            True,
            residual,
            **per_channel,
        )
    )


def _out_shape(geometry: Conv2dGeometry) -> tuple[int, ...]:
    return geometry.batch, geometry.out_channels, geometry.out_height, geometry.out_width


def prepare_binary_conv2d(
    x: Tensor, weight: Tensor, scale_a: Tensor, scale_w: Tensor, *options: Any
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    geometry = checks.check_binary_conv2d(x, weight, scale_a, scale_w, *options)
    channels_last = memory_format(x) is torch.channels_last
    shape, dtype = _out_shape(geometry), x.dtype
    strides = _dense_strides(shape, channels_last)
    if geometry.batch == 0:
        return lambda *tensors: _empty(shape, strides, dtype)
    plan = _Plan(
        _spec(
            geometry,
            abi.image(x),
            abi.image(weight),
            options[4],
            abi.DTYPES[dtype],
            channels_last,
            scale_a=scale_a,
            scale_w=scale_w,
        )
    )
    conv, memory = plan.conv, plan.memory

    def run(x: Tensor, weight: Tensor, scale_a: Tensor, scale_w: Tensor) -> Tensor:
        out = _empty(shape, strides, dtype)
        outcome = conv(
            memory,
            x.data_ptr(),
            weight.data_ptr(),
            None,
            None,
            out.data_ptr(),
            scale_a.data_ptr(),
            scale_w.data_ptr(),
            None,
            None,
            None,
            None,
            _threads(),
        )
        _require_memory(outcome)
        return out

    return run


def prepare_binary_conv2d_packed(
    x: Tensor, weight: Tensor, channels: int, scale: Tensor, bias: Tensor | None, *options: Any
) -> Callable[..., Any]:
    geometry = checks.check_binary_conv2d_packed(x, weight, channels, scale, bias, *options)
    return _scaled(geometry, _packed_x(geometry), scale, bias, options[4], options[5])


def prepare_pack_and_convolve(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, *options: Any
) -> Callable[..., Any]:
    checks.check_pack(x)
    packed = torch.empty(_packed_shape(x), dtype=torch.int32)
    options = (*options, x.dtype)
    geometry = checks.check_binary_conv2d_packed(packed, weight, x.shape[1], scale, bias, *options)
    return _scaled(geometry, abi.image(x), scale, bias, options[4], x.dtype)


def _scaled(
    geometry: Conv2dGeometry,
    image: abi.Image,
    scale: Tensor,
    bias: Tensor | None,
    pad_value: int,
    dtype: torch.dtype,
) -> Callable[..., Any]:
    """The convolution of a packed weight to scaled floats; with a norm, see ``_Plan.run``."""
    shape = _out_shape(geometry)
    strides = _dense_strides(shape, channels_last=True)
    if geometry.batch == 0:
        return lambda *tensors: _empty(shape, strides, dtype)
    plan = _packed_plan(geometry, image, pad_value, abi.DTYPES[dtype], scale_w=scale, bias=bias)

    def run(
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        norm_pointer: int | None = None,
    ) -> Tensor | None:
        out = _empty(shape, strides, dtype)
        bias_pointer = None if bias is None else bias.data_ptr()
        done = plan.run(
            x, weight, out, None, scale.data_ptr(), bias_pointer, None, None, norm_pointer
        )
        return out if done else None

    return run


def prepare_binary_conv2d_threshold(
    x: Tensor, weight: Tensor, channels: int, threshold: Tensor, flip: Tensor, *options: Any
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    geometry = checks.check_binary_conv2d_threshold(x, weight, channels, threshold, flip, *options)
    batch, out_channels, height, width = _out_shape(geometry)
    shape = (batch, height, width, word_count(out_channels))
    strides = _dense_strides(shape)
    if batch == 0:
        return lambda *tensors: _empty(shape, strides, torch.int32)
    plan = _packed_plan(
        geometry, _packed_x(geometry), options[4], abi.BITS, threshold=threshold, flip=flip
    )

    def run(x: Tensor, weight: Tensor, threshold: Tensor, flip: Tensor) -> Tensor:
        out = _empty(shape, strides, torch.int32)
        decide = threshold.data_ptr(), flip.data_ptr()
        plan.run(x, weight, out, None, None, None, *decide, None)
        return out

    return run


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
) -> Callable[..., tuple[Tensor, Tensor]]:
    geometry = checks.check_binary_conv2d_residual(
        x, weight, channels, scale, norm, residual, activation, shift, *options
    )
    shape, dtype = _out_shape(geometry), residual.dtype
    strides = _dense_strides(shape, channels_last=True)
    words = (shape[0], shape[2], shape[3], word_count(shape[1]))
    word_strides = _dense_strides(words)
    if geometry.batch == 0:
        return lambda *tensors: (
            _empty(shape, strides, dtype),
            _empty(words, word_strides, torch.int32),
        )
    plan = _packed_plan(
        geometry,
        _packed_x(geometry),
        options[4],
        abi.DTYPES[dtype],
        abi.residual(residual, relu),
        scale_w=scale,
    )

    def run(
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        norm: Tensor,
        residual: Tensor,
        activation: Tensor | None,
        shift: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        y = _empty(shape, strides, dtype)
        signs = _empty(words, word_strides, torch.int32)
        plan.run_residual(
            x,
            weight,
            y,
            signs.data_ptr(),
            scale.data_ptr(),
            norm.data_ptr(),
            residual.data_ptr(),
            None if activation is None else activation.data_ptr(),
            None if shift is None else shift.data_ptr(),
        )
        return y, signs

    return run
