"""No tile that a plan can choose keeps anything in local memory, without a GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest
from some_kernels import FULL_SUM, PLAIN_SUM, rows, stem
from test_plan import CALL, layer
from test_plan_wgmma import H200

from binop._cuda import jit, plan_wgmma, plan_wgmma_in_place, plan_wgmma_rows, variants
from binop._cuda.launches import Kernel
from binop._cuda.plan_stem import WIDE, StemCall
from binop._cuda.plan_wgmma import wgmma_kernel
from binop._cuda.plan_wgmma_rows import RowsTile
from binop._cuda.wgmma_rows_layout import steps_of

FLOATS = ("float16", "bfloat16", "float32")


def _stems() -> Iterator[Kernel]:
    calls = [StemCall("bfloat16", bias, packed=True) for bias in (False, True)]
    for bias, norm, relu in product((False, True), repeat=3):
        calls.append(StemCall("float16", bias, norm=norm, relu=relu))
    for channels, kernel, stride in product(range(1, 5), (1, 2, 3, 5, 7), (1, 2, 3, 4)):
        yield from (stem(channels, kernel, stride, call, WIDE) for call in calls)


def _tiles_of_residual_sums() -> Iterator[Kernel]:
    options = product((PLAIN_SUM, FULL_SUM), (32, 64, 128, 256, 512), (1, 3), FLOATS)
    for residual, channels, kernel, out in options:
        geometry = replace(
            layer(channels, 28, 256), kernel=(kernel, kernel), padding=(kernel // 2,) * 2
        )
        call = replace(CALL, out=out, residual=residual)
        for tile in plan_wgmma.tiles(geometry, call, H200):
            yield wgmma_kernel(geometry, call, tile)


# By their stores: how floats are laid out, and by how many channels they fall short of a multiple.
_STORES = {"kWide": (True, 0), "kSingle": (True, 2), "kPixels": (False, 0)}


def _tiles_of_wgmma() -> Iterator[Kernel]:
    """Those with the most consumers."""
    floats = product(("bfloat16", "float32"), _STORES, (False, True))
    # (The most channels: what a border class adds is no half of a word.)
    options = product([("bits", "kWide", False), *floats], (32, 64, 128, 256, 4096))
    for (out, stores, bias), channels in options:
        last, short = _STORES[stores]
        geometry = layer(channels, 28, 256 - short)
        call = replace(CALL, out=out, channels_last=last, bias=bias)
        if plan_wgmma.why_not_wgmma(geometry, call, H200) is not None:
            continue
        most = {tile.channels: tile for tile in plan_wgmma.tiles(geometry, call, H200)}
        yield from (wgmma_kernel(geometry, call, tile) for tile in most.values())


def _tiles_in_place() -> Iterator[Kernel]:
    """Each with as many channels as fill its stores, and with a bias also with others."""
    floats = product(("bfloat16", "float32"), ((False, 192), (True, 192), (True, 190)))
    outputs = [("bits", (False, 192)), *floats]
    for (out, (bias, out_channels)), channels in product(outputs, (64, 128, 256, 384, 512, 4096)):
        geometry, call = layer(channels, 14, out_channels), replace(CALL, out=out, bias=bias)
        if plan_wgmma_in_place.why_not_wgmma_in_place(geometry, call, H200) is not None:
            continue
        for tile in plan_wgmma_in_place.tiles(geometry, call, H200):
            yield plan_wgmma_in_place.plan_wgmma_in_place(geometry, call, H200, tile).kernel


def _tiles_of_rows() -> Iterator[Kernel]:
    floats = product(("bfloat16", "float32"), _STORES, (False, True), (None,))
    sums = product(("bfloat16", "float32"), ("kWide",), (False,), (PLAIN_SUM, FULL_SUM))
    every = [("bits", "bits", False, None), *floats, *sums]
    options = product(every, (1, 2, 4, 8, 16), range(32, 193, 32), (1, 3, 5))
    for (out, stores, bias, residual), words, channels, kernel in options:
        steps = steps_of(replace(layer(32 * words, 28, 32), kernel=(kernel, kernel)))
        consumers = plan_wgmma_rows._most_consumers(channels, steps, stores, residual is not None)
        if steps > plan_wgmma_rows._MAX_STEPS or consumers == 0:
            continue
        tile = RowsTile(channels, consumers)
        wide = rows(out, 32 * words, kernel, tile, bias=bias, residual=residual)
        macros = dict(wide.macros) | ({} if out == "bits" else {"STORES": stores})
        yield Kernel(wide.source, tuple(macros.items()))


def _every_kernel() -> Iterator[tuple[Kernel, str]]:
    for arch in jit.ARCHITECTURES:
        yield from ((k, arch) for k in variants.kernels() if variants.runs_on(k, arch))


# The tiles that plans choose among, and with the last all that `compile-kernels` compiles: half a
# second each, and 3,600 in all. `make kernels` looks at all tiles (as it compiles every kernel,
# too), and the suite at one in sixteen; a step that is prime to the sizes of the products above
# meets every value of every option.
_STEP = 17
_EVERY = {
    "residual sums": lambda: [(k, "sm_90a") for k in dict.fromkeys(_tiles_of_residual_sums())],
    "stems": lambda: [(k, "sm_90a") for k in _stems()],
    "wide": lambda: [(k, "sm_90a") for k in dict.fromkeys(_tiles_of_wgmma())],
    "in place": lambda: [(k, "sm_90a") for k in dict.fromkeys(_tiles_in_place())],
    "rows": lambda: [(k, "sm_90a") for k in dict.fromkeys(_tiles_of_rows())],
}
_SAMPLED = _EVERY | {"every architecture": lambda: list(_every_kernel())}


@pytest.mark.parametrize("name", _SAMPLED)
def test_some_kernels_of_every_kind_use_no_local_memory(name: str) -> None:
    _check_local_memory(_SAMPLED[name]()[::_STEP])


@pytest.mark.sweep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(8))
@pytest.mark.parametrize("name", _EVERY)
def test_no_tile_uses_local_memory(name: str, part: int) -> None:
    _check_local_memory(_EVERY[name]()[part::8])


def _check_local_memory(kernels: list[tuple[Kernel, str]]) -> None:
    assert kernels
    for kernel, arch in kernels:
        _, log = jit.compile_with_log(kernel, arch)
        assert jit.Resources.of_log(log).local_bytes == 0, (kernel, arch)
        assert not re.search(r"C75\d\d", log), (kernel, log)
