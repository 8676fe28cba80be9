"""What can serve CPU tensors: the paths of the CPU library, and plain torch."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from binop import backends
from binop._cpu import library, ops

# Every path of the library on this architecture, whether the machine can run it or not.
_PATHS = {"x86_64": ("avx512_vpopcntdq", "avx512", "avx2"), "aarch64": ("neon",)}
CPU_PATHS = (*_PATHS.get(platform.machine(), ()), "portable")
CPU_BACKENDS = (*CPU_PATHS, "reference")


def compiler() -> str | None:
    """The C++ compiler that builds extensions here."""
    return shutil.which((os.environ.get("CXX") or "c++").split()[0]) or shutil.which("g++")


def obstacle(name: str) -> str | None:
    """Why tests of a backend are to be skipped. A library that is missing although there is a
    compiler is no reason: its tests must fail."""
    if name == "reference":
        return None
    try:
        names = library.paths()
    except library.MissingLibraryError:
        return "no C++ compiler to build the CPU library with" if compiler() is None else None
    return None if name in names else f"this machine cannot run {name}"


@contextmanager
def serve_cpu_by(name: str) -> Iterator[None]:
    """CPU tensors are served so meanwhile."""
    if name != "reference":
        with ops.isa(name):
            yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "_cpu_functions", {})
        patch.setattr(backends, "cpu_obstacle", lambda: "forced by a test")
        patch.setattr(backends, "_warn_once", lambda *_: None)
        yield
