"""``binop::binary_conv2d_residual``: a convolution between two residual sums, in one op.

In networks with shortcuts (Bi-Real Net, QuickNet, ReActNet) the next layer needs the float sum, as
its own shortcut, and the sum's sign bits. A kernel that writes both from one pass reads the
residual and the packed input, and nothing else of that size.

Here the op is a composition of the others, for every device; on CUDA, ``conv_wgmma`` or
``conv_wgmma_rows`` computes it where one can, and on the CPU the library, with the same bits.
``obstacle`` says where: elsewhere the compiler does not use the op, because Inductor fuses the
composition better.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from binop import checks, fake
from binop.backends import cpu_obstacle, cuda_obstacle, on_cpu, on_cuda
from binop.ops import LIBRARY

_ops = torch.ops.binop
_NAME = "binary_conv2d_residual"

# Without a tag for it, Inductor leaves the layouts of what a pass calls to chance.
LIBRARY.define(
    f"{_NAME}(Tensor x, Tensor weight, SymInt channels, Tensor scale, Tensor norm, "
    "Tensor residual, Tensor? activation, Tensor? shift, bool relu, SymInt[2] stride, "
    "SymInt[2] padding, SymInt[2] dilation, SymInt groups, int pad_value) "
    "-> (Tensor y, Tensor signs)",
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order),
)


def binary_conv2d_residual(
    x: Tensor,
    weight: Tensor,
    channels: int,
    scale: Tensor,
    norm: Tensor,
    residual: Tensor,
    activation: Tensor | None,
    shift: Tensor | None,
    relu: bool,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: int,
) -> tuple[Tensor, Tensor]:
    """With ``c`` what ``binary_conv2d_packed`` returns in the dtype of ``residual``, all further
    steps in float32, each rounded once::

        c = max(c, 0)                                      if relu
        s = (c - norm[0]) * norm[1] * norm[2] + norm[3] + residual
        s = prelu(s + activation[0], slope=activation[1]) + activation[2]   if activation
        y = s rounded to the dtype of residual
        signs = pack(y + shift)                            (without shift: pack(y))

    Args:
        x, weight, channels, scale, stride, padding, dilation, groups, pad_value: as for
            ``binary_conv2d_packed``.
        norm: float32 ``[4, O]``: BatchNorm's mean, 1 / std, weight and bias.
        residual: ``[N, O, P, Q]``, float16, bfloat16 or float32, any strides.
        activation: float32 ``[3, O]``, RPReLU (arXiv:2003.03488), or None.
        shift: float32 ``[O]``, RSign's, or None.

    Returns:
        ``y`` ``[N, O, P, Q]``, channels_last, and int32 ``signs`` ``[N, P, Q, ceil(O/32)]``. No
        gradients.
    """
    options = (stride, padding, dilation, groups, pad_value)
    checks.check_binary_conv2d_residual(
        x, weight, channels, scale, norm, residual, activation, shift, *options
    )
    c = _ops.binary_conv2d_packed.explicit(
        x, weight, channels, scale, None, *options, residual.dtype
    )
    s = c.to(torch.float32)
    if relu:
        s = torch.where(s < 0, 0.0, s)  # relu of -0.0 is -0.0 on the CPU and 0.0 on CUDA
    mean, inverse, gamma, beta = norm.unsqueeze(-1).unsqueeze(-1)
    s = (s - mean) * inverse * gamma + beta + residual
    if activation is not None:
        before, slope, after = activation.unsqueeze(-1).unsqueeze(-1)
        s = s + before
        s = torch.where(s > 0, s, slope * s) + after
    y = s.to(residual.dtype).contiguous(memory_format=torch.channels_last)
    decided = y if shift is None else y.to(torch.float32) + shift.reshape(-1, 1, 1)
    return y, _ops.pack(decided)


def _fake(
    x: Tensor,
    weight: Tensor,
    channels: int,
    scale: Tensor,
    norm: Tensor,
    residual: Tensor,
    activation: Tensor | None,
    shift: Tensor | None,
    relu: bool,
    *options: object,
) -> tuple[Tensor, Tensor]:
    geometry = checks.check_binary_conv2d_residual(
        x, weight, channels, scale, norm, residual, activation, shift, *options
    )
    y = fake.binary_conv2d_packed(x, weight, scale, None, geometry, 0, residual.dtype)
    return y, fake.pack(y)


_kernel = on_cuda(_NAME, binary_conv2d_residual)
_cpu_kernel = on_cpu(_NAME, binary_conv2d_residual)
_use_kernel = True


def _on_cuda(*args: Any, **kwargs: Any) -> Any:
    both = _kernel(*args, **kwargs) if _use_kernel else NotImplemented
    return binary_conv2d_residual(*args, **kwargs) if both is NotImplemented else both


def _on_cpu(*args: Any, **kwargs: Any) -> Any:
    serve = _cpu_kernel if _use_kernel else binary_conv2d_residual
    return serve(*args, **kwargs)


@contextmanager
def composed() -> Iterator[None]:
    """Calls meanwhile, of any thread, are the composition: what the kernel is checked against."""
    global _use_kernel
    before, _use_kernel = _use_kernel, False
    try:
        yield
    finally:
        _use_kernel = before


def obstacle(
    x: Tensor, weight: Tensor, channels: int, dtype: torch.dtype, *options: Any
) -> str | None:
    """Why no kernel makes both outputs in one pass, or None if one does (on CUDA, of a
    channels_last residual). Takes FakeTensors; of images of symbolic size, the device alone
    decides.

    ``options`` are stride, padding, dilation, groups and pad_value; ``dtype`` is the residual's.
    """
    if x.device.type == "cpu":
        return cpu_obstacle()
    if x.device.type != "cuda":
        return f"no kernel on {x.device.type}"
    index = torch.cuda.current_device() if x.device.index is None else x.device.index
    why_not = _device_obstacle(index)
    if why_not or not all(isinstance(s, int) for s in (*x.shape[1:], *weight.shape, channels)):
        return why_not
    from binop._cuda import prepare

    geometry = checks.packed_geometry(_NAME, x, weight, channels, *options)
    return prepare.residual_obstacle(replace(geometry, batch=1), dtype, options[-1], index)


def _device_obstacle(index: int) -> str | None:
    missing = cuda_obstacle(index)
    if missing is not None:
        return missing
    from binop._cuda import prepare

    return prepare.residual_device_obstacle(index)


def cpu_has_kernel() -> bool:
    return cpu_obstacle() is None


def cuda_devices() -> tuple[int, ...]:
    """Those with a kernel."""
    return tuple(i for i in range(torch.cuda.device_count()) if _device_obstacle(i) is None)


LIBRARY.impl(_NAME, binary_conv2d_residual, "CompositeExplicitAutograd")
LIBRARY.impl(_NAME, _on_cpu, "CPU")
LIBRARY.impl(_NAME, _on_cuda, "CUDA")
torch.library.register_fake(f"binop::{_NAME}", _fake, lib=LIBRARY)
