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
from binop.backends import on_cpu
from binop.ops import LIBRARY

_ops = torch.ops.binop
_NAME = "pack_and_convolve"

LIBRARY.define(
    f"{_NAME}(Tensor x, Tensor weight, Tensor scale, SymInt[] options) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout),
)


def pack_and_convolve(x: Tensor, weight: Tensor, scale: Tensor, options: Sequence[int]) -> Tensor:
    """See ``binary_conv2d_packed``.

    Args:
        x: float ``[N, C, H, W]``, any strides.
        weight, scale: packed, and float32, as for ``binary_conv2d_packed``.
        options: stride, padding and dilation (two values each), groups, pad_value.

    Returns:
        ``[N, O, P, Q]`` in the dtype of ``x``, channels_last. No gradients.
    """
    separate = checks.separate_options(options)
    return _ops.binary_conv2d_packed.explicit(
        _ops.pack(x), weight, x.shape[1], scale, None, *separate, x.dtype
    )


_by_library = on_cpu(_NAME, pack_and_convolve)

# The library's call for inputs like the given one: of x, weight, scale, bias, the options, and a
# BatchNorm behind the convolution or None. None where the library has no such call.
bind_library = on_cpu("bind_pack_and_convolve", lambda *args: None)


def _cpu(x: Tensor, weight: Tensor, scale: Tensor, options: Sequence[int]) -> Tensor:
    # The library would compute in float64 what the ops compute in float32.
    serve = pack_and_convolve if x.dtype is torch.float64 else _by_library
    return serve(x, weight, scale, options)


def _fake(x: Tensor, weight: Tensor, scale: Tensor, options: Sequence[int]) -> Tensor:
    checks.check_pack(x)
    geometry = checks.check_binary_conv2d_packed(
        fake.pack(x), weight, x.shape[1], scale, None, *checks.separate_options(options), x.dtype
    )
    return fake.binary_conv2d_packed(x, weight, scale, None, geometry, 0, x.dtype)


LIBRARY.impl(_NAME, pack_and_convolve, "CompositeExplicitAutograd")
LIBRARY.impl(_NAME, _cpu, "CPU")
torch.library.register_fake(f"binop::{_NAME}", _fake, lib=LIBRARY)
