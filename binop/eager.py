"""A shorter way to ``binary_conv2d`` of CPU tensors when no gradient is wanted.

``torch.library.register_autograd`` puts a Python kernel in front of the backend's, also where no
input requires a gradient: 14 us a call, more than a small convolution takes. This one calls the
backend itself, unless something listens between the two (a dispatch mode, vmap,
functionalization) or a gradient is wanted; then it is torch's own again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._library.autograd import Info, make_autograd_impl

from binop.autograd import _backward, _setup_context
from binop.backends import cpu_function
from binop.ops import LIBRARY

_NAME = "binary_conv2d"
_with_gradients = make_autograd_impl(
    torch.ops.binop.binary_conv2d.default, Info(_backward, _setup_context)
)
_CPU = torch._C.DispatchKey.CPU
_below_autograd = torch._C._after_ADInplaceOrView_keyset
_any_requires_grad = torch._C._any_requires_grad


def _binary_conv2d(keyset: torch._C.DispatchKeySet, *args: Any) -> Tensor:
    wanted = torch.is_grad_enabled() and _any_requires_grad(*args)
    if not wanted and (keyset & _below_autograd).highestPriorityTypeId() == _CPU:
        function = cpu_function(_NAME)
        if function is not None:
            y: Tensor = function(*args)
            return y
    return _with_gradients(keyset, *args)


LIBRARY.impl(_NAME, _binary_conv2d, "AutogradCPU", with_keyset=True)
