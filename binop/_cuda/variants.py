"""Every kernel that the plans can ask for, and compiling them without a device."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from binop._cuda import jit
from binop._cuda.launches import ELEMENT_BYTES, Kernel
from binop._cuda.plan_conv import FIRST_WITH_MMA, TILES, mma_kernel

_OUTPUTS = ("float16", "bfloat16", "float32", "bits")


def kernels() -> Iterator[Kernel]:
    for element, size in ELEMENT_BYTES.items():
        yield Kernel("unpack.cu", (("ELEMENT", element),))
        for mask in (0, 1):
            if mask and element == "int8":
                continue  # weights have no clip mask
            macros = (("ELEMENT", element), ("MASK", mask))
            yield Kernel("pack_flat.cu", macros)
            yield Kernel("pack_strided.cu", macros)
            vector = 1
            while vector * size <= 16:
                yield Kernel("pack_planes.cu", (*macros, ("VECTOR", vector)))
                vector *= 2
    for out in _OUTPUTS:
        yield Kernel("conv_simt.cu", (("OUT", out),))
        for tile in TILES:
            for copy_words in (1, 2, 4):
                yield mma_kernel(out, tile, copy_words, masked=False)
            yield mma_kernel(out, tile, 1, masked=True)


def runs_on(kernel: Kernel, arch: str) -> bool:
    number = int(arch.removeprefix("sm_").rstrip("a"))
    return kernel.source != "conv_mma.cu" or divmod(number, 10) >= FIRST_WITH_MMA


@dataclass(frozen=True)
class Compiled:
    kernel: Kernel
    arch: str
    seconds: float
    cubin: bytes


def compile_all(
    archs: Iterable[str] = jit.ARCHITECTURES,
    chosen: Iterable[Kernel] | None = None,
    *,
    fill_cache: bool = False,
) -> list[Compiled]:
    """Compiles every kernel (or the ``chosen`` ones) for every architecture that it runs on.

    Needs NVRTC, but no GPU. With ``fill_cache`` the cubins go to the disk cache, and those that
    are there already are taken from it.
    """
    wanted = list(kernels() if chosen is None else chosen)
    make = jit.cubin if fill_cache else jit.compile_kernel
    report = []
    for arch in archs:
        for kernel in wanted:
            if runs_on(kernel, arch):
                start = time.perf_counter()
                cubin = make(kernel, arch)
                report.append(Compiled(kernel, arch, time.perf_counter() - start, cubin))
    return report
