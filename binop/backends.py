"""Which backend serves a device, decided when its first tensor arrives.

``binop._cuda`` imports CuPy and ``binop._cpu`` loads a shared library. Both take time and may be
missing: nothing here touches them before.
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


@cache
def cpu_obstacle() -> str | None:
    """Why the CPU library cannot serve CPU tensors; None if it can."""
    from binop import _cpu

    return _cpu.status()


# What serves CPU tensors, by op: chosen at the op's first call.
_cpu_functions: dict[str, Callable[..., Any]] = {}


def serves_cpu() -> object:
    """Another object where other functions serve CPU tensors."""
    return _cpu_functions


def on_cpu(name: str, fallback: Callable[..., Any]) -> Callable[..., Any]:
    """The op ``name`` for CPU tensors: binop's library, or the fallback after one warning."""

    def kernel(*args: Any, **kwargs: Any) -> Any:
        function = _cpu_functions.get(name)
        if function is None:
            function = _cpu_functions[name] = _choose_cpu(name, fallback)
        return function(*args, **kwargs)

    return kernel


def on_cuda(name: str, fallback: Callable[..., Any]) -> Callable[..., Any]:
    """The op ``name`` for CUDA tensors: binop's kernels, or the fallback after one warning."""
    chosen: dict[int, Callable[..., Any]] = {}

    def kernel(*args: Any, **kwargs: Any) -> Any:
        device = args[0].get_device()
        function = chosen.get(device)
        if function is None:
            function = chosen[device] = _choose_cuda(name, fallback, device)
        return function(*args, **kwargs)

    return kernel


def _choose_cpu(name: str, fallback: Callable[..., Any]) -> Callable[..., Any]:
    obstacle = cpu_obstacle()
    if obstacle is None:
        from binop._cpu import ops

        function: Callable[..., Any] = getattr(ops, name)
        return function
    _warn_once("cpu", obstacle)
    return fallback


def _choose_cuda(name: str, fallback: Callable[..., Any], device: int) -> Callable[..., Any]:
    obstacle = cuda_obstacle(device)
    if obstacle is None:
        from binop._cuda import ops

        function: Callable[..., Any] = getattr(ops, name)
        return function
    _warn_once(f"cuda:{device}", obstacle)
    return fallback


@cache
def _warn_once(device: str, obstacle: str) -> None:
    warnings.warn(
        f"binop runs on {device} through plain torch, which is slow: {obstacle} "
        "(see `python -m binop info`)",
        stacklevel=2,
    )
