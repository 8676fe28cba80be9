"""Functions on tensors: the ops with PyTorch's argument conventions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from binop.geometry import Pair, as_pair, same_padding
from binop.layout import memory_format

Size2d = int | Sequence[int]


def binary_conv2d(
    x: Tensor,
    weight: Tensor,
    scale_a: Tensor | None = None,
    scale_w: Tensor | None = None,
    *,
    stride: Size2d = 1,
    padding: Size2d | str = 0,
    dilation: Size2d = 1,
    groups: int = 1,
    pad_value: int = 0,
    clip: float = 1.0,
) -> Tensor:
    r"""2-D convolution of the signs of ``x`` and ``weight``, scaled.

    .. math:: y_o = (scale\_a \cdot scale\_w_o) \sum sgn(x) \cdot sgn(weight_o)

    ``sgn(v)`` is +1 where ``v >= 0`` (also -0.0) and -1 elsewhere (also NaN). The sum is an exact
    integer; the scales are multiplied in float32 and ``y`` is rounded once to the dtype of ``x``.

    Args:
        x: ``[N, C, H, W]``; float16, bfloat16, float32, or on the CPU float64. Any strides.
        weight: ``[O, C/groups, KH, KW]``; any of these dtypes or int8.
        scale_a: scale of the activations, one element (0-d or ``[1]``), floating. None is 1.
        scale_w: scale of the weights, one element or ``[O]``, floating. None is 1.
        stride, dilation: an int, or (height, width).
        padding: an int, (height, width), ``"same"`` (stride 1 only) or ``"valid"``, in elements
            added on each side.
        groups: number of blocks that input and output channels are split into.
        pad_value: what padding counts as in the sum: 0 (nothing), +1 or -1.
        clip: the gradient of ``x`` passes where ``abs(x) <= clip * abs(scale_a)``;
            ``math.inf`` passes all of it.

    Returns:
        ``[N, O, P, Q]`` in the dtype of ``x``; channels_last where ``x`` is, else contiguous.

    Gradients (straight-through) flow to ``x``, to a floating ``weight``, and to both scales;
    second derivatives raise ``RuntimeError``. Autocast changes nothing: the output keeps the
    dtype of ``x``.

    Raises:
        ValueError, TypeError, RuntimeError: naming the argument, what was expected and what came.

    Source: Rastegari et al. 2016, XNOR-Net (arXiv:1603.05279); the clipped straight-through
    estimator of Hubara et al. 2016 (arXiv:1602.02830).
    """
    stride, dilation = as_pair(stride), as_pair(dilation)
    pads, drop = _resolve_padding(padding, weight.shape[2:], stride, dilation)
    if scale_a is None or scale_w is None:
        one = torch.ones((), device=x.device)
        scale_a = one if scale_a is None else scale_a
        scale_w = one if scale_w is None else scale_w
    y = torch.ops.binop.binary_conv2d(
        x, weight, scale_a, scale_w, stride, pads, dilation, groups, pad_value, clip
    )
    return _drop_leading(y, drop)


def binary_conv2d_packed(
    x: Tensor,
    weight: Tensor,
    channels: int,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Size2d = 1,
    padding: Size2d | str = 0,
    dilation: Size2d = 1,
    groups: int = 1,
    pad_value: int = 0,
    out_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The convolution of :func:`binary_conv2d` on tensors that are packed already, for inference.

    Args:
        x: int32 ``[N, H, W, ceil(channels/32)]``, as from ``torch.ops.binop.pack``.
        weight: int32 ``[O, KH, KW, ceil(channels/groups/32)]``.
        channels: channels of ``x``; with ``groups > 1`` a multiple of 32 per group.
        scale: float32, one element or ``[O]``: the product of both scales.
        bias: float32 ``[O]``, added in float32 after scaling, or None.
        stride, padding, dilation, groups, pad_value: as in :func:`binary_conv2d`.
        out_dtype: float16, bfloat16, float32, or on the CPU float64.

    Returns:
        ``[N, O, P, Q]``, channels_last. No gradients.

    Raises:
        ValueError, TypeError, RuntimeError: naming the argument, what was expected and what came.
    """
    stride, dilation = as_pair(stride), as_pair(dilation)
    pads, drop = _resolve_padding(padding, weight.shape[1:3], stride, dilation)
    y = torch.ops.binop.binary_conv2d_packed.explicit(
        x, weight, channels, scale, bias, stride, pads, dilation, groups, pad_value, out_dtype
    )
    return _drop_leading(y, drop)


def _resolve_padding(
    padding: Size2d | str, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[Sequence[int], Pair]:
    """Numeric padding for the ops, and how many leading rows and columns to drop afterwards."""
    if padding == "same":
        return same_padding(kernel, stride, dilation)
    if padding == "valid":
        return (0, 0), (0, 0)
    if isinstance(padding, str):
        raise ValueError(
            f"binary_conv2d: padding: expected an int, 2 ints, 'same' or 'valid', got {padding!r}"
        )
    return as_pair(padding), (0, 0)


def _drop_leading(y: Tensor, drop: Pair) -> Tensor:
    """``y`` without its first rows and columns, in the memory format that it had."""
    if drop == (0, 0):
        return y
    return y[:, :, drop[0] :, drop[1] :].contiguous(memory_format=memory_format(y))
