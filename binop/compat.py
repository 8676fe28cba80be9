"""Source compatibility with bitorch-engine's ``BinaryConv2dForward``."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from binop.functional import Size2d, binary_conv2d, binary_conv2d_packed
from binop.geometry import as_pair

_ops = torch.ops.binop


class BinaryConv2dForward:
    """``BinaryConv2dForward.apply(...)`` of bitorch-engine, on binop's operators.

    Values follow binop's semantics (zero padding; the original reads the tensor in the wrong
    layout). Gradients follow :func:`binop.functional.binary_conv2d`, except that of ``scale_a``,
    which is the original's: ``sum(grad_x * sgn(x)) / sqrt(x.numel())`` over the clipped ``grad_x``.
    """

    @staticmethod
    def apply(
        x: Tensor,
        weight: Tensor,
        scale_a: Tensor,
        scale_w: Tensor,
        is_train: bool,
        kernel_size: Size2d,
        stride: Size2d,
        padding: Size2d,
        dilation: Size2d,
    ) -> Tensor:
        """Convolves ``x`` ``[N, C, H, W]``.

        Args:
            x, scale_a, scale_w, stride, padding, dilation: as in ``binary_conv2d``.
            weight: ``[O, C, KH, KW]`` if ``is_train``; else packed int32
                ``[O, KH, KW, ceil(C/32)]``, as from ``torch.ops.binop.pack``.
            kernel_size: must be the size of ``weight``.

        Raises:
            ValueError: ``kernel_size`` differs from the weight's; else as ``binary_conv2d``.
        """
        if weight.ndim == 4:
            found = tuple(weight.shape[2:4] if is_train else weight.shape[1:3])
            if found != tuple(as_pair(kernel_size)):
                raise ValueError(
                    f"BinaryConv2dForward: kernel_size: expected that of weight, {found}, "
                    f"got {kernel_size}"
                )
        if not is_train:
            return binary_conv2d_packed(
                _ops.pack(x),
                weight,
                x.shape[1],
                scale_a.to(torch.float32) * scale_w.to(torch.float32),
                stride=stride,
                padding=padding,
                dilation=dilation,
                out_dtype=x.dtype,
            )
        return binary_conv2d(
            _ScaleGradient.apply(x, scale_a),
            weight,
            scale_a.detach(),
            scale_w,
            stride=stride,
            padding=padding,
            dilation=dilation,
        )


class _ScaleGradient(torch.autograd.Function):
    """The identity on ``x``; takes the original's gradient of ``scale_a`` from that of ``x``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale_a: Tensor) -> Tensor:
        ctx.save_for_backward(_ops.pack(x), scale_a)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad_x: Tensor) -> tuple[Tensor, Tensor]:
        signs, scale_a = ctx.saved_tensors
        xh = _ops.unpack(signs, grad_x.shape[1], grad_x.dtype)
        total = (grad_x * xh).sum(dtype=torch.promote_types(grad_x.dtype, torch.float32))
        grad_scale_a = total / math.sqrt(grad_x.numel())
        return grad_x, grad_scale_a.to(scale_a.dtype).reshape(scale_a.shape)
