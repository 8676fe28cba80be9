"""``binop::stem_conv2d`` and ``binop::stem_conv2d_threshold``: the float convolution at the start
of a network, of an image's few channels, and what follows it.

Libraries serve few channels badly: on an H200 cuDNN takes longer for the first convolution of a
binarized network than all its binary ones together do, and pads the image in a kernel of its own
before. Where only signs of the output are read, the second op writes nothing else.

Here the ops are compositions, for every device; on CUDA, ``stem.cu`` computes them where it can,
summing in another order. ``obstacle`` says where: elsewhere the compiler does not use the ops.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from binop import checks, fake
from binop.backends import cuda_obstacle, on_cuda
from binop.geometry import STEM_CHANNELS, Conv2dGeometry
from binop.ops import LIBRARY

_ops = torch.ops.binop
_NAME = "stem_conv2d"
_THRESHOLD_NAME = "stem_conv2d_threshold"

LIBRARY.define(
    f"{_NAME}(Tensor x, Tensor weight, Tensor? bias, Tensor? norm, bool relu, SymInt[2] stride, "
    "SymInt[2] padding) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout),
)
LIBRARY.define(
    f"{_THRESHOLD_NAME}(Tensor x, Tensor weight, Tensor? bias, Tensor low, Tensor high, "
    "SymInt[2] stride, SymInt[2] padding) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout),
)


def stem_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: Tensor | None,
    relu: bool,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Tensor:
    """With ``y = conv2d(x, weight) + bias``, summed in float32 and rounded once to the dtype of
    ``x``, and further steps in float32, each rounded once::

        y = (y - norm[0]) * norm[1] * norm[2] + norm[3]    if norm
        y = max(y, 0)                                      if relu

    Args:
        x: ``[N, C, H, W]``, float16 or bfloat16, any strides.
        weight: ``[O, C, KH, KW]`` of that dtype.
        bias: ``[O]`` of that dtype, or None.
        norm: float32 ``[4, O]``: BatchNorm's mean, 1 / std, weight and bias, or None.

    Returns:
        ``[N, O, P, Q]`` in the dtype of ``x``, channels_last. No gradients.
    """
    checks.check_stem_conv2d(x, weight, bias, norm, relu, stride, padding)
    y = _convolve(x, weight, bias, stride, padding).to(torch.float32)
    if norm is not None:
        mean, inverse, gamma, beta = norm.unsqueeze(-1).unsqueeze(-1)
        y = (y - mean) * inverse * gamma + beta
    if relu:
        y = torch.where(y < 0, 0.0, y)  # relu of -0.0 is -0.0 on the CPU and 0.0 on CUDA
    return y.to(x.dtype).contiguous(memory_format=torch.channels_last)


def stem_conv2d_threshold(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    low: Tensor,
    high: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Tensor:
    """The bits ``low <= y <= high`` of ``y`` as in ``stem_conv2d`` (without ``norm`` and ``relu``);
    NaN gives 0.

    Args:
        x, weight, bias: as there.
        low, high: float32 ``[O]``; a NaN, or ``low > high``, gives no bits.

    Returns:
        Packed, int32 ``[N, P, Q, ceil(O/32)]``. No gradients.
    """
    checks.check_stem_conv2d_threshold(x, weight, bias, low, high, stride, padding)
    y = _convolve(x, weight, bias, stride, padding).to(torch.float32)
    low, high = low.reshape(-1, 1, 1), high.reshape(-1, 1, 1)
    return _ops.pack(torch.where((low <= y) & (y <= high), 1.0, -1.0))


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """In float32: libraries round sums of 16-bit floats in ways of their own. (TensorFloat-32 holds
    both operands as they are.)"""
    bias = None if bias is None else bias.to(_sums)
    return F.conv2d(x.to(_sums), weight.to(_sums), bias, stride, padding).to(x.dtype)


def _fake(x: Tensor, *arguments: Any) -> Tensor:
    return fake.stem_conv2d(x, checks.check_stem_conv2d(x, *arguments))


def _fake_threshold(x: Tensor, *arguments: Any) -> Tensor:
    return fake.stem_conv2d_threshold(x, checks.check_stem_conv2d_threshold(x, *arguments))


_kernel = on_cuda(_NAME, stem_conv2d)
_threshold_kernel = on_cuda(_THRESHOLD_NAME, stem_conv2d_threshold)
_use_kernel = True
_sums = torch.float32


def _on_cuda(*args: Any) -> Tensor:
    y = _kernel(*args) if _use_kernel else NotImplemented
    return stem_conv2d(*args) if y is NotImplemented else y


def _threshold_on_cuda(*args: Any) -> Tensor:
    signs = _threshold_kernel(*args) if _use_kernel else NotImplemented
    return stem_conv2d_threshold(*args) if signs is NotImplemented else signs


@contextmanager
def composed() -> Iterator[None]:
    """Calls meanwhile, of any thread, are the composition, with sums in float64: what the kernel is
    checked against."""
    global _use_kernel, _sums
    before = _use_kernel, _sums
    _use_kernel, _sums = False, torch.float64
    try:
        yield
    finally:
        _use_kernel, _sums = before


def obstacle(weight: Tensor, packed: bool, stride: Sequence[int]) -> str | None:
    """Why no kernel serves ``stem_conv2d``, or ``packed``: ``stem_conv2d_threshold``, whatever the
    image; None if one does. Takes FakeTensors."""
    if weight.device.type != "cuda":
        return f"no kernel on {weight.device.type}"
    index = torch.cuda.current_device() if weight.device.index is None else weight.device.index
    why_not = _device_obstacle(index)
    if why_not is not None:
        return why_not
    if not all(isinstance(size, int) for size in weight.shape):
        return "its filters are of symbolic size"
    from binop._cuda import prepare

    out_channels, channels, rows, columns = weight.shape
    kernel = (rows, columns)
    geometry = Conv2dGeometry(
        1, channels, *kernel, out_channels, kernel, (stride[0], stride[1]), (0, 0), (1, 1), 1
    )
    return prepare.stem_obstacle(geometry, weight.dtype, packed, index)


def is_stem(weight: Tensor) -> bool:
    """Whether filters see an image's few channels."""
    return weight.ndim == 4 and bool(weight.shape[1] <= STEM_CHANNELS)


def _device_obstacle(index: int) -> str | None:
    missing = cuda_obstacle(index)
    if missing is not None:
        return missing
    from binop._cuda import prepare

    return prepare.stem_device_obstacle(index)


def cuda_devices() -> tuple[int, ...]:
    """Those with a kernel."""
    return tuple(i for i in range(torch.cuda.device_count()) if _device_obstacle(i) is None)


for name, composition, kernel, shape in (
    (_NAME, stem_conv2d, _on_cuda, _fake),
    (_THRESHOLD_NAME, stem_conv2d_threshold, _threshold_on_cuda, _fake_threshold),
):
    LIBRARY.impl(name, composition, "CompositeExplicitAutograd")
    LIBRARY.impl(name, kernel, "CUDA")
    torch.library.register_fake(f"binop::{name}", shape, lib=LIBRARY)
