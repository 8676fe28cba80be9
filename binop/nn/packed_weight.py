"""What a packed layer computes: its float input's signs convolved with a weight that is packed.

By ops it is ``pack``, then ``binary_conv2d_packed``: two ways through the dispatcher, the second
with eleven arguments, and packed words that live from one to the other. For one 8x8 image of 64
channels a layer took 46 us so, and takes 25 now, of which the library's part is 9. So where nothing
stands between a call and the backend, and no graph is traced, the backend is called itself, once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

from binop.batch_norm import BatchNorm
from binop.functional import Size2d, binary_conv2d_packed
from binop.geometry import as_pair
from binop.pack_and_convolve import by_library

_ops = torch.ops.binop

_keys_of = torch._C._dispatch_keys
_keys_of_thread = torch._C._dispatch_tls_local_include_set


def _raw(*names: str) -> int:
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.__members__[names[0]])
    for name in names[1:]:
        keys = keys.add(torch._C.DispatchKey.__members__[name])
    return keys.raw_repr()


# Of a tensor, and of a thread, without modes, transforms, tracers, lazy negation and other layouts:
# outside of torch.inference_mode, and inside.
_PLAIN_TENSOR = frozenset(
    (_raw("CPU", "AutocastCPU", "AutogradCPU", "ADInplaceOrView"), _raw("CPU", "AutocastCPU"))
)
_PLAIN_TYPES = (Tensor, nn.Parameter)
_PLAIN_THREAD = frozenset((_raw("BackendSelect", "ADInplaceOrView"), _raw("BackendSelect")))


def convolve_packed_weight(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    stride: Size2d,
    padding: Size2d | str,
    dilation: Size2d,
    groups: int,
    pad_value: int,
    norm: nn.BatchNorm2d | None = None,
) -> Tensor:
    """``binary_conv2d_packed(pack(x), weight, ...)`` in the dtype of ``x``; then ``+ bias`` in that
    dtype; then ``norm``."""
    if isinstance(padding, str) or not _nothing_stands_between(x, weight, scale, bias):
        y = binary_conv2d_packed(
            _ops.pack(x),
            weight,
            x.shape[1],
            scale,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            pad_value=pad_value,
            out_dtype=x.dtype,
        )
        y = add_bias(y, bias)
        return y if norm is None else norm(y)
    # The library adds float32 to float32, as the sum of two tensors would.
    with_bias = bias is None or x.dtype is bias.dtype is torch.float32
    fixed = None if norm is None or not with_bias else _fixed(norm)
    y = by_library(
        x,
        weight,
        scale,
        bias if with_bias else None,
        as_pair(stride),
        as_pair(padding),
        as_pair(dilation),
        groups,
        pad_value,
        fixed,
    )
    y = y if with_bias else add_bias(y, bias)
    return y if norm is None or fixed is not None else norm(y)


def add_bias(y: Tensor, bias: Tensor | None) -> Tensor:
    return y if bias is None else y + bias.to(y.dtype).reshape(-1, 1, 1)


def _nothing_stands_between(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> bool:
    """Whether the dispatcher would hand these tensors to the CPU backend as they are, and nobody
    looks on."""
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and _keys_of(x).raw_repr() in _PLAIN_TENSOR
        and _keys_of_thread().raw_repr() in _PLAIN_THREAD
        and _is_plain(weight)
        and _is_plain(scale)
        and (bias is None or _is_plain(bias))
        # A float64 input is computed in float32, where the library would choose float64.
        and x.dtype is not torch.float64
        and torch._C._len_torch_function_stack() == 0
        and not torch._C._autograd._profiler_enabled()
        # Tangents of forward-mode differentiation do not show in any key set.
        and forward_ad._current_level < 0
        and not (torch.is_grad_enabled() and torch._C._any_requires_grad(x, weight, scale, bias))
    )


def _fixed(norm: nn.BatchNorm2d) -> BatchNorm | None:
    """What a norm computes with; None where its own ``forward`` must run."""
    if norm.training or norm._forward_hooks or norm._forward_pre_hooks or _has_any_global_hook():
        return None
    parameters, buffers = norm._parameters, norm._buffers
    weight, bias = parameters["weight"], parameters["bias"]
    mean, var = buffers["running_mean"], buffers["running_var"]
    if weight is None or bias is None or mean is None or var is None:
        return None
    if torch.is_grad_enabled() and (weight.requires_grad or bias.requires_grad):
        return None
    if not (_is_plain(weight) and _is_plain(bias) and _is_plain(mean) and _is_plain(var)):
        return None
    return BatchNorm(weight, bias, mean, var, norm.eps)


def _is_plain(buffer: Tensor) -> bool:
    """Enough for what a layer holds: other layouts have no data pointer or another dtype."""
    return type(buffer) in _PLAIN_TYPES and buffer.is_cpu and not buffer.is_neg()
