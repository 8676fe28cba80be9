"""The kernels that the plans can ask for, and compiling them without a device.

Of conv_wgmma, conv_wgmma_in_place, conv_wgmma_rows and stem, whose geometry is compiled in, only
those of common layers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from binop._cuda import jit, tuned
from binop._cuda.conv_call import ConvCall, ResidualSum
from binop._cuda.conv_kernels import CONV_KERNELS, WARPGROUP_WIDE, plan_choice, why_not_choice
from binop._cuda.launches import ELEMENT_BYTES, Device, Kernel
from binop._cuda.mma_tile import (
    EMULATED_TILES,
    FIRST_EMULATED,
    FIRST_WITH_MMA,
    TILES,
    Tile,
    mma_kernel,
)
from binop._cuda.plan_fused import fused_kernel
from binop._cuda.plan_pack import pack_kernel
from binop._cuda.plan_peak import MMA_PEAK, WGMMA_PEAK
from binop._cuda.plan_stem import STEM_TILES, StemCall, stem_kernel, stem_tile
from binop._cuda.wgmma_block import WITH_WGMMA
from binop.geometry import Conv2dGeometry

_PACK_OPTIONS: tuple[dict[str, bool], ...] = ({}, {"mask": True}, {"filters": True})
# One H200; the plan depends on its size alone.
_HOPPER = Device(WITH_WGMMA, 132, 232448, 233472)
_OUTPUTS = ("float16", "bfloat16", "float32", "bits")


def kernels() -> Iterator[Kernel]:
    for element, size in ELEMENT_BYTES.items():
        yield Kernel("unpack.cu", (("ELEMENT", element),))
        for options in _PACK_OPTIONS:
            if element == "int8" and options != {}:
                continue  # weights have no clip mask, and are no activations
            yield pack_kernel(element, "flat", None, **options)
            yield pack_kernel(element, "strided", None, **options)
            vector = 1
            while vector * size <= 16:
                yield pack_kernel(element, "planes", vector, **options)
                vector *= 2
    for out in _OUTPUTS:
        yield Kernel("conv_simt.cu", (("OUT", out),))
        if out != "bits":
            yield fused_kernel(out)
        for tile in TILES:
            yield from _mma_kernels(out, tile)
    yield from _wgmma_kernels()
    yield from _stem_kernels()
    yield from (MMA_PEAK, WGMMA_PEAK)


def _mma_kernels(out: str, tile: Tile) -> list[Kernel]:
    if out == "bits":
        return [mma_kernel(out, tile, pairs=pairs) for pairs in (True, False)]
    return [mma_kernel(out, tile, rows) for rows in (True, False)]


def _wgmma_kernels() -> Iterator[Kernel]:
    """These are compiled for a geometry: here for the layers of a ResNet and their like, and for a
    large one of many channels."""
    seen = set()
    sizes = ((64, 56), (128, 28), (256, 14), (512, 7), (1024, 56))
    layers = product(sizes, (1, 256), (1, 3), _OUTPUTS)
    for ((channels, size), batch, taps, out), last in product(layers, (True, False)):
        geometry = Conv2dGeometry(
            batch, channels, size, size, channels, (taps,) * 2, (1, 1), (taps // 2,) * 2,
            (1, 1), 1,
        )  # fmt: skip
        call = ConvCall(out, pad_value=0, channels_last=last or out == "bits", alignment=16)
        calls = [call]
        if out != "bits" and last:
            calls.append(replace(call, bias=True))
            if taps == 3:  # a network with shortcuts: Bi-Real Net's layers
                calls.append(replace(call, residual=ResidualSum(False, False, False)))
        for each, name in product(calls, WARPGROUP_WIDE):
            wide = CONV_KERNELS[name]
            if wide.why_not(geometry, each, _HOPPER) is not None:
                continue
            kernel = wide.plan(geometry, each, _HOPPER, None).kernel
            if kernel not in seen:
                seen.add(kernel)
                yield kernel
    yield from {kernel: None for kernel in _tuned_kernels() if kernel not in seen}


def _stem_kernels() -> Iterator[Kernel]:
    """These, too: here for the first layers of a ResNet and a VGG."""
    layers = ((7, 2), (3, 1), (3, 2))
    for (taps, stride), element, tile in product(layers, ("float16", "bfloat16"), STEM_TILES):
        geometry = Conv2dGeometry(
            256, 3, 224, 224, 64, (taps,) * 2, (stride,) * 2, (taps // 2,) * 2, (1, 1), 1
        )
        for bias in (False, True):
            yield stem_kernel(geometry, StemCall(element, bias, packed=True), tile)
            for norm, relu in product((False, True), repeat=2):
                call = StemCall(element, bias, norm=norm, relu=relu)
                yield stem_kernel(geometry, call, tile)


def _tuned_kernels() -> Iterator[Kernel]:
    """Those that the table of measured choices adds."""
    for entry in tuned.load(tuned.PATH):
        key = entry.key
        device = replace(_HOPPER, multiprocessors=key.multiprocessors)
        wide = entry.choice.kernel in WARPGROUP_WIDE
        if wide and why_not_choice(key.geometry, key.call, device, entry.choice) is None:
            yield plan_choice(key.geometry, key.call, device, entry.choice).kernel


def runs_on(kernel: Kernel, arch: str) -> bool:
    """Whether a plan for this architecture can ask for the kernel."""
    capability = divmod(int(arch.removeprefix("sm_").rstrip("a")), 10)
    if kernel.entry in (*WARPGROUP_WIDE, WGMMA_PEAK.entry):
        return capability == WITH_WGMMA
    if kernel.source == "stem.cu":
        macros, tile = dict(kernel.macros), stem_tile(capability)
        planned = (macros["WIDE"], macros["BLOCKS"]) == (tile.wide, tile.blocks)
        return capability >= FIRST_WITH_MMA and planned
    if kernel.source == "mma_peak.cu":
        return capability >= FIRST_WITH_MMA
    if kernel.source != "conv_mma.cu":
        return True
    if capability >= FIRST_EMULATED:
        emulated = [_mma_kernels(out, tile) for out in _OUTPUTS for tile in EMULATED_TILES]
        return any(kernel in some for some in emulated)
    return capability >= FIRST_WITH_MMA


@dataclass(frozen=True)
class Compiled:
    kernel: Kernel
    arch: str
    seconds: float
    cubin: bytes
    resources: jit.Resources | None  # unknown where the cubin is for the cache


def compile_all(
    archs: Iterable[str] = jit.ARCHITECTURES,
    chosen: Iterable[Kernel] | None = None,
    *,
    fill_cache: bool = False,
) -> Iterator[Compiled]:
    """Compiles every kernel (or the ``chosen`` ones) for every architecture that it runs on.

    Needs NVRTC, but no GPU. With ``fill_cache`` the cubins go to the disk cache, and those that
    are there already are taken from it.
    """
    wanted = list(kernels() if chosen is None else chosen)
    for arch in archs:
        for kernel in wanted:
            if not runs_on(kernel, arch):
                continue
            start = time.perf_counter()
            resources = None
            if fill_cache:
                cubin = jit.cubin(kernel, arch)
            else:
                cubin, resources = jit.compile_with_resources(kernel, arch)
            yield Compiled(kernel, arch, time.perf_counter() - start, cubin, resources)
