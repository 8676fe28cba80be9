"""When conv_wgmma_rows (sm_90a) convolves: few channels, whose whole rows are copied as they lie in
memory. No tensors and no CuPy here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from binop._cuda.conv_call import ConvCall, conv_sizes, out_pixels
from binop._cuda.launches import (
    CONV_SIZES,
    WGMMA_ROWS_SIZES,
    Device,
    Kernel,
    Launch,
    divide_up,
    in_order,
    reciprocal,
)
from binop._cuda.wgmma_block import (
    MAX_CHANNELS_OF_RESIDUAL,
    WITH_WGMMA,
    border_classes,
    border_cuts,
    class_bytes,
    inverse,
    is_narrow,
    residual_macros,
    stores_of,
)
from binop._cuda.wgmma_geometry import CHUNK_BYTES, axes, patch_rows
from binop._cuda.wgmma_rows_layout import COPY_BYTES, RowLayout, steps_of
from binop.geometry import Conv2dGeometry
from binop.packing import WORD_BITS, word_count

_WORDS = (1, 2, 4, 8, 16)  # of a pixel
_MAX_STEPS = 18  # products of a tile: their fragments stay in registers
_PRODUCT_PIXELS = 64
_WARPGROUP = 128
_SET_COLUMNS = 16  # of a product, that count the activations' bits
_REGISTERS = 65536
_PRODUCER_REGISTERS = 56
_PRODUCER_REGISTERS_OF_BITS = 40
_MANY_STEPS = 10  # kManySteps of conv_wgmma_rows_tile.cuh
_MAX_CHANNELS = 192
_MAX_CONSUMERS = 6
# A row a lane of the producers: with more, compute-sanitizer's racecheck found hazards on an
# H200, though results were right. It takes tiny images to get there.
_MAX_PATCH_ROWS = 128
_MAX_STAGES = 6
_MIN_STAGES = 2
_MAX_PIXELS = 2**30
_MAX_ROWS = 2**31
_MAX_EXTENT = 2**15
_MAX_OFFSET = 2**20  # Spot of conv_wgmma_rows_tile.cuh
_MAX_CLASSES = 2**12

# Cycles of a block, fitted to times of layers and tiles on one H200 (2026-11-30, clock taken as
# 1.85 GHz). One image takes 3 thousand less, as its launches overlap.
_START_CYCLES = 5500
_SPOT_CYCLES = 60  # for a thread's share of the table of positions
_FILTER_CYCLES_PER_BYTE = 0.03
_PRODUCT_CYCLES_PER_COLUMN = 0.5
_PATCH_ROW_CYCLES = 17
_BITS_STORE_CYCLES = 1.3  # for a channel and a consumer
_FLOAT_STORE_CYCLES = 4.2
_FLOAT_CYCLES = 3.0  # and for a channel


@dataclass(frozen=True)
class RowsTile:
    """Output channels of a block, and the warpgroups that multiply."""

    channels: int
    consumers: int

    @property
    def threads(self) -> int:
        return _WARPGROUP * (self.consumers + 1)

    @property
    def pixels(self) -> int:
        return _PRODUCT_PIXELS * self.consumers

    @property
    def columns(self) -> int:
        return self.channels + _SET_COLUMNS


def _most_consumers(tile_channels: int, steps: int, stores: str, residual: bool = False) -> int:
    """For which the compiler keeps sums, fragments and the epilogue in registers."""
    if residual and (stores != "kWide" or tile_channels > MAX_CHANNELS_OF_RESIDUAL):
        return 0
    sums = RowsTile(tile_channels, 1).columns // 2
    held = sums + 4 * steps
    # (Of three consumers these spill 32 bytes in float32.)
    most = 2 if (stores, tile_channels, steps) == ("kPixels", 64, 9) else _MAX_CONSUMERS
    fitting = [
        consumers
        for consumers in range(1, most + 1)
        if held + _registers_beside(consumers, stores, residual)
        <= _registers(consumers, steps, stores)
        # The assembler refuses (C7602) a product with more sums than the launch has registers for.
        and sums + 30 <= _launched_registers(consumers)
    ]
    return max(fitting, default=0)


def _launched_registers(consumers: int) -> int:
    return _REGISTERS // (_WARPGROUP * (consumers + 1)) // 8 * 8


def _registers_beside(consumers: int, stores: str, residual: bool) -> int:
    if residual:
        return 76 if consumers == 3 else 60
    if stores == "bits":
        return 36
    return {3: 44, 4: 52}.get(consumers, 56)


def _registers(consumers: int, steps: int, stores: str) -> int:
    """Of a consumer's thread, to which the producers hand over theirs where there are three or
    more, or two with many fragments (conv_wgmma_rows_tile.cuh)."""
    launched = _launched_registers(consumers)
    if consumers < (2 if steps >= _MANY_STEPS else 3):
        return launched
    kept = _PRODUCER_REGISTERS_OF_BITS if stores == "bits" else _PRODUCER_REGISTERS
    return max(launched, (launched * (1 + consumers) - kept) // consumers // 8 * 8)


@dataclass(frozen=True)
class RowsMemory:
    """Bytes of shared memory (Layout of conv_wgmma_rows_tile.cuh)."""

    fixed: int
    stage: int

    def stages(self, available: int) -> int:
        return min(_MAX_STAGES, (available - self.fixed) // self.stage)

    @classmethod
    def of(
        cls, geometry: Conv2dGeometry, call: ConvCall, tile: RowsTile, classes: int
    ) -> RowsMemory:
        rows, columns = axes(geometry)
        patch = patch_rows(rows, columns, tile.pixels) * RowLayout.of(geometry).pitch
        barriers = 8 * 2 * 8 + 8 + 8 + 16
        taps = math.prod(geometry.kernel)
        table = class_bytes(geometry, call, tile.channels)
        constants = 2 if call.residual is None else call.residual.constants
        spots = 4 * (rows.out * columns.out + rows.out + columns.out)
        tables = barriers + 4 * tile.channels * (constants + 1 + taps) + table * classes + spots
        copies = tile.channels * taps * word_count(geometry.channels) * WORD_BITS // 8
        filters = 2 * steps_of(geometry) * tile.columns * CHUNK_BYTES + copies
        places = 8 * tile.pixels
        return cls(divide_up(tables, 128) * 128 + filters, divide_up(places + patch, 128) * 128)


def tiles(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> Iterator[RowsTile]:
    """Every tile that fits a problem which the kernel takes."""
    cuts = border_cuts(geometry, call.pad_value)
    if cuts is None:
        return
    most = min(_MAX_CHANNELS, divide_up(geometry.out_channels, WORD_BITS) * WORD_BITS)
    for channels in range(WORD_BITS, most + 1, WORD_BITS):
        most_consumers = _most_consumers(
            channels, steps_of(geometry), stores_of(geometry, call), call.residual is not None
        )
        for consumers in range(1, most_consumers + 1):
            tile = RowsTile(channels, consumers)
            if patch_rows(*axes(geometry), tile.pixels) > _MAX_PATCH_ROWS:
                continue
            memory = RowsMemory.of(geometry, call, tile, border_classes(cuts))
            if memory.stages(device.block_shared_bytes) >= _MIN_STAGES:
                yield tile


def why_not_wgmma_rows(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> str | None:
    if device.capability != WITH_WGMMA:
        return "the device has no warpgroup-wide matrix products"
    if geometry.groups != 1:
        return "groups"
    if word_count(geometry.channels) not in _WORDS:
        return "a pixel's words are none of 1, 2, 4, 8, 16"
    layout = RowLayout.of(geometry)
    if layout.row % COPY_BYTES != 0 or call.alignment % COPY_BYTES != 0:
        return "rows of the image are not aligned"
    if steps_of(geometry) > _MAX_STEPS:
        return "the kernel has too many taps"
    cuts = border_cuts(geometry, call.pad_value)
    if cuts is None:
        return "the image is smaller than the kernel"
    rows, columns = axes(geometry)
    if (
        max(rows.padded, columns.padded, rows.size, columns.size) >= _MAX_EXTENT
        or out_pixels(geometry) >= _MAX_PIXELS
        or geometry.batch * geometry.height >= _MAX_ROWS
        or rows.padded * layout.pitch >= _MAX_OFFSET
        or border_classes(cuts) > _MAX_CLASSES
    ):
        return "the image is too large"
    if call.residual is not None and stores_of(geometry, call) != "kWide":
        return "channels or the residual are not aligned"
    if next(tiles(geometry, call, device), None) is None:
        return "filters and patches do not fit into shared memory"
    return None


def _pixel_tiles(geometry: Conv2dGeometry, tile: RowsTile) -> int:
    return divide_up(out_pixels(geometry), tile.pixels)


def _walkers(geometry: Conv2dGeometry, tile: RowsTile, device: Device) -> tuple[int, int]:
    """Channel tiles, and blocks that share each."""
    channel_tiles = divide_up(geometry.out_channels, tile.channels)
    walkers = max(1, device.multiprocessors // channel_tiles)
    return channel_tiles, min(walkers, _pixel_tiles(geometry, tile))


def cycles(geometry: Conv2dGeometry, call: ConvCall, tile: RowsTile, device: Device) -> float:
    """About how long a tile takes."""
    steps = steps_of(geometry)
    channel_tiles, walkers = _walkers(geometry, tile, device)
    rounds = divide_up(_pixel_tiles(geometry, tile), walkers)
    filters = 2 * steps * tile.columns * CHUNK_BYTES * _FILTER_CYCLES_PER_BYTE
    spots = geometry.out_height * geometry.out_width / (_WARPGROUP * tile.consumers) * _SPOT_CYCLES
    if call.out == "bits":
        store = _BITS_STORE_CYCLES * tile.consumers
    else:
        store = _FLOAT_STORE_CYCLES * tile.consumers + _FLOAT_CYCLES
    turn = (
        tile.consumers * steps * _PRODUCT_CYCLES_PER_COLUMN * tile.columns
        + _PATCH_ROW_CYCLES * patch_rows(*axes(geometry), tile.pixels)
        + store * tile.channels
    )
    waves = divide_up(channel_tiles * walkers, device.multiprocessors)
    return waves * (_START_CYCLES + spots + filters + rounds * turn)


def _choose_tile(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> RowsTile:
    return min(tiles(geometry, call, device), key=lambda tile: cycles(geometry, call, tile, device))


def wgmma_rows_cycles(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> float:
    """Of the tile that is chosen, for a problem that ``why_not_wgmma_rows`` finds no fault with."""
    return cycles(geometry, call, _choose_tile(geometry, call, device), device)


def plan_wgmma_rows(
    geometry: Conv2dGeometry, call: ConvCall, device: Device, tile: RowsTile | None = None
) -> Launch:
    """The launch of a problem that ``why_not_wgmma_rows`` finds no fault with, with one of its
    ``tiles``."""
    tile = tile or _choose_tile(geometry, call, device)
    cuts = border_cuts(geometry, call.pad_value)
    assert cuts is not None
    layout = RowLayout.of(geometry)
    memory = RowsMemory.of(geometry, call, tile, border_classes(cuts))
    channel_tiles, walkers = _walkers(geometry, tile, device)
    rows, columns = axes(geometry)
    rounds = divide_up(_pixel_tiles(geometry, tile), walkers)
    stages = min(memory.stages(device.block_shared_bytes), max(_MIN_STAGES, rounds))
    plane = rows.out * columns.out
    step_pixels = walkers * tile.pixels
    image_bytes = rows.padded * layout.pitch
    sizes = conv_sizes(geometry, call) | {
        "channel_tiles": channel_tiles,
        "channel_tiles_inverse": inverse(channel_tiles),
        "pixel_tiles": _pixel_tiles(geometry, tile),
        "walkers": walkers,
        "step_pixels": step_pixels,
        "step_words": walkers * tile.pixels * word_count(geometry.out_channels),
        "stages": stages,
        "stage_bytes": memory.stage,
        "row_bytes": layout.row,
        "pitch_bytes": layout.pitch,
        "first_bytes": layout.first,
        "inside_bytes": layout.inside,
        "image_rows": rows.padded,
        "by_image_rows": reciprocal(rows.padded),
        "by_out_width": reciprocal(columns.out),
        "by_out_height": reciprocal(rows.out),
        "by_plane": reciprocal(plane),
        "spots_bytes": 4 * plane,
        "image_bytes": image_bytes,
        "step_spots": 4 * (step_pixels % plane),
        "step_images": image_bytes * (step_pixels // plane),
        "step_rows": rows.step,
        "skip_rows": rows.skip,
        "reach_rows": rows.reach,
        "window_rows": geometry.dilation[0] * (geometry.kernel[0] - 1) + 1,
        "reach_columns": columns.reach,
        "tap_rows_inverse": inverse(rows.dilation),
        "tap_columns_inverse": inverse(columns.dilation),
        "cut_first_rows": cuts[0],
        "cut_last_rows": cuts[1],
        "cut_first_columns": cuts[2],
        "cut_last_columns": cuts[3],
    }
    return Launch(
        wgmma_rows_kernel(geometry, call, tile),
        walkers * channel_tiles,
        tile.threads,
        memory.fixed + stages * memory.stage,
        in_order(CONV_SIZES, sizes) + in_order(WGMMA_ROWS_SIZES, sizes),
        f"Hopper's tensor cores on rows of the image: {tile.channels} channels a block, "
        f"{tile.consumers} consumers, {stages} patches in flight",
        overlaps=True,
    )


def wgmma_rows_kernel(geometry: Conv2dGeometry, call: ConvCall, tile: RowsTile) -> Kernel:
    stores = stores_of(geometry, call)
    return Kernel(
        "conv_wgmma_rows.cu",
        (
            ("OUT", call.out),
            ("TILE_N", tile.channels),
            ("CONSUMERS", tile.consumers),
            ("KERNEL_ROWS", geometry.kernel[0]),
            ("KERNEL_COLUMNS", geometry.kernel[1]),
            ("WORDS", word_count(geometry.channels)),
            ("MASKED", int(geometry.channels % WORD_BITS != 0)),
            ("PAD_ONES", int(call.pad_value > 0 and geometry.padding != (0, 0))),
            ("STORES", "kWide" if stores == "bits" else stores),
            ("BIAS", int(call.bias)),
            ("NARROW", int(is_narrow(geometry, call))),
            *residual_macros(call),
        ),
    )
