"""Launches on torch's current stream and device, with as little host work as possible.

CuPy's ``Function.__call__`` wraps every argument in an object (6 us a launch). Here a kernel's one
argument, a struct, is written into a buffer of the thread and handed to the driver, which copies
it before it returns.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from cupy.cuda import runtime
from cupy_backends.cuda.api import driver

from binop._cuda import jit
from binop._cuda.launches import Device, Launch

_MAX_ARGUMENT_BYTES = 4096  # the limit of CUDA before 12.1

current_device = torch._C._cuda_getDevice
_current_stream = torch._C._cuda_getCurrentRawStream
_launch_kernel = driver.launchKernel
# (shape, strides, dtype) -> a tensor on the current device. Inductor's generated code allocates
# with it: 0.9 us where torch.empty_strided takes 1.8.
_guards: Any = torch._C._dynamo.guards
empty_strided = _guards._empty_strided_cuda


class _ThreadState(threading.local):
    """The argument buffer of a thread. A new thread also needs a current CUDA context, which
    setting the device gives it."""

    def __init__(self) -> None:
        runtime.setDevice(current_device())
        self._buffer = ctypes.create_string_buffer(_MAX_ARGUMENT_BYTES)
        self._parameters = ctypes.c_void_p(ctypes.addressof(self._buffer))
        # In one attribute, because one costs as much as a call.
        self.buffer_and_parameters = (
            memoryview(self._buffer).cast("B"),
            ctypes.addressof(self._parameters),
        )


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


def prepare_launch(launch: Launch, pointers: int, device: int) -> Callable[..., None]:
    """Loads a planned launch on a device; the result is called with the pointers of one call.

    A closure: reading its variables is the cheapest that Python has.
    """
    arch = jit.architecture(device_facts(device).capability)
    with torch.cuda.device(device):
        function = jit.load(launch.kernel, device, arch, launch.shared_bytes)
    blocks, threads, shared = launch.blocks, launch.threads, launch.shared_bytes
    write = struct.Struct(f"{pointers}q").pack_into
    sizes = struct.pack(f"{len(launch.sizes)}q", *launch.sizes)
    span = slice(8 * pointers, 8 * pointers + len(sizes))

    def run(*addresses: int) -> None:
        if current_device() != device:
            with torch.cuda.device(device):
                return run(*addresses)
        buffer, parameters = _thread.buffer_and_parameters
        write(buffer, 0, *addresses)
        buffer[span] = sizes
        stream = _current_stream(device)
        # Through the object, which keeps the module loaded as long as this closure lives.
        _launch_kernel(function.ptr, blocks, 1, 1, threads, 1, 1, shared, stream, parameters, 0)

    return run
