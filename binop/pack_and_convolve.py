"""``binop::pack_and_convolve``: ``binary_conv2d_packed(pack(x), weight, ...)`` in one op.

For compiled graphs, where ``pack`` of a float tensor has one reader. An op that Python serves costs
a compiled graph its way through the dispatcher (2 us for an op of one tensor, 8 for one of eleven
arguments), so that the options of the convolution come as one list. On the CPU one call of the
library does both, and no packed ``x`` lies between; elsewhere the op is a composition, and the
compiler does not use it (``binop.inductor.join_pack.DEVICES``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from binop import checks, fake
from binop.arguments import require, text
from binop.backends import on_cpu
from binop.batch_norm import BatchNorm
from binop.ops import LIBRARY

_ops = torch.ops.binop
_NAME = "pack_and_convolve"

# Their number is that of stride, padding and dilation (two each), groups and pad_value.
_OPTIONS = 8

LIBRARY.define(
    f"{_NAME}(Tensor x, Tensor weight, Tensor scale, SymInt[] options) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout),
)


def by_ops(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: int,
    norm: BatchNorm | None = None,
) -> Tensor:
    y: Tensor = _ops.binary_conv2d_packed.explicit(
        _ops.pack(x),
        weight,
        x.shape[1],
        scale,
        bias,
        stride,
        padding,
        dilation,
        groups,
        pad_value,
        x.dtype,
    )
    return y if norm is None else norm.apply(y)


# Not for float64 input: the library would compute in float64 what the ops compute in float32.
by_library = on_cpu(_NAME, by_ops)


def pack_and_convolve(x: Tensor, weight: Tensor, scale: Tensor, options: Sequence[int]) -> Tensor:
    """See ``binary_conv2d_packed``.

    Args:
        x: float ``[N, C, H, W]``, any strides.
        weight, scale: packed, and float32, as for ``binary_conv2d_packed``.
        options: stride, padding and dilation (two values each), groups, pad_value.

    Returns:
        ``[N, O, P, Q]`` in the dtype of ``x``, channels_last. No gradients.
    """
    return by_ops(x, weight, scale, None, *_separate(options))


def _separate(
    options: Sequence[int],
) -> tuple[Sequence[int], Sequence[int], Sequence[int], int, int]:
    require(
        len(options) == _OPTIONS,
        lambda: text(
            _NAME,
            "options",
            "8 values (stride, padding, dilation: height and width each; groups; pad_value)",
            list(options),
        ),
    )
    return options[:2], options[2:4], options[4:6], options[6], options[7]


def _cpu(x: Tensor, weight: Tensor, scale: Tensor, options: Sequence[int]) -> Tensor:
    if x.dtype is torch.float64:
        return pack_and_convolve(x, weight, scale, options)
    return by_library(x, weight, scale, None, *_separate(options))


def _fake(x: Tensor, weight: Tensor, scale: Tensor, options: Sequence[int]) -> Tensor:
    checks.check_pack(x)
    geometry = checks.check_binary_conv2d_packed(
        fake.pack(x), weight, x.shape[1], scale, None, *_separate(options), x.dtype
    )
    return fake.binary_conv2d_packed(x, weight, scale, None, geometry, 0, x.dtype)


LIBRARY.impl(_NAME, pack_and_convolve, "CompositeExplicitAutograd")
LIBRARY.impl(_NAME, _cpu, "CPU")
torch.library.register_fake(f"binop::{_NAME}", _fake, lib=LIBRARY)
