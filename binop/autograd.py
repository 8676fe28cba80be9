"""Gradients of ``binop::binary_conv2d`` (SEMANTICS 4), written so that AOTAutograd can trace them.

Straight-through estimators: Bengio et al. 2013 (arXiv:1308.3432); clipped as in Hubara et al.
2016 (arXiv:1602.02830). With ``g`` the gradient of the output:

    x        1[abs(x) <= clip * abs(scale_a)] * conv2d_input(g, scale_w * sgn(weight))
    weight   scale_a * G           where G = conv2d_weight(sgn(x) padded with pad_value, g)
    scale_w  scale_a * sum(sgn(weight) * G) over each filter
    scale_a  sum(scale_w * sum(sgn(weight) * G))

The scale gradients use that ``sum(g * dot)`` over batch and image is ``sum(sgn(weight) * G)``
over the filter: no second convolution. Convolutions run in the dtype of ``g``.

Of ``x`` only packed bits are saved: its signs, and the clip mask.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from binop.layout import memory_format
from binop.ops import LIBRARY

_ops = torch.ops.binop


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, scale_a, scale_w, *options, pad_value, clip = inputs
    for_x = ctx.needs_input_grad[0]
    for_others = any(ctx.needs_input_grad[1:4])
    signs = mask = None
    if for_x and clip < math.inf:
        signs, mask = _ops.pack_with_mask(x, scale_a, clip)
    elif for_others:
        signs = _ops.pack(x)
    ctx.save_for_backward(signs if for_others else None, mask, weight, scale_a, scale_w)
    ctx.x_shape = x.shape
    ctx.memory_format = memory_format(x)
    ctx.options = options
    ctx.pad_value = pad_value


def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    with torch.no_grad():
        grads = _gradients(ctx, grad)
    if torch.is_grad_enabled():
        grads = tuple(_FirstOrderOnly.attach(g) if g is not None else None for g in grads)
    return (*grads, None, None, None, None, None, None)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    signs, mask, weight, scale_a, scale_w = ctx.saved_tensors
    need_x, need_weight, need_scale_a, need_scale_w = ctx.needs_input_grad[:4]
    channels = ctx.x_shape[1]
    # One layout throughout: mixed layouts would make the library transpose inside.
    grad = grad.contiguous(memory_format=ctx.memory_format)
    # float32 holds any signs, so that scales enter before the one rounding to grad's dtype.
    compute = torch.promote_types(grad.dtype, torch.float32)
    wh = _ops.unpack(_ops.pack(weight), weight.shape[1], compute)

    grad_x = None
    if need_x:
        scaled = scale_w.to(compute).reshape(-1, 1, 1, 1) * wh
        scaled = scaled.to(grad.dtype).contiguous(memory_format=ctx.memory_format)
        grad_x = conv2d_input(ctx.x_shape, scaled, grad, *ctx.options)
        grad_x = grad_x.contiguous(memory_format=ctx.memory_format)
        if mask is not None:
            # In place: masked_fill would return a contiguous copy of a channels_last tensor.
            grad_x.masked_fill_(_ops.unpack(mask, channels, torch.int8) < 0, 0)

    grad_weight = grad_scale_a = grad_scale_w = None
    if need_weight or need_scale_a or need_scale_w:
        xh = _ops.unpack(signs, channels, grad.dtype).contiguous(memory_format=ctx.memory_format)
        correlation = _weight_correlation(xh, weight.shape, grad, ctx.options, ctx.pad_value)
        correlation = correlation.to(compute)
        if need_weight:
            grad_weight = (scale_a.to(compute) * correlation).to(weight.dtype)
        if need_scale_a or need_scale_w:
            per_channel = (wh * correlation).sum((1, 2, 3))
            if need_scale_a:
                total = (scale_w.to(compute) * per_channel).sum()
                grad_scale_a = total.to(scale_a.dtype).reshape(scale_a.shape)
            if need_scale_w:
                each = scale_a.to(compute) * per_channel
                each = each if scale_w.numel() == each.numel() else each.sum()
                grad_scale_w = each.to(scale_w.dtype).reshape(scale_w.shape)
    return grad_x, grad_weight, grad_scale_a, grad_scale_w


def _weight_correlation(
    xh: Tensor, weight_shape: Sequence[int], grad: Tensor, options: Sequence[Any], pad_value: int
) -> Tensor:
    """``conv2d_weight`` of signs whose padding taps have the value ``pad_value``."""
    stride, padding, dilation, groups = options
    if pad_value != 0:
        rows, columns = padding
        xh = F.pad(xh, (columns, columns, rows, rows), value=float(pad_value))
        padding = (0, 0)
    return conv2d_weight(xh, weight_shape, grad, stride, padding, dilation, groups)


class _FirstOrderOnly(torch.autograd.Function):
    """Hands a gradient through, and refuses to be differentiated.

    Without it, second derivatives would silently miss what the saved bits cannot carry.
    """

    @staticmethod
    def forward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise RuntimeError(
            "binary_conv2d: second derivatives: expected first derivatives only, got a backward "
            "pass through a gradient (create_graph=True): the straight-through estimator defines "
            "none"
        )

    @classmethod
    def attach(cls, grad: Tensor) -> Tensor:
        # The gradient itself need not require grad (ones from y.sum().backward() do not).
        return cls.apply(grad.detach().requires_grad_())


torch.library.register_autograd(
    "binop::binary_conv2d", backward, setup_context=setup_context, lib=LIBRARY
)
