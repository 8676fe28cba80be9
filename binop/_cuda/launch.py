"""Launches on torch's current stream and device, with as little host work as possible.

CuPy's ``Function.__call__`` wraps every argument in an object (6 us a launch). Here a kernel's one
argument, a struct, is written into a buffer of the thread and handed to the driver, which copies
it before it returns. CuPy's ``driver.launchKernel`` knows no launch attributes.
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

from binop._cuda import driver_library, jit
from binop._cuda.launches import Device, Launch

_MAX_ARGUMENT_BYTES = 4096  # the limit of CUDA before 12.1

current_device = torch._C._cuda_getDevice
_current_stream = torch._C._cuda_getCurrentRawStream
# (CUlaunchConfig*, CUfunction, void** parameters, void** extra)
_launch_kernel = driver_library.function("cuLaunchKernelEx", *[ctypes.c_void_p] * 4)
_check = driver.check_status

# CUlaunchConfig: blocks and threads in three dimensions, bytes of shared memory, stream,
# attributes and their count.
_CONFIG = struct.Struct("@7IPPI4x")
# One CUlaunchAttribute, whose value is a union of 64 bytes.
_PROGRAMMATIC_STREAM_SERIALIZATION = 6
_ATTRIBUTES = ctypes.create_string_buffer(
    struct.pack("@I4xI60x", _PROGRAMMATIC_STREAM_SERIALIZATION, 1)
)
_WITH_OVERLAP = (9, 0)  # the first compute capability
# (shape, strides, dtype) -> a tensor on the current device. Inductor's generated code allocates
# with it: 0.9 us where torch.empty_strided takes 1.8.
_guards: Any = torch._C._dynamo.guards
empty_strided = _guards._empty_strided_cuda


class _ThreadState(threading.local):
    """The buffers of a thread. A new thread also needs a current CUDA context, which setting the
    device gives it."""

    def __init__(self) -> None:
        runtime.setDevice(current_device())
        self._arguments = ctypes.create_string_buffer(_MAX_ARGUMENT_BYTES)
        self._parameters = ctypes.c_void_p(ctypes.addressof(self._arguments))
        self._config = ctypes.create_string_buffer(_CONFIG.size)
        # In one attribute, because one costs as much as a call.
        self.buffers = (
            memoryview(self._arguments).cast("B"),
            ctypes.addressof(self._parameters),
            memoryview(self._config).cast("B"),
            ctypes.addressof(self._config),
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
    capability = device_facts(device).capability
    arch = jit.architecture(capability)
    with torch.cuda.device(device):
        function = jit.load(launch.kernel, device, arch, launch.shared_bytes)
    blocks, threads, shared = launch.blocks, launch.threads, launch.shared_bytes
    write = struct.Struct(f"{pointers}q").pack_into
    sizes = struct.pack(f"{len(launch.sizes)}q", *launch.sizes)
    span = slice(8 * pointers, 8 * pointers + len(sizes))
    write_config = _CONFIG.pack_into
    attributes = ctypes.addressof(_ATTRIBUTES)
    attribute_count = int(launch.overlaps and capability >= _WITH_OVERLAP)

    def run(*addresses: int) -> None:
        if current_device() != device:
            with torch.cuda.device(device):
                return run(*addresses)
        buffer, parameters, config, at_config = _thread.buffers
        write(buffer, 0, *addresses)
        buffer[span] = sizes
        stream = _current_stream(device)
        write_config(
            config, 0, blocks, 1, 1, threads, 1, 1, shared, stream, attributes, attribute_count
        )
        # Through the object, which keeps the module loaded as long as this closure lives.
        error = _launch_kernel(at_config, function.ptr, parameters, None)
        if error != 0:
            _check(error)

    return run
