"""What runs where, and why nothing faster does: the text of ``python -m binop info``."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator

import torch

from binop._version import __version__
from binop.backends import cpu_obstacle, cuda_obstacle

_BY_TAPS = "reference (plain torch), one matrix product per kernel tap"


def lines() -> Iterator[str]:
    """The report, line by line. It imports CuPy only where torch sees a CUDA device."""
    yield f"binop    {__version__}"
    yield f"python   {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield f"torch    {torch.__version__}, CUDA {torch.version.cuda or 'not built in'}"
    yield f"cupy     {_installed('cupy-cuda13x', 'cupy-cuda12x', 'cupy') or 'not installed'}"
    yield ""
    yield f"cpu      {_processor()}, {torch.get_num_threads()} threads"
    yield from _cpu_backend()
    if not torch.cuda.is_available():
        built = "torch sees no device" if torch.version.cuda else "this torch is built without CUDA"
        yield f"cuda     none: {built}"
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        yield f"cuda:{index}   {torch.cuda.get_device_name(index)}, sm_{major}{minor}"
        obstacle = cuda_obstacle(index)
        if obstacle is None:
            yield "         backend: CUDA kernels, compiled when first used"
        else:
            yield f"         backend: {_BY_TAPS}"
            yield f"         no faster one: {obstacle}"
    yield f"others   backend: {_BY_TAPS}"


def _cpu_backend() -> Iterator[str]:
    obstacle = cpu_obstacle()
    if obstacle is None:
        from binop._cpu import library

        used, *others = sorted(library.paths(), key=library.default_path().__ne__)
        told = f" (also here: {', '.join(others)}; {library.ISA_VARIABLE} chooses)"
        yield f"         backend: packed kernels, {used}{told if others else ''}"
        return
    if torch.backends.mkldnn.enabled and torch.backends.mkldnn.is_available():
        yield "         backend: reference (plain torch), float32 convolution of signs by oneDNN"
    else:
        yield f"         backend: {_BY_TAPS} (oneDNN is off or missing)"
    yield f"         no faster one: {obstacle}"


def _installed(*names: str) -> str | None:
    """Version of the first distribution of these that is installed."""
    for name in names:
        try:
            return f"{importlib.metadata.version(name)} ({name})"
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _processor() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.processor() or platform.machine()}, torch uses {capability}"
