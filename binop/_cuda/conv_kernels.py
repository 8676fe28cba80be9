"""The kernels that convolve, side by side: what each takes, its tiles, and its plan with a tile.

Tiles are tuples of numbers here, so that a table or a variable can name them. No tensors and no
CuPy here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, fields
from types import ModuleType
from typing import Any

from binop._cuda import plan_wgmma, plan_wgmma_in_place, plan_wgmma_rows
from binop._cuda.choice import Choice
from binop._cuda.conv_call import ConvCall
from binop._cuda.launches import Device, Launch
from binop._cuda.plan_mma import candidates, plan_mma, why_not_mma
from binop._cuda.plan_simt import plan_simt
from binop._cuda.plan_wgmma import WgmmaTile
from binop._cuda.plan_wgmma_in_place import InPlaceTile
from binop._cuda.plan_wgmma_rows import RowsTile
from binop.geometry import Conv2dGeometry

Tile = tuple[int, ...]
WARPGROUP_WIDE = ("conv_wgmma", "conv_wgmma_in_place", "conv_wgmma_rows")


@dataclass(frozen=True)
class ConvKernel:
    tile_names: tuple[str, ...]  # of its numbers
    why_not: Callable[[Conv2dGeometry, ConvCall, Device], str | None]
    # Every tile of a call that it takes, and about how many cycles that needs.
    tiles: Callable[[Conv2dGeometry, ConvCall, Device], Iterator[tuple[Tile, float]]]
    plan: Callable[[Conv2dGeometry, ConvCall, Device, Tile | None], Launch]


def _warpgroup_wide(
    module: ModuleType,
    tile_type: type[Any],
    why_not: Callable[[Conv2dGeometry, ConvCall, Device], str | None],
    plan: Callable[[Conv2dGeometry, ConvCall, Device, Any], Launch],
) -> ConvKernel:
    """One of those whose module has ``tiles`` and their ``cycles``."""

    def tiles(
        geometry: Conv2dGeometry, call: ConvCall, device: Device
    ) -> Iterator[tuple[Tile, float]]:
        for tile in module.tiles(geometry, call, device):
            yield astuple(tile), module.cycles(geometry, call, tile, device)

    def plan_with(
        geometry: Conv2dGeometry, call: ConvCall, device: Device, tile: Tile | None
    ) -> Launch:
        return plan(geometry, call, device, None if tile is None else tile_type(*tile))

    names = tuple(field.name for field in fields(tile_type))
    return ConvKernel(names, why_not, tiles, plan_with)


def _mma_tiles(
    geometry: Conv2dGeometry, call: ConvCall, device: Device
) -> Iterator[tuple[Tile, float]]:
    for candidate, shared_bytes in candidates(geometry, call, device):
        yield candidate.numbers, candidate.estimate(device, shared_bytes)


def _plan_simt(
    geometry: Conv2dGeometry, call: ConvCall, device: Device, tile: Tile | None
) -> Launch:
    return plan_simt(geometry, call, "chosen")


CONV_KERNELS = {
    "conv_wgmma": _warpgroup_wide(
        plan_wgmma, WgmmaTile, plan_wgmma.why_not_wgmma, plan_wgmma.plan_wgmma
    ),
    "conv_wgmma_in_place": _warpgroup_wide(
        plan_wgmma_in_place,
        InPlaceTile,
        plan_wgmma_in_place.why_not_wgmma_in_place,
        plan_wgmma_in_place.plan_wgmma_in_place,
    ),
    "conv_wgmma_rows": _warpgroup_wide(
        plan_wgmma_rows,
        RowsTile,
        plan_wgmma_rows.why_not_wgmma_rows,
        plan_wgmma_rows.plan_wgmma_rows,
    ),
    "conv_mma": ConvKernel(
        (
            "warp_pixels", "warp_channels", "warps_down", "warps_across", "warps_deep", "producers",
            "stage_planes", "resident",
        ),
        why_not_mma,
        _mma_tiles,
        plan_mma,
    ),
    # Without tiles: nothing to choose, and nothing to be measured for.
    "conv_simt": ConvKernel((), lambda *_: None, lambda *_: iter(()), _plan_simt),
}  # fmt: skip


def choices(
    geometry: Conv2dGeometry, call: ConvCall, device: Device
) -> Iterator[tuple[Choice, float]]:
    """Every tile of every kernel that takes the call, and about how many cycles it needs."""
    for name, kernel in CONV_KERNELS.items():
        if kernel.why_not(geometry, call, device) is None:
            for tile, cycles in kernel.tiles(geometry, call, device):
                yield Choice(name, tile), cycles


def why_not_choice(
    geometry: Conv2dGeometry, call: ConvCall, device: Device, choice: Choice
) -> str | None:
    """Why a choice cannot be followed; None if it can."""
    kernel = CONV_KERNELS.get(choice.kernel)
    if kernel is None:
        return f"expected a kernel out of {', '.join(CONV_KERNELS)}"
    obstacle = kernel.why_not(geometry, call, device)
    if obstacle is not None or choice.tile is None:
        return obstacle
    tiles = [tile for tile, _ in kernel.tiles(geometry, call, device)]
    if choice.tile in tiles:
        return None
    if not tiles:
        return "the kernel has no tiles"
    listed = ", ".join("x".join(map(str, tile)) for tile in tiles)
    return f"expected a tile ({' x '.join(kernel.tile_names)}) out of {listed}"


def plan_choice(geometry: Conv2dGeometry, call: ConvCall, device: Device, choice: Choice) -> Launch:
    """Raises ValueError where the choice cannot be followed."""
    obstacle = why_not_choice(geometry, call, device, choice)
    if obstacle is not None:
        raise ValueError(f"{choice} cannot convolve {geometry}: {obstacle}")
    return CONV_KERNELS[choice.kernel].plan(geometry, call, device, choice.tile)
