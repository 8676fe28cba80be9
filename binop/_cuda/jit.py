"""Source -> cubin (NVRTC) -> disk cache -> function loaded on a device.

The cache holds one cubin a file, named by the hash of all that went into it, and is written by
renaming: processes may compile the same kernel at once, and none reads half a file.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
import threading
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from binop._cuda import capture, sources
from binop._cuda.launches import Kernel

# Compute capabilities that the sources are compiled and tested for. sm_90a adds to sm_90 the
# instructions of that chip alone; cubins run on later minor versions of the same major.
ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120")

_OPTIONS = ("--std=c++17", "--fmad=false")


def architecture(capability: tuple[int, int]) -> str:
    """The newest supported architecture whose cubins run on a device of this capability."""
    major, minor = capability
    numbers = [int(name.removeprefix("sm_").rstrip("a")) for name in ARCHITECTURES]
    fitting = [number for number in numbers if number // 10 == major and number % 10 <= minor]
    if not fitting:
        raise RuntimeError(
            f"binop: no CUDA kernels for compute capability {major}.{minor}; "
            f"there are kernels for {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[numbers.index(max(fitting))]


def compile_kernel(kernel: Kernel, arch: str) -> bytes:
    """The cubin of a kernel. Needs NVRTC, but no device."""
    return _compile(kernel, arch)[0]


def _compile(kernel: Kernel, arch: str, *options: str) -> tuple[bytes, str]:
    """The cubin, and what the compiler had to say."""
    from cupy_backends.cuda.libs import nvrtc

    names = sources.headers()
    program = nvrtc.createProgram(
        sources.text(kernel.source).decode(),
        kernel.source,
        [sources.text(name) for name in names],
        [name.encode() for name in names],
    )
    macros = [f"-D{name}={value}" for name, value in kernel.macros]
    target = f"--gpu-architecture={arch}"
    try:
        try:
            nvrtc.compileProgram(program, [*_OPTIONS, target, *options, *macros])
        except nvrtc.NVRTCError as error:
            log = nvrtc.getProgramLog(program)
            raise RuntimeError(f"binop: {kernel} does not compile for {arch}:\n{log}") from error
        # CuPy's getCUBIN drops the last byte, as if it were the end of a string.
        return bytes(nvrtc.getCUBIN(program)) + b"\0", nvrtc.getProgramLog(program)
    finally:
        nvrtc.destroyProgram(program)


@dataclass(frozen=True)
class Resources:
    """What a thread of a kernel takes."""

    registers: int
    local_bytes: int  # stack and spilled registers: far slower than registers

    @classmethod
    def of_log(cls, log: str) -> Resources:
        registers = re.search(r"Used (\d+) registers", log)
        local = re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", log)
        if registers is None or not local:
            raise RuntimeError(f"binop: the compiler did not report a kernel's resources:\n{log}")
        return cls(int(registers[1]), max(map(int, local)))


def compile_with_log(kernel: Kernel, arch: str) -> tuple[bytes, str]:
    """A cubin, and what the assembler had to say about it."""
    return _compile(kernel, arch, "--ptxas-options=-v")


def compile_with_resources(kernel: Kernel, arch: str) -> tuple[bytes, Resources]:
    compiled, log = compile_with_log(kernel, arch)
    return compiled, Resources.of_log(log)


def cache_directory() -> Path:
    """``BINOP_CACHE_DIR``, else ``binop`` in the user's cache directory."""
    chosen = os.environ.get("BINOP_CACHE_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    if not base and sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path.home() / ".cache") / "binop"


def _cache_path(kernel: Kernel, arch: str) -> Path:
    # Not NVRTC's version: asking for it would load NVRTC, which takes longer than all else.
    parts = (
        sources.content_hash(kernel.source),
        repr(kernel.macros),
        arch,
        repr(_OPTIONS),
    )
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return cache_directory() / f"{kernel.entry}-{arch}-{name[:32]}.cubin"


def cubin(kernel: Kernel, arch: str) -> bytes:
    """From the disk cache, or compiled and put there."""
    path = _cache_path(kernel, arch)
    try:
        return path.read_bytes()
    except OSError:  # Not there yet; or not readable, and then _keep says so.
        compiled = compile_kernel(kernel, arch)
    _keep(compiled, path)
    return compiled


def _keep(compiled: bytes, path: Path) -> None:
    """Writes a cubin, whole or not at all; without a usable directory it warns."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(compiled)
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
    except OSError as error:
        _warn_of_no_cache(path.parent, str(error))


@cache
def _warn_of_no_cache(directory: Path, error: str) -> None:
    warnings.warn(
        f"binop cannot keep compiled kernels, every process compiles them anew: {error}; "
        f"BINOP_CACHE_DIR chooses another directory than {directory}",
        stacklevel=2,
    )


# Per kernel and device: the function, and the dynamic shared memory that it may use.
_loaded: dict[tuple[Kernel, int], tuple[Any, int]] = {}
_loading = threading.Lock()


def load(kernel: Kernel, device: int, arch: str, shared_bytes: int) -> Any:
    """A ``cupy.cuda.Function`` on the current device, whose index is ``device``; it may be
    launched with up to ``shared_bytes`` of dynamic shared memory."""
    from cupy.cuda import Module
    from cupy_backends.cuda.api import driver

    with _loading:
        function, allowed = _loaded.get((kernel, device), (None, 0))
        if function is None:
            code = cubin(kernel, arch)
            with capture.calls_allowed():
                module = Module()
                module.load(code)
                function = module.get_function(kernel.entry)
                # CUDA would load the code when it is first launched: not inside a capture.
                driver.funcGetAttribute(driver.CU_FUNC_ATTRIBUTE_NUM_REGS, function.ptr)
        if shared_bytes > max(allowed, 48 * 1024):  # more than 48 KiB needs asking for
            driver.funcSetAttribute(
                function.ptr,
                driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                shared_bytes,
            )
        _loaded[kernel, device] = function, max(allowed, shared_bytes)
    return function
