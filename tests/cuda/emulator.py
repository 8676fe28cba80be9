"""Runs the kernels' own sources on the CPU: compiled as C++ against ``emulated/cuda.h``.

The ops, plans and arguments are those of the CUDA backend; only ``binop._cuda.launch`` is replaced.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import os
import re
import shutil
import struct
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from binop._cuda import sources
from binop._cuda.launches import Device, Kernel, Launch

_HEADERS = Path(__file__).parent / "emulated"
_MODULES = ("binop._cuda.launch", "binop._cuda.prepare", "binop._cuda.ops")

# Single instructions in types.cuh, and what they compute.
_INSTRUCTIONS = {
    "cvt.f32.f16": "value = emulated::float_of_half(bits);",
    "cvt.rn.f16.f32": "bits = emulated::half_of_float(value, true);",
    "cvt.rz.f16.f32": "bits = emulated::half_of_float(value, false);",
    "cvt.rn.bf16.f32": "",  # under sm_80 and newer alone; the emulator is none
    "cvt.rn.f16x2.f32": "pair = from_float(low) | static_cast<u32>(from_float(high)) << 16;",
    "cvt.rn.bf16x2.f32": "pair = from_float(low) | static_cast<u32>(from_float(high)) << 16;",
    "rcp.approx.ftz.f64": "inverse = 1.0 / by;",
}
_MAIN = """
#include "cuda.h"
#include "{source}"
extern "C" void launch(const void* arguments, unsigned blocks, int threads, unsigned shared_bytes,
                       unsigned seed) {{
  emulated::launch({entry}, arguments, blocks, threads, shared_bytes, seed);
}}
"""


def _as_cpp(text: str) -> str:
    text = re.sub(
        r"extern __shared__ .*? dynamic\[\];", "u8* const dynamic = emulated::shared_memory;", text
    )
    text = text.replace('asm volatile("" : "+l"(divisor));', "")
    for instruction, meaning in _INSTRUCTIONS.items():
        text = re.sub(rf'asm\("{re.escape(instruction)} [^;]*;" :[^;]*;', meaning, text)
    return text


@cache
def _compiled(kernel: Kernel, build: Path) -> Any:
    """The library's launch function. Each kernel is a library of its own, built once a folder."""
    texts = {name: _as_cpp(sources.text(name).decode()) for name in sources.headers()}
    texts[kernel.source] = _as_cpp(sources.text(kernel.source).decode())
    texts |= {path.name: path.read_text() for path in _HEADERS.iterdir()}
    texts["main.cpp"] = _MAIN.format(source=kernel.source, entry=kernel.entry)
    macros = [f"-D{name}={value}" for name, value in kernel.macros]
    folder = build / hashlib.sha256(repr((texts, macros)).encode()).hexdigest()[:16]
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    assert compiler, "a C++ compiler is missing"
    # Without unique symbols: kernels have static variables of the same name and another size.
    options = ["-std=c++17", "-O1", "-fPIC", "-shared", "-w", "-ffp-contract=off"]
    options += ["-fno-strict-aliasing", *(["-fno-gnu-unique"] if "g++" in _name(compiler) else [])]
    command = [compiler, *options, *macros, "main.cpp", "-o", "kernel.so"]
    subprocess.run(command, cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "kernel.so")).launch


def _name(compiler: str) -> str:
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True)
    return "clang" if "clang" in version.stdout else "g++"


def emulate(launch: Launch, build: Path, addresses: Sequence[int], seed: int) -> None:
    """One launch; ``seed`` orders its blocks and threads."""
    arguments = struct.pack(f"{len(addresses)}q", *addresses)
    arguments += struct.pack(f"{len(launch.sizes)}q", *launch.sizes)
    function = _compiled(launch.kernel, build)
    function(arguments, launch.blocks, launch.threads, launch.shared_bytes, seed)


@contextmanager
def emulated_ops(device: Device, build: Path, log: list[Launch]) -> Iterator[ModuleType]:
    """``binop._cuda.ops`` for CPU tensors, planned for a device; what it launches is logged."""

    def prepare_launch(launch: Launch, pointers: int, device: int) -> Callable[..., None]:
        def run(*addresses: int) -> None:
            assert len(addresses) == pointers
            log.append(launch)
            emulate(launch, build, addresses, len(log))

        return run

    fake = types.ModuleType(_MODULES[0])
    fake.prepare_launch = prepare_launch  # type: ignore[attr-defined]
    fake.current_device = lambda: None  # type: ignore[attr-defined]  # allocates by other means
    fake.empty_strided = None  # type: ignore[attr-defined]
    fake.device_facts = lambda index: device  # type: ignore[attr-defined]
    with _replaced(_MODULES):
        sys.modules[_MODULES[0]] = fake
        yield importlib.import_module(_MODULES[2])


@contextmanager
def _replaced(names: Sequence[str]) -> Iterator[None]:
    """Lets modules be imported anew, and brings the old ones back."""
    package = sys.modules["binop._cuda"]
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)
            attribute = name.rpartition(".")[2]
            if name in before:
                sys.modules[name] = before[name]
                setattr(package, attribute, before[name])
            elif hasattr(package, attribute):
                delattr(package, attribute)
