"""The ``binop::`` ops: their schemas, and which functions serve them.

Importing this module registers the ops under ``torch.ops.binop``. Each op is one function that
validates, then hands over to a backend: a module that has a function of the op's name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor

from binop import checks, fake, reference
from binop.backends import on_cpu, on_cuda
from binop.layout import memory_format

_Op = TypeVar("_Op", bound=Callable[..., Any])

# The registrations last as long as this object.
LIBRARY = torch.library.Library("binop", "DEF")

# What serves tensors of a backend, by dispatch key and the op's name.
KERNELS: dict[tuple[str, str], Callable[..., Any]] = {}

_CONV_OPTIONS = (
    "SymInt[2] stride=1, SymInt[2] padding=0, SymInt[2] dilation=1, SymInt groups=1, "
    "int pad_value=0"
)


def _define(
    schema: str, overload: str = "", tags: tuple[torch.Tag, ...] = ()
) -> Callable[[_Op], _Op]:
    """Registers ``function(backend, *arguments)`` as the op named like it (less the ``_``).

    A Python kernel is called without the arguments that equal the schema's defaults, so the
    function must have the same defaults.
    """

    def register(function: _Op) -> _Op:
        plain_name = function.__name__.removeprefix("_")
        name = plain_name + overload

        def on(backend: ModuleType) -> Callable[..., Any]:
            @wraps(function)
            def kernel(*args: Any, **kwargs: Any) -> Any:
                return function(backend, *args, **kwargs)

            return kernel

        LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag, *tags))
        LIBRARY.impl(name, on(reference), "CompositeExplicitAutograd")
        # These backends validate once per shape and cache the call: no wrapper around them.
        KERNELS["CPU", name] = on_cpu(plain_name, on(reference))
        KERNELS["CUDA", name] = on_cuda(plain_name, on(reference))
        for backend in ("CPU", "CUDA"):
            LIBRARY.impl(name, KERNELS[backend, name], backend)
        torch.library.register_fake(f"binop::{name}", on(fake), lib=LIBRARY)
        return function

    return register


@_define(
    f"(Tensor x, Tensor weight, Tensor scale_a, Tensor scale_w, {_CONV_OPTIONS}, "
    "float clip=1.0) -> Tensor"
)
def _binary_conv2d(
    backend: Any,
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
) -> Tensor:
    geometry = checks.check_binary_conv2d(
        x, weight, scale_a, scale_w, stride, padding, dilation, groups, pad_value, clip
    )
    return backend.binary_conv2d(x, weight, scale_a, scale_w, geometry, pad_value, memory_format(x))


# Words do not depend on the strides of x, which the compiler may choose: without the tag it would
# transpose what a packed convolution put out, if the model that it traced was contiguous.
@_define("(Tensor x) -> Tensor", tags=(torch.Tag.flexible_layout,))
def _pack(backend: Any, x: Tensor) -> Tensor:
    checks.check_pack(x)
    return backend.pack(x)


# What the backward of binary_conv2d needs of x, in one pass over it.
@_define("(Tensor x, Tensor scale_a, float clip) -> (Tensor signs, Tensor mask)")
def _pack_with_mask(backend: Any, x: Tensor, scale_a: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    checks.check_pack_with_mask(x, scale_a, clip)
    return backend.pack_with_mask(x, scale_a, clip)


@_define("(Tensor packed, SymInt channels, ScalarType dtype) -> Tensor")
def _unpack(backend: Any, packed: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    checks.check_unpack(packed, channels, dtype)
    return backend.unpack(packed, channels, dtype)


# The same op without defaults, for our own layers: AOTInductor (torch 2.13) cannot serialize a
# ScalarType argument that has its default value.
@_define(
    "(Tensor x, Tensor weight, SymInt channels, Tensor scale, Tensor? bias, SymInt[2] stride, "
    "SymInt[2] padding, SymInt[2] dilation, SymInt groups, int pad_value, ScalarType out_dtype) "
    "-> Tensor",
    overload=".explicit",
)
@_define(
    "(Tensor x, Tensor weight, SymInt channels, Tensor scale, Tensor? bias=None, "
    f"{_CONV_OPTIONS}, ScalarType out_dtype=float) -> Tensor"
)
def _binary_conv2d_packed(
    backend: Any,
    x: Tensor,
    weight: Tensor,
    channels: int,
    scale: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    pad_value: int = 0,
    out_dtype: torch.dtype = torch.float32,
) -> Tensor:
    geometry = checks.check_binary_conv2d_packed(
        x, weight, channels, scale, bias, stride, padding, dilation, groups, pad_value, out_dtype
    )
    return backend.binary_conv2d_packed(x, weight, scale, bias, geometry, pad_value, out_dtype)


@_define(
    "(Tensor x, Tensor weight, SymInt channels, Tensor threshold, Tensor flip, "
    f"{_CONV_OPTIONS}) -> Tensor"
)
def _binary_conv2d_threshold(
    backend: Any,
    x: Tensor,
    weight: Tensor,
    channels: int,
    threshold: Tensor,
    flip: Tensor,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    pad_value: int = 0,
) -> Tensor:
    geometry = checks.check_binary_conv2d_threshold(
        x, weight, channels, threshold, flip, stride, padding, dilation, groups, pad_value
    )
    return backend.binary_conv2d_threshold(x, weight, threshold, flip, geometry, pad_value)
