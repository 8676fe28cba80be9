"""Which backend serves a CUDA device, decided when its first tensor arrives.

``binop._cuda`` imports CuPy, which takes time and may be missing: nothing here touches it before.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def cuda_obstacle(device: int) -> str | None:
    """Why the CUDA kernels cannot serve a device; None if they can."""
    from binop import _cuda

    return _cuda.status(device)


def on_cuda(name: str, fallback: Callable[..., Any]) -> Callable[..., Any]:
    """The op ``name`` for CUDA tensors: binop's kernels, or the fallback after one warning."""
    chosen: dict[int, Callable[..., Any]] = {}

    def kernel(*args: Any, **kwargs: Any) -> Any:
        device = args[0].get_device()
        function = chosen.get(device)
        if function is None:
            function = chosen[device] = _choose(name, fallback, device)
        return function(*args, **kwargs)

    return kernel


def _choose(name: str, fallback: Callable[..., Any], device: int) -> Callable[..., Any]:
    obstacle = cuda_obstacle(device)
    if obstacle is None:
        from binop._cuda import ops

        function: Callable[..., Any] = getattr(ops, name)
        return function
    _warn_once(device, obstacle)
    return fallback


@cache
def _warn_once(device: int, obstacle: str) -> None:
    warnings.warn(
        f"binop runs on cuda:{device} through plain torch, which is slow: {obstacle} "
        "(see `python -m binop info`)",
        stacklevel=2,
    )
