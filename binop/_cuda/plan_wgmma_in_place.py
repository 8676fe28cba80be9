"""When conv_wgmma_in_place (sm_90a) convolves: stride 1, whose products read the padded image where
it lies. No tensors and no CuPy here.

Places of the padded image count as output pixels; those between rows and between images are no
pixels, and cost as much. Padding is shared: the columns after a row are those before the next, and
the rows after an image those before the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
from binop._cuda.plan_wgmma import (
    Memory,
    WgmmaTile,
    block_sizes,
    border_classes,
    border_cuts,
    copy_words,
    inverse,
    kernel_of,
    stores_of,
    walkers_of,
    why_not_wgmma,
)
from binop._cuda.wgmma_geometry import CHUNK_BYTES, Axis, Depth, axes
from binop.geometry import Conv2dGeometry
from binop.packing import WORD_BITS

_SET_COLUMNS = 16  # of a product, that count the activations' bits
_MAX_CHANNELS = 192
_MAX_CONSUMERS = 4
_MIN_STAGES = 2
_MAX_PLACES = 2**30
_MAX_PLANE = 2**14 * CHUNK_BYTES  # what the products' operands can tell

# Cycles of a block.
_START_CYCLES = 5600
_FILTER_CYCLES_PER_BYTE = 0.1
_PRODUCT_CYCLES_PER_COLUMN = 0.5
_ROUND_CYCLES = 200
_BITS_STORE_CYCLES = 2.0  # for a channel and a consumer
_FLOAT_STORE_CYCLES = 6.0


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

    def entries(self, tile: WgmmaTile) -> int:
        """Of a patch."""
        return tile.pixels + self.reach


def _shared(axis: Axis) -> int:
    """Places from one row (or image) to the next, so that what outputs read past it is padding."""
    return axis.out if axis.kernel == 1 else max(axis.size + axis.padding, axis.out)


def _depth(geometry: Conv2dGeometry) -> Depth:
    """One plane for pixels of few words: what the next pixels add to it meets no filter's bits."""
    depth = Depth.of(geometry)
    return depth if depth.word_taps == 1 else Depth(depth.word_taps, 1, depth.chunks, 1)


def _most_consumers(channels: int, call: ConvCall, stores: str) -> int:
    """For which the compiler keeps sums and the epilogue in registers."""
    if channels > 128:
        return 2
    return 4 if channels <= 64 else 3


def _memory(geometry: Conv2dGeometry, call: ConvCall, tile: WgmmaTile, classes: int) -> Memory:
    entries = PlaceLayout.of(geometry).entries(tile)
    return Memory.of(geometry, call, tile, classes, _depth(geometry), entries, _SET_COLUMNS)


def tiles(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> Iterator[WgmmaTile]:
    """Every tile that fits a problem which the kernel takes."""
    border = border_cuts(geometry, call.pad_value)
    if border is None:
        return
    out_per_group = geometry.out_channels // geometry.groups
    stores = stores_of(geometry, call)
    most = min(_MAX_CHANNELS, divide_up(out_per_group, WORD_BITS) * WORD_BITS)
    for channels in range(WORD_BITS, most + 1, WORD_BITS):
        for consumers in range(1, _most_consumers(channels, call, stores) + 1):
            tile = WgmmaTile(channels, consumers)
            memory = _memory(geometry, call, tile, border_classes(border))
            if memory.plane < _MAX_PLANE and memory.stages(device.block_shared_bytes) >= _MIN_STAGES:
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
    if PlaceLayout.of(geometry).count >= _MAX_PLACES:
        return "the image is too large"
    if next(tiles(geometry, call, device), None) is None:
        return "filters and patches do not fit into shared memory"
    return None


def cycles(geometry: Conv2dGeometry, call: ConvCall, tile: WgmmaTile, device: Device) -> float:
    """About how long a tile takes."""
    depth = _depth(geometry)
    places = PlaceLayout.of(geometry).count
    pixel_tiles, channel_tiles, walkers = walkers_of(geometry, tile, places, device)
    rounds = divide_up(pixel_tiles, walkers)
    steps = depth.slabs * depth.steps
    columns = tile.channels + _SET_COLUMNS
    filters = steps * 2 * columns * CHUNK_BYTES * _FILTER_CYCLES_PER_BYTE
    products = tile.consumers * steps * _PRODUCT_CYCLES_PER_COLUMN * columns
    store = _BITS_STORE_CYCLES if call.out == "bits" else _FLOAT_STORE_CYCLES
    turn = _ROUND_CYCLES + max(products, tile.consumers * store * tile.channels)
    waves = divide_up(channel_tiles * walkers, device.multiprocessors)
    return waves * (_START_CYCLES + filters + rounds * turn)


def _choose_tile(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> WgmmaTile:
    return min(tiles(geometry, call, device), key=lambda tile: cycles(geometry, call, tile, device))


def wgmma_in_place_cycles(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> float:
    """Of the tile that is chosen, for a problem that ``why_not_wgmma_in_place`` finds no fault
    with."""
    return cycles(geometry, call, _choose_tile(geometry, call, device), device)


def plan_wgmma_in_place(
    geometry: Conv2dGeometry, call: ConvCall, device: Device, tile: WgmmaTile | None = None
) -> Launch:
    """The launch of a problem that ``why_not_wgmma_in_place`` finds no fault with, with one of its
    ``tiles``."""
    tile = tile or _choose_tile(geometry, call, device)
    depth = _depth(geometry)
    layout = PlaceLayout.of(geometry)
    border = border_cuts(geometry, call.pad_value)
    assert border is not None
    memory = _memory(geometry, call, tile, border_classes(border))
    copied = memory.copied(depth.slabs, device.block_shared_bytes)
    stages = memory.stages(device.block_shared_bytes - copied)
    walk = walkers_of(geometry, tile, layout.count, device)
    _, channel_tiles, walkers = walk
    sizes = block_sizes(geometry, call, border, walk) | {
        "slabs": depth.slabs,
        "stages": stages,
        "stage_bytes": memory.stage,
        "copied_bytes": copied,
        "plane_bytes": memory.plane,
        "patch_columns": layout.pitch,
        "patch_columns_inverse": inverse(layout.pitch),
        "patch_rows": layout.rows,
        "patch_rows_inverse": inverse(layout.rows),
        "by_patch_columns": reciprocal(layout.pitch),
        "by_patch_rows": reciprocal(layout.rows),
        "reach_places": layout.reach,
    }
    return Launch(
        wgmma_in_place_kernel(geometry, call, tile),
        walkers * channel_tiles,
        tile.threads,
        memory.fixed + copied + stages * memory.stage,
        in_order(CONV_SIZES, sizes) + in_order(WGMMA_SIZES, sizes),
        f"Hopper's tensor cores on images where they lie: {tile.channels} channels a block, "
        f"{tile.consumers} consumers, {stages} patches in flight",
        overlaps=True,
    )


def wgmma_in_place_kernel(geometry: Conv2dGeometry, call: ConvCall, tile: WgmmaTile) -> Kernel:
    words = copy_words(geometry, call)
    depth = _depth(geometry)
    return kernel_of("conv_wgmma_in_place.cu", geometry, call, tile, depth, words)
