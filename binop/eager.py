"""A shorter way to ``binary_conv2d`` when no gradient is wanted.

``torch.library.register_autograd`` puts a Python kernel in front of the backend's, which dispatches
a second time, also where no input requires a gradient: 9 to 14 us a call, more than a small
convolution takes. This one calls the backend itself, unless something stands between the two (a
dispatch mode, a subclass, a transform) or a gradient is wanted; then it is torch's own again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._library.autograd import Info, make_autograd_impl
from torch.autograd import forward_ad

from binop.autograd import backward, setup_context
from binop.ops import KERNELS, LIBRARY

_NAME = "binary_conv2d"
_below_autograd = torch._C._after_ADInplaceOrView_keyset
_any_requires_grad = torch._C._any_requires_grad


def without_dispatch(
    backend: str, kernel: Callable[..., Any], general: Callable[..., Any]
) -> Callable[..., Any]:
    """The op's function for the autograd key of a backend: straight to the kernel where nothing
    stands between, else to the general one."""
    key = torch._C.DispatchKey.__members__[backend]

    def function(keyset: torch._C.DispatchKeySet, *args: Any) -> Tensor:
        wanted = torch.is_grad_enabled() and _any_requires_grad(*args)
        # Tangents of forward-mode differentiation do not show in the key set.
        if (
            not wanted
            and (keyset & _below_autograd).highestPriorityTypeId() == key
            and forward_ad._current_level < 0
        ):
            return kernel(*args)
        return general(keyset, *args)

    return function


# What register_autograd has registered for all backends.
_general = make_autograd_impl(
    getattr(torch.ops.binop, _NAME).default, Info(backward, setup_context)
)
for _backend in ("CPU", "CUDA"):
    LIBRARY.impl(
        _NAME,
        without_dispatch(_backend, KERNELS[_backend, _NAME], _general),
        "Autograd" + _backend,
        with_keyset=True,
    )
