"""Loading kernels while a stream is captured into a CUDA graph.

A capture forbids the calls that might wait for the device, loading a module among them, so that a
first call with new shapes would break it. The load touches no stream that is captured: this thread
may be let do it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from binop._cuda import driver_library

_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED


@cache
def _exchange() -> Any:
    return driver_library.function(
        "cuThreadExchangeStreamCaptureMode", ctypes.POINTER(ctypes.c_int)
    )


@contextmanager
def calls_allowed() -> Iterator[None]:
    """Lets the current thread make such calls, whatever captures are going on."""
    mode = ctypes.c_int(_RELAXED)
    _swap(mode)
    try:
        yield
    finally:
        _swap(mode)


def _swap(mode: ctypes.c_int) -> None:
    """Sets the thread's capture mode, and leaves the one before in ``mode``."""
    error = _exchange()(ctypes.byref(mode))
    if error != 0:
        raise RuntimeError(f"binop: cuThreadExchangeStreamCaptureMode failed with error {error}")
