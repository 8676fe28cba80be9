"""vmap rules: a mapped input folds into the batch, mapped weights fold into the groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from binop import pack_and_convolve, residual, stem  # noqa: F401  (they register their ops)
from binop.ops import LIBRARY

_ops = torch.ops.binop


def _front(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """``tensor`` with its mapped dimension in front, expanded where it is not mapped."""
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _split(tensor: Tensor, dim: int, size: int) -> Tensor:
    """Dimension ``dim`` split into ``size`` equal parts (also where it is empty)."""
    return tensor.unflatten(dim, (size, tensor.shape[dim] // size))


def _fold_batch(op: Any, size: int, dim: int, x: Tensor, rest: Sequence[Any]) -> Any:
    result = op(_front(x, dim, size).flatten(0, 1), *rest)
    if isinstance(result, Tensor):
        return _split(result, 0, size)
    return tuple(_split(part, 0, size) for part in result)


def _one_by_one(op: Any, size: int, in_dims: Sequence[int | None], args: Sequence[Any]) -> Any:
    """The rule for what does not fold (mapped scales): one call per index."""
    calls = [
        op(*(a if d is None else a.select(d, i) for a, d in zip(args, in_dims, strict=True)))
        for i in range(size)
    ]
    if isinstance(calls[0], Tensor):
        return torch.stack(calls)
    return tuple(torch.stack(parts) for parts in zip(*calls, strict=True))


def _batch_rule(op: Any) -> Callable[..., Any]:
    """Folds a mapped first argument into its batch; any other mapping runs one by one."""

    def rule(info: Any, in_dims: Sequence[int | None], *args: Any) -> Any:
        size = info.batch_size
        # A list of numbers has a list of Nones.
        in_dims = [None if isinstance(dim, list | tuple) else dim for dim in in_dims]
        mapped = [i for i, dim in enumerate(in_dims) if dim is not None]
        if mapped == [0]:
            result = _fold_batch(op, size, in_dims[0] or 0, args[0], args[1:])
        else:
            result = _one_by_one(op, size, in_dims, args)
        return result, 0 if isinstance(result, Tensor) else (0,) * len(result)

    return rule


def _binary_conv2d_rule(
    info: Any,
    in_dims: Sequence[int | None],
    x: Tensor,
    weight: Tensor,
    scale_a: Tensor,
    scale_w: Tensor,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    pad_value: int = 0,
    clip: float = 1.0,
) -> tuple[Tensor, int]:
    op, size = _ops.binary_conv2d, info.batch_size
    x_dim, weight_dim, scale_a_dim, scale_w_dim, *_ = in_dims
    options = (stride, padding, dilation, groups, pad_value, clip)
    if weight_dim is None and scale_a_dim is None and scale_w_dim is None and x_dim is not None:
        return _fold_batch(op, size, x_dim, x, (weight, scale_a, scale_w, *options)), 0
    if scale_a_dim is not None:
        args = (x, weight, scale_a, scale_w, *options)
        return _one_by_one(op, size, [*in_dims[:4], *[None] * len(options)], args), 0
    # An ensemble: every member's channels become groups of one convolution.
    images = _front(x, x_dim, size).transpose(0, 1).flatten(1, 2)
    filters = _front(weight, weight_dim, size)
    scales = _front(scale_w, scale_w_dim, size).reshape(size, -1)
    scales = scales.expand(size, filters.shape[1]).flatten()
    y = op(
        images,
        filters.flatten(0, 1),
        scale_a,
        scales,
        stride,
        padding,
        dilation,
        size * groups,
        pad_value,
        clip,
    )
    return _split(y, 1, size), 1


torch.library.register_vmap("binop::binary_conv2d", _binary_conv2d_rule, lib=LIBRARY)
for _op in (
    _ops.pack.default,
    _ops.pack_with_mask.default,
    _ops.unpack.default,
    _ops.binary_conv2d_packed.default,
    _ops.binary_conv2d_packed.explicit,
    _ops.binary_conv2d_threshold.default,
    _ops.binary_conv2d_residual.default,
    _ops.pack_and_convolve.default,
    _ops.stem_conv2d.default,
    _ops.stem_conv2d_threshold.default,
):
    torch.library.register_vmap(_op, _batch_rule(_op), lib=LIBRARY)
