"""Launches on torch's current stream and device, with as little host work as possible.

CuPy's ``Function.__call__`` wraps every argument in an object (6 us a launch). Here a kernel's one
argument, a struct, is written into a buffer of the thread and handed to the driver, which copies
it before it returns.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from functools import cache
from typing import Any

import torch
from cupy.cuda import runtime
from cupy_backends.cuda.api import driver

from binop._cuda import jit
from binop._cuda.launches import Device, Launch

_MAX_ARGUMENT_BYTES = 4096  # the limit of CUDA before 12.1

_current_device = torch._C._cuda_getDevice
_current_stream = torch._C._cuda_getCurrentRawStream
_launch_kernel = driver.launchKernel


class _ThreadState(threading.local):
    """The argument buffer of a thread. A new thread also needs a current CUDA context, which
    setting the device gives it."""

    def __init__(self) -> None:
        runtime.setDevice(_current_device())
        self._buffer = ctypes.create_string_buffer(_MAX_ARGUMENT_BYTES)
        self._parameters = ctypes.c_void_p(ctypes.addressof(self._buffer))
        self.arguments = memoryview(self._buffer).cast("B")
        self.parameters = ctypes.addressof(self._parameters)


_thread = _ThreadState()


@cache
def device_facts(index: int) -> Device:
    properties = runtime.getDeviceProperties(index)
    return Device(
        (properties["major"], properties["minor"]),
        properties["multiProcessorCount"],
        properties["sharedMemPerBlockOptin"],
        properties["sharedMemPerMultiprocessor"],
    )


class PreparedLaunch:
    """A planned launch, loaded on a device; called with the pointers of one call."""

    __slots__ = (
        "_blocks",
        "_device",
        "_function",
        "_pack",
        "_shared",
        "_sizes",
        "_span",
        "_threads",
    )

    def __init__(self, launch: Launch, pointers: int, device: int) -> None:
        arch = jit.architecture(device_facts(device).capability)
        with torch.cuda.device(device):
            self._function: Any = jit.load(launch.kernel, device, arch, launch.shared_bytes)
        self._device = device
        self._blocks = launch.blocks
        self._threads = launch.threads
        self._shared = launch.shared_bytes
        self._pack = struct.Struct(f"{pointers}q").pack_into
        self._sizes = struct.pack(f"{len(launch.sizes)}q", *launch.sizes)
        self._span = slice(8 * pointers, 8 * pointers + len(self._sizes))

    def __call__(self, *pointers: int) -> None:
        if _current_device() == self._device:
            self._launch(pointers)
        else:
            with torch.cuda.device(self._device):
                self._launch(pointers)

    def _launch(self, pointers: tuple[int, ...]) -> None:
        arguments = _thread.arguments
        self._pack(arguments, 0, *pointers)
        arguments[self._span] = self._sizes
        _launch_kernel(
            self._function.ptr,
            self._blocks,
            1,
            1,
            self._threads,
            1,
            1,
            self._shared,
            _current_stream(self._device),
            _thread.parameters,
            0,
        )
