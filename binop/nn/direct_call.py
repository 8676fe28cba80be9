"""A packed layer's call of the CPU library, prepared once per shape of its input.

By ops a layer is ``pack``, then ``binary_conv2d_packed``, then perhaps a BatchNorm: ways through
the dispatcher with many arguments, and checks of all of them. For one 8x8 image of 64 channels
(3x3, 64 filters; an EPYC with AVX2) that takes 46 us, and 16 us for the BatchNorm, where the
library's part is 7. So a layer keeps what the checks found, as long as it holds the same tensors at
the same addresses, and takes 22 us for both. The values may change: the library compares them with
those that it prepared for, in every call.

Nothing is kept where the dispatcher, a mode, a transform, a tracer, a profiler or a gradient stands
between a call and the library.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import is_not
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

from binop import backends
from binop.batch_norm import BatchNorm
from binop.functional import Size2d
from binop.geometry import as_pair
from binop.pack_and_convolve import bind_library

if TYPE_CHECKING:
    from binop.nn.packed_binary_conv2d import PackedBinaryConv2d

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
_PLAIN_THREAD = frozenset((_raw("BackendSelect", "ADInplaceOrView"), _raw("BackendSelect")))
_PLAIN_TYPES = (Tensor, nn.Parameter)

# Shapes of inputs that a layer keeps calls for.
_MOST_CALLS = 64


def nothing_stands_between(x: Tensor) -> bool:
    """Whether the dispatcher would hand ``x`` to the CPU backend as it is, and nobody looks on."""
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and _keys_of(x).raw_repr() in _PLAIN_TENSOR
        and _keys_of_thread().raw_repr() in _PLAIN_THREAD
        and torch._C._len_torch_function_stack() == 0
        and not torch._C._autograd._profiler_enabled()
        # Tangents of forward-mode differentiation do not show in any key set.
        and forward_ad._current_level < 0
    )


class DirectCall:
    """The library's call for the tensors that a layer holds, and inputs like one that came."""

    __slots__ = ("_addresses", "_aliases", "_call", "_rest", "_served_by", "_tensors")

    def __init__(
        self,
        tensors: list[Tensor | None],
        call: Callable[[Tensor], Tensor | None],
        rest: list[Callable[[Tensor], Tensor]],
    ) -> None:
        self._call = call
        self._rest = rest
        self._tensors = tensors
        self._addresses = [*map(_address, tensors)]
        # While we hold their memory, nothing else can come to lie at these addresses.
        self._aliases = [tensor.detach() for tensor in tensors if tensor is not None]
        self._served_by = backends.serves_cpu()

    def __call__(self, x: Tensor, tensors: list[Tensor | None]) -> Tensor | None:
        """None where something has changed that the library's call depends on."""
        if (
            any(map(is_not, tensors, self._tensors))
            or [*map(_address, tensors)] != self._addresses
            or backends.serves_cpu() is not self._served_by
        ):
            return None
        y = self._call(x)
        if y is not None:
            for function in self._rest:
                y = function(y)
        return y


def call_library(layer: PackedBinaryConv2d, x: Tensor, padding: Size2d | str) -> Tensor | None:
    """What ``layer`` makes of ``x`` with this ``padding``; None where it must go by the ops. Only
    where ``nothing_stands_between``."""
    tensors = _tensors(layer)
    if torch.is_grad_enabled() and torch._C._any_requires_grad(x, *tensors):
        return None
    calls = layer._direct_calls
    key = (x.shape, x.stride(), x.dtype, *_options(layer, padding))
    call: DirectCall | None = calls.get(key)
    y = None if call is None else call(x, tensors)
    if y is None:
        call = _bind(layer, x, padding, tensors)
        if call is not None:
            if len(calls) >= _MOST_CALLS:
                calls.clear()
            calls[key] = call
            y = call(x, tensors)
    return y


def _bind(
    layer: PackedBinaryConv2d, x: Tensor, padding: Size2d | str, tensors: list[Tensor | None]
) -> DirectCall | None:
    weight, scale, bias, *_ = tensors
    norm = layer.norm
    # A float64 input is computed in float32, where the library would choose float64.
    if isinstance(padding, str) or x.dtype is torch.float64 or not all(map(_is_plain, tensors)):
        return None
    rest: list[Callable[[Tensor], Tensor]] = []
    # The library adds float32 to float32, as the sum of two tensors would.
    if bias is not None and not x.dtype is bias.dtype is torch.float32:
        rest.append(partial(add_bias, bias=bias))
        bias = None
    pairs = [as_pair(option) for option in (layer.stride, padding, layer.dilation)]
    options = (x, weight, scale, bias, *pairs, layer.groups, layer.pad_value)
    fixed = None if norm is None or rest else _fixed(norm)
    call = None if fixed is None else bind_library(*options, fixed)
    if call is None:
        call = bind_library(*options, None)
        if norm is not None:
            rest.append(norm)
    return None if call is None else DirectCall(tensors, call, rest)


def add_bias(y: Tensor, bias: Tensor | None) -> Tensor:
    return y if bias is None else y + bias.to(y.dtype).reshape(-1, 1, 1)


def _tensors(layer: PackedBinaryConv2d) -> list[Tensor | None]:
    # As attributes of a module they take a microsecond each.
    buffers = layer._buffers
    tensors = [buffers["weight"], buffers["scale"], buffers["bias"]]
    norm = layer._modules["norm"]
    if norm is not None:
        parameters, buffers = norm._parameters, norm._buffers
        tensors += (
            parameters["weight"],
            parameters["bias"],
            buffers["running_mean"],
            buffers["running_var"],
        )
    return tensors


def _options(layer: PackedBinaryConv2d, padding: Size2d | str) -> tuple[object, ...]:
    """What else a call depends on."""
    options = (layer.stride, padding, layer.dilation, layer.groups, layer.pad_value)
    norm = layer._modules["norm"]
    if norm is None:
        return options
    hooks = norm._forward_hooks or norm._forward_pre_hooks or _has_any_global_hook()
    return (*options, norm, norm.training, norm.eps, bool(hooks))


def _fixed(norm: nn.BatchNorm2d) -> BatchNorm | None:
    """What a BatchNorm2d computes with; None where its own ``forward`` must run."""
    hooks = norm._forward_hooks or norm._forward_pre_hooks or _has_any_global_hook()
    weight, bias, mean, var = norm.weight, norm.bias, norm.running_mean, norm.running_var
    if norm.training or hooks or weight is None or bias is None or mean is None or var is None:
        return None
    return BatchNorm(weight, bias, mean, var, norm.eps)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _is_plain(tensor: Tensor | None) -> bool:
    """Enough for what a layer holds: other layouts have no data pointer or another dtype."""
    return tensor is None or (
        type(tensor) in _PLAIN_TYPES and tensor.is_cpu and not tensor.is_neg()
    )
