"""When conv_wgmma_in_place (sm_90a) convolves: stride 1, whose products read the padded image where
it lies. No tensors and no CuPy here.

Places of the padded image count as output pixels; those between rows and between images are no
pixels, and cost as much. Padding is shared: the columns after a row are those before the next, and
the rows after an image those before the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from binop._cuda.conv_call import ConvCall
from binop._cuda.launches import (
    CONV_SIZES,
    WGMMA_SIZES,
    Device,
    Kernel,
    Launch,
    divide_up,
    in_order,
    reciprocal,
)
from binop._cuda.plan_wgmma import why_not_wgmma
from binop._cuda.wgmma_block import (
    Memory,
    block_sizes,
    border_classes,
    border_cuts,
    copy_words,
    kernel_of,
    stores_of,
    walkers_of,
)
from binop._cuda.wgmma_geometry import CHUNK_BYTES, CHUNK_WORDS, Axis, Depth, axes
from binop.geometry import Conv2dGeometry
from binop.packing import WORD_BITS, word_count

_SET_COLUMNS = 16  # of a product, that count the activations' bits
_MAX_CHANNELS = 192
_PRODUCT_PIXELS = 64
_WARPGROUP = 128
_MAX_CONSUMERS = 4
_MAX_BLOCKS = 2
_ENOUGH_STAGES = 4  # one a producer
_MAX_STEPS = 18  # products of a slab
_MAX_PLACES = 2**30
_MAX_PLANE = 2**14 * CHUNK_BYTES  # what the products' operands can tell

# Cycles of a block, fitted to times of layers and tiles on one H200 (2026-11-30, clock taken as
# 1.85 GHz).
_START_CYCLES = 6700
_FILTER_CYCLES_PER_BYTE = 0.015
_PRODUCT_CYCLES_PER_COLUMN = 0.56
_ROUND_CYCLES = 200  # of a consumer alone, beside products and stores
_BITS_STORE_CYCLES = 13  # for a channel and 64 places
_FLOAT_STORE_CYCLES = 31.5
_STOLEN_CYCLES = 5  # by a channel's float arithmetic, from others' products
_PATCH_CYCLES = 100
_ENTRY_CYCLES = 1.7  # and for each 16 bytes that are copied
_SIDE_BY_SIDE = 3  # consumers; more only share what these have


@dataclass(frozen=True)
class InPlaceTile:
    """Output channels of a block, the warpgroups that multiply, and how often 64 places one of
    these takes at a time."""

    channels: int
    consumers: int
    blocks: int

    @property
    def threads(self) -> int:
        return _WARPGROUP * (1 + self.consumers)

    @property
    def pixels(self) -> int:
        return _PRODUCT_PIXELS * self.blocks


@dataclass(frozen=True)
class PlaceLayout:
    """The stack of padded images, in places."""

    pitch: int  # of a row
    rows: int  # of an image
    count: int  # to the last output pixel's, and that
    reach: int  # from an output pixel's first tap to its last

    @classmethod
    def of(cls, geometry: Conv2dGeometry) -> PlaceLayout:
        rows, columns = axes(geometry)
        pitch, height = _shared(columns), _shared(rows)
        last = ((geometry.batch - 1) * height + rows.out - 1) * pitch + columns.out - 1
        return cls(pitch, height, last + 1, (rows.reach - 1) * pitch + columns.reach - 1)

    def entries(self, tile: InPlaceTile) -> int:
        """Of a patch."""
        return tile.pixels + self.reach


def _shared(axis: Axis) -> int:
    """Places from one row (or image) to the next, so that what outputs read past it is padding."""
    return axis.out if axis.kernel == 1 else max(axis.size + axis.padding, axis.out)


def _depths(geometry: Conv2dGeometry) -> Iterator[Depth]:
    """The most planes first: the fewer slabs, the less often do products wait for one. A product
    takes two pieces, of which the second must not lie before the first: so of more than one tap the
    planes are even, or one. Pixels of few words have one: what the next pixels add to it meets no
    filter's bits."""
    least = Depth.of(geometry)
    if least.word_taps > 1:
        yield Depth(least.word_taps, 1, least.chunks, 1)
        return
    taps = math.prod(geometry.kernel)
    pieces = divide_up(word_count(geometry.group_channels), CHUNK_WORDS)
    for most in sorted({2 * _MAX_STEPS // taps, least.planes}, reverse=True):
        planes = min(pieces, most)
        if planes > 1 and taps > 1:
            planes -= planes % 2
        yield Depth(1, planes, taps * planes, divide_up(pieces, planes))


def _most_consumers(channels: int, blocks: int) -> int:
    """For which the compiler keeps sums and the epilogue in registers."""
    if blocks == 2:
        return 2 if channels <= 128 else 0
    return 2 if channels > 128 else 4 if channels <= 64 else 3


def _layout(
    geometry: Conv2dGeometry, call: ConvCall, tile: InPlaceTile, classes: int, device: Device
) -> tuple[Depth, Memory]:
    entries = PlaceLayout.of(geometry).entries(tile)
    for depth in _depths(geometry):
        memory = Memory.of(geometry, call, tile, classes, depth, entries, _SET_COLUMNS)
        if memory.stages(device.block_shared_bytes) >= _ENOUGH_STAGES:
            break
    return depth, memory


def _least_stages(depth: Depth) -> int:
    """Patches of two tiles, so that one is filled while the other is multiplied; of many slabs,
    fewer do that as well."""
    return min(_ENOUGH_STAGES, 2 * depth.slabs)


def tiles(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> Iterator[InPlaceTile]:
    """Every tile that fits a problem which the kernel takes."""
    border = border_cuts(geometry, call.pad_value)
    if border is None:
        return
    out_per_group = geometry.out_channels // geometry.groups
    most = min(_MAX_CHANNELS, divide_up(out_per_group, WORD_BITS) * WORD_BITS)
    for channels, blocks in product(range(WORD_BITS, most + 1, WORD_BITS), (1, 2)):
        for consumers in range(_most_consumers(channels, blocks), 0, -1):
            tile = InPlaceTile(channels, consumers, blocks)
            depth, memory = _layout(geometry, call, tile, border_classes(border), device)
            stages = memory.stages(device.block_shared_bytes)
            if memory.plane < _MAX_PLANE and stages >= _least_stages(depth):
                yield tile


def why_not_wgmma_in_place(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> str | None:
    obstacle = why_not_wgmma(geometry, call, device)
    if obstacle is not None:
        return obstacle
    rows, columns = axes(geometry)
    if rows.step != 1 or columns.step != 1:
        return "strides"
    if stores_of(geometry, call) == "kPixels":
        return "contiguous output"
    if call.residual is not None:
        return "a residual sum"
    layout = PlaceLayout.of(geometry)
    if layout.count >= _MAX_PLACES:
        return "the image is too large"
    if rows.kernel > 1 and rows.dilation * layout.pitch < columns.reach - 1:
        return "taps of one row reach past the first of the next"
    if next(tiles(geometry, call, device), None) is None:
        return "filters and patches do not fit into shared memory"
    return None


def cycles(geometry: Conv2dGeometry, call: ConvCall, tile: InPlaceTile, device: Device) -> float:
    """About how long a tile takes."""
    border = border_cuts(geometry, call.pad_value)
    assert border is not None
    depth, _ = _layout(geometry, call, tile, border_classes(border), device)
    places = PlaceLayout.of(geometry).count
    pixel_tiles, channel_tiles, walkers = walkers_of(geometry, tile, places, device)
    rounds = divide_up(pixel_tiles, walkers)
    steps = depth.slabs * depth.steps
    columns = tile.channels + _SET_COLUMNS
    filters = steps * 2 * columns * CHUNK_BYTES * _FILTER_CYCLES_PER_BYTE
    products = tile.blocks * steps * _PRODUCT_CYCLES_PER_COLUMN * columns
    packs = call.out == "bits"
    store = _BITS_STORE_CYCLES if packs else _FLOAT_STORE_CYCLES
    stolen = 0 if packs else _STOLEN_CYCLES * tile.channels
    # In turn: while one stores, the others multiply.
    alone = _ROUND_CYCLES + products + tile.blocks * store * tile.channels
    entries = PlaceLayout.of(geometry).entries(tile) * depth.planes
    producing = depth.slabs * (_PATCH_CYCLES + _ENTRY_CYCLES * entries)
    turn = max(products + stolen, producing, alone / min(tile.consumers, _SIDE_BY_SIDE))
    waves = divide_up(channel_tiles * walkers, device.multiprocessors)
    return waves * (_START_CYCLES + filters + rounds * turn)


def _choose_tile(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> InPlaceTile:
    return min(tiles(geometry, call, device), key=lambda tile: cycles(geometry, call, tile, device))


def wgmma_in_place_cycles(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> float:
    """Of the tile that is chosen, for a problem that ``why_not_wgmma_in_place`` finds no fault
    with."""
    return cycles(geometry, call, _choose_tile(geometry, call, device), device)


def plan_wgmma_in_place(
    geometry: Conv2dGeometry, call: ConvCall, device: Device, tile: InPlaceTile | None = None
) -> Launch:
    """The launch of a problem that ``why_not_wgmma_in_place`` finds no fault with, with one of its
    ``tiles``."""
    tile = tile or _choose_tile(geometry, call, device)
    layout = PlaceLayout.of(geometry)
    border = border_cuts(geometry, call.pad_value)
    assert border is not None
    depth, memory = _layout(geometry, call, tile, border_classes(border), device)
    copied = memory.copied(depth.slabs, device.block_shared_bytes)
    stages = memory.stages(device.block_shared_bytes - copied)
    walk = walkers_of(geometry, tile, layout.count, device)
    _, channel_tiles, walkers = walk
    sizes = block_sizes(geometry, call, border, walk)
    sizes |= memory.sizes(depth, stages, copied, layout.pitch, layout.rows)
    sizes |= {
        "by_patch_columns": reciprocal(layout.pitch),
        "by_patch_rows": reciprocal(layout.rows),
        "reach_places": layout.reach,
    }
    return Launch(
        wgmma_in_place_kernel(geometry, call, tile, depth),
        walkers * channel_tiles,
        tile.threads,
        memory.fixed + copied + stages * memory.stage,
        in_order(CONV_SIZES, sizes) + in_order(WGMMA_SIZES, sizes),
        f"Hopper's tensor cores on images where they lie: {tile.channels} channels a block, "
        f"{tile.consumers} consumers of {tile.pixels} places, {stages} patches in flight",
        overlaps=True,
    )


def wgmma_in_place_kernel(
    geometry: Conv2dGeometry, call: ConvCall, tile: InPlaceTile, depth: Depth
) -> Kernel:
    words = copy_words(geometry, call)
    blocks = (("BLOCKS", tile.blocks),)
    return kernel_of("conv_wgmma_in_place.cu", geometry, call, tile, depth, words, blocks)
