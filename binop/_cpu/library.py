"""Finding and loading the shared library, and the choice among its paths: the copies of its code,
each for one instruction set.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import os
import time
from functools import cache
from pathlib import Path

# Loaded before the library, so that the library's OpenMP is torch's: one pool of threads.
import torch  # noqa: F401

ISA_VARIABLE = "BINOP_CPU_ISA"
FILE_VARIABLE = "BINOP_CPU_LIBRARY"

_FOLDER = Path(__file__).parent

_I64, _PTR = ctypes.c_int64, ctypes.c_void_p
_SIGNATURES = {
    "binop_cpu_paths": (_I64, []),
    "binop_cpu_path_name": (ctypes.c_char_p, [_I64]),
    "binop_cpu_path_runs": (_I64, [_I64]),
    "binop_cpu_plan_bytes": (_I64, [_PTR]),
    "binop_cpu_plan": (None, [_PTR, _PTR]),
    "binop_cpu_prepared_bytes": (_I64, [_PTR]),
    "binop_cpu_prepare": (None, [_PTR, _PTR, _PTR, _I64]),
    "binop_cpu_conv": (_I64, [*[_PTR] * 12, _I64]),
    "binop_cpu_conv_residual": (_I64, [*[_PTR] * 12, _I64]),
    "binop_cpu_normalize": (None, [_I64, _PTR, _I64, _I64, _PTR]),
    "binop_cpu_pack": (None, [*[_PTR] * 5, _I64]),
    "binop_cpu_unpack": (None, [*[_PTR] * 3, _I64]),
    "binop_cpu_peak": (ctypes.c_double, [_I64] * 4),
}


class MissingLibraryError(RuntimeError):
    """There is no library, or it cannot be loaded."""


@cache
def load() -> ctypes.CDLL:
    """The library.

    Raises:
        MissingLibraryError: it was not built, or does not load.
    """
    path = file()
    if path is None:
        raise MissingLibraryError(
            "its library was not built when binop was installed, for want of a C++ compiler "
            "(install one, such as g++, and binop again; in a checkout: "
            "python setup.py build_ext --inplace)"
        )
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise MissingLibraryError(f"its library does not load: {error}") from error
    return library


def file() -> Path | None:
    """Where the library lies, if it was built for this Python; ``BINOP_CPU_LIBRARY`` names
    another build."""
    if os.environ.get(FILE_VARIABLE):
        return Path(os.environ[FILE_VARIABLE])
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = _FOLDER / f"_library{suffix}"
        if path.exists():
            return path
    return None


@cache
def paths() -> dict[str, int]:
    """The paths that this machine can run, the fastest first: number by name."""
    library = load()
    return {
        library.binop_cpu_path_name(index).decode(): index
        for index in range(library.binop_cpu_paths())
        if library.binop_cpu_path_runs(index)
    }


@cache
def default_path() -> str:
    """The path that the environment asks for, else the fastest.

    Raises:
        ValueError: it asks for one that this machine cannot run.
    """
    wanted = os.environ.get(ISA_VARIABLE)
    if not wanted:
        return next(iter(paths()))
    if wanted not in paths():
        raise ValueError(
            f"{ISA_VARIABLE}: expected one of {', '.join(paths())} on this machine, got {wanted!r}"
        )
    return wanted


_current: str | None = None


def current() -> int:
    """The number of the path in use."""
    return paths()[_current or default_path()]


def use(name: str) -> str:
    """Has plans made from now on use another path; the name of the one before."""
    global _current
    if name not in paths():
        raise ValueError(f"isa: expected one of {', '.join(paths())}, got {name!r}")
    before = _current or default_path()
    _current = name
    return before


def peak(usual: bool, threads: int) -> float:
    """Operations/s of the innermost instructions alone; with ``usual``, of the usual way to count
    bits on vectors, or 0 where the path's own is no other."""
    steps = 100_000  # some milliseconds
    start = time.perf_counter()
    done: float = load().binop_cpu_peak(current(), usual, steps, threads)
    return done / (time.perf_counter() - start)


def obstacle() -> str | None:
    """Why nothing can be computed here; None if it can."""
    try:
        default_path()
    except MissingLibraryError as error:
        return str(error)
    return None
