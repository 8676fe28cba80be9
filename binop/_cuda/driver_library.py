"""Functions of the CUDA driver that CuPy does not offer."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any


@cache
def _library() -> Any:
    # Without the interpreter's lock: a launch waits where the queue is full, and what it waits for
    # may be a function of Python in the stream.
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


def function(name: str, *argument_types: Any) -> Any:
    """A function that returns a ``CUresult``."""
    found = _library()[name]
    found.argtypes = argument_types
    found.restype = ctypes.c_int
    return found
