"""When conv_wgmma (sm_90a) convolves, and with which tile. No tensors and no CuPy here.

The kernel reads an image as if it were padded: whole rows of that image, which the plan describes
per axis (``wgmma_geometry.Axis``), are the patches that its tiles of output pixels work on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from binop._cuda.conv_call import ConvCall, out_pixels
from binop._cuda.launches import (
    CONV_SIZES,
    WGMMA_SIZES,
    Device,
    Kernel,
    Launch,
    divide_up,
    in_order,
)
from binop._cuda.wgmma_block import (
    MAX_CHANNELS_OF_RESIDUAL,
    Memory,
    block_sizes,
    border_classes,
    border_cuts,
    copy_words,
    inverse,
    is_masked,
    kernel_of,
    stores_of,
    walkers_of,
    why_no_wgmma_device,
)
from binop._cuda.wgmma_geometry import CHUNK_BYTES, MAX_STEPS, Depth, axes, patch_rows
from binop.geometry import Conv2dGeometry
from binop.packing import WORD_BITS, word_count

_PRODUCT_PIXELS = 64
_MAX_PIXELS = 4 * _PRODUCT_PIXELS
_MIN_STAGES = 2
_WARPGROUP = 128
_MAX_CHANNELS = 256
_MAX_CHANNELS_OF_PIXELS = 160  # contiguous output: more spill registers
# The depth, so that every number of the epilogue is an integer that float32 holds, or 16 bits.
_MAX_TAPS = 2**20
_MAX_TAPS_OF_BITS = 2**15 - 1
_MAX_INDEX = 2**16  # of a pixel in a patch
_MAX_OFFSET = 2**31

# Cycles of a block, fitted to times of layers and tiles on one H200 (2026-11-30, clock taken as
# 1.85 GHz).
_START_CYCLES = 5600
_FILTER_CYCLES_PER_BYTE = 0.045  # their copies and the counting of their bits
# What a single consumer takes longer: its filters come by asynchronous copies, and are counted
# later (one image: 0.5 to 1.1 us).
_ALONE_CYCLES = 900
_ALONE_CYCLES_PER_BYTE = 0.09
_PRODUCT_CYCLES = 15
_PRODUCT_CYCLES_PER_CHANNEL = 0.42
_ROUND_CYCLES = 850
_BITS_STORE_CYCLES = 3.2  # for a channel and a consumer
_FLOAT_STORE_CYCLES = 8.2


@dataclass(frozen=True)
class WgmmaTile:
    """Output channels of a block, and the warpgroups that multiply."""

    channels: int
    consumers: int

    @property
    def threads(self) -> int:
        return _WARPGROUP * (1 + self.consumers)

    @property
    def pixels(self) -> int:
        return _PRODUCT_PIXELS * self.consumers


def _most_consumers(channels: int, steps: int, call: ConvCall, stores: str) -> int:
    """For which the compiler keeps sums, fragments and the epilogue in registers."""
    if call.residual is not None:
        if channels > 96 and steps > 5 and (call.residual.activation or call.out != "bfloat16"):
            return 1
        return 2 if channels > 64 or steps > 5 else 3
    if channels > 224 and (call.bias or (steps > 5 and stores in ("kWide", "bits"))):
        return 1
    if channels > 128:
        return 2
    if stores == "bits":
        return 4 if channels <= 64 and steps <= 5 else 3
    if stores == "kPixels":
        return 3 if channels <= 64 and steps <= 5 else 2
    if call.bias:
        return 3 if channels <= 96 else 2
    if channels <= 64 and steps <= 3:
        return 4
    return 3 if channels <= 96 or steps <= 5 else 2


def _most_channels(call: ConvCall, stores: str) -> int:
    if call.residual is not None:
        return MAX_CHANNELS_OF_RESIDUAL
    return _MAX_CHANNELS_OF_PIXELS if stores == "kPixels" else _MAX_CHANNELS


def patch_pixels(geometry: Conv2dGeometry, pixels: int) -> int:
    """The most pixels of the padded image that so many output pixels in a row can read."""
    rows, columns = axes(geometry)
    return patch_rows(rows, columns, pixels) * columns.padded


def _memory(geometry: Conv2dGeometry, call: ConvCall, tile: WgmmaTile, classes: int) -> Memory:
    entries = patch_pixels(geometry, tile.pixels)
    return Memory.of(geometry, call, tile, classes, Depth.of(geometry), entries)


def tiles(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> Iterator[WgmmaTile]:
    """Every tile that fits a problem which the kernel takes."""
    border = border_cuts(geometry, call.pad_value)
    if border is None:
        return
    depth = Depth.of(geometry)
    out_per_group = geometry.out_channels // geometry.groups
    stores = stores_of(geometry, call)
    most = _most_channels(call, stores)
    most = min(most, divide_up(out_per_group, WORD_BITS) * WORD_BITS)
    for channels in range(WORD_BITS, most + 1, WORD_BITS):
        for consumers in range(1, _most_consumers(channels, depth.steps, call, stores) + 1):
            tile = WgmmaTile(channels, consumers)
            memory = _memory(geometry, call, tile, border_classes(border))
            if memory.stages(device.block_shared_bytes) >= _MIN_STAGES:
                yield tile


def why_not_wgmma(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> str | None:
    unable = why_no_wgmma_device(device)
    if unable is not None:
        return unable
    rows, columns = axes(geometry)
    out_per_group = geometry.out_channels // geometry.groups
    packs = call.out == "bits" or call.residual is not None
    if packs and geometry.groups > 1 and out_per_group % WORD_BITS != 0:
        return "groups share words of the packed output"
    if Depth.of(geometry).steps > MAX_STEPS:
        return "the kernel has too many taps"
    if geometry.taps >= _MAX_TAPS:
        return "the depth is too large for an exact float epilogue"
    if call.out == "bits" and geometry.taps >= _MAX_TAPS_OF_BITS:
        return "the depth is too large for decisions in 16 bits"
    pixels = patch_pixels(geometry, _MAX_PIXELS)
    pixel_words = geometry.groups * word_count(geometry.group_channels)
    images = 2 + _MAX_PIXELS // (rows.out * columns.out)
    if (
        pixels >= _MAX_INDEX
        or max(rows.padded, columns.padded, rows.out, columns.out) >= _MAX_INDEX // 2
        or out_pixels(geometry) >= _MAX_OFFSET
        or pixels * columns.padded >= 2**32
        or (images + 1) * rows.padded * rows.padded >= 2**32
        or (images * geometry.height + rows.reach)
        * (geometry.width + columns.reach + columns.padding)
        * pixel_words
        >= _MAX_OFFSET
    ):
        return "the image is too large for 32-bit offsets in a patch"
    if border_cuts(geometry, call.pad_value) is None:
        return "the image is smaller than the kernel"
    if next(tiles(geometry, call, device), None) is None:
        return "filters and patches do not fit into shared memory"
    return None


def cycles(geometry: Conv2dGeometry, call: ConvCall, tile: WgmmaTile, device: Device) -> float:
    """About how long a tile takes."""
    depth = Depth.of(geometry)
    pixel_tiles, channel_tiles, walkers = walkers_of(geometry, tile, out_pixels(geometry), device)
    rounds = divide_up(pixel_tiles, walkers)
    steps = depth.slabs * depth.steps
    filter_bytes = steps * 2 * tile.channels * CHUNK_BYTES
    start = _START_CYCLES + filter_bytes * _FILTER_CYCLES_PER_BYTE
    if tile.consumers == 1:
        start += _ALONE_CYCLES + filter_bytes * _ALONE_CYCLES_PER_BYTE
    product = _PRODUCT_CYCLES + _PRODUCT_CYCLES_PER_CHANNEL * tile.channels
    store = _BITS_STORE_CYCLES if call.out == "bits" else _FLOAT_STORE_CYCLES
    turn = _ROUND_CYCLES + tile.consumers * (steps * product + store * tile.channels)
    waves = divide_up(channel_tiles * walkers, device.multiprocessors)
    return waves * (start + rounds * turn)


def _choose_tile(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> WgmmaTile:
    return min(tiles(geometry, call, device), key=lambda tile: cycles(geometry, call, tile, device))


def wgmma_cycles(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> float:
    """Of the tile that is chosen, for a problem that ``why_not_wgmma`` finds no fault with."""
    return cycles(geometry, call, _choose_tile(geometry, call, device), device)


def plan_wgmma(
    geometry: Conv2dGeometry, call: ConvCall, device: Device, tile: WgmmaTile | None = None
) -> Launch:
    """The launch of a problem that ``why_not_wgmma`` finds no fault with, with one of its
    ``tiles``."""
    tile = tile or _choose_tile(geometry, call, device)
    depth = Depth.of(geometry)
    border = border_cuts(geometry, call.pad_value)
    assert border is not None
    memory = _memory(geometry, call, tile, border_classes(border))
    copied = memory.copied(depth.slabs, device.block_shared_bytes)
    stages = memory.stages(device.block_shared_bytes - copied)
    walk = walkers_of(geometry, tile, out_pixels(geometry), device)
    _, channel_tiles, walkers = walk
    rows, columns = axes(geometry)
    skipped_rows, skip_columns = divmod(walkers * tile.pixels, columns.out)
    skip_images, skip_rows = divmod(skipped_rows, rows.out)
    sizes = block_sizes(geometry, call, border, walk)
    sizes |= memory.sizes(depth, stages, copied, columns.padded, rows.padded)
    sizes |= {
        "out_width_inverse": inverse(columns.out),
        "out_height_inverse": inverse(rows.out),
        "skip_images": skip_images,
        "skip_out_rows": skip_rows,
        "skip_out_columns": skip_columns,
    }
    return Launch(
        wgmma_kernel(geometry, call, tile),
        walkers * channel_tiles,
        tile.threads,
        memory.fixed + copied + stages * memory.stage,
        in_order(CONV_SIZES, sizes) + in_order(WGMMA_SIZES, sizes),
        f"Hopper's tensor cores: {tile.channels} channels a block, "
        f"{tile.consumers} consumers, {stages} patches in flight",
        overlaps=True,
    )


def wgmma_kernel(geometry: Conv2dGeometry, call: ConvCall, tile: WgmmaTile) -> Kernel:
    words = 1 if is_masked(geometry) else copy_words(geometry, call)
    return kernel_of("conv_wgmma.cu", geometry, call, tile, Depth.of(geometry), words)
