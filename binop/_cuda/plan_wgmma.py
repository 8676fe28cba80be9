"""When conv_wgmma (sm_90a) convolves, and with which tile. No tensors and no CuPy here.

The kernel reads an image as if it were padded: whole rows of that image, which the plan describes
per axis (``wgmma_geometry.Axis``), are the patches that its tiles of output pixels work on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from binop._cuda.conv_call import ConvCall, conv_sizes, out_pixels
from binop._cuda.launches import (
    CONV_SIZES,
    WGMMA_SIZES,
    Device,
    Kernel,
    Launch,
    divide_up,
    in_order,
)
from binop._cuda.wgmma_geometry import (
    CHUNK_BYTES,
    CHUNK_WORDS,
    MAX_STEPS,
    Depth,
    axes,
    patch_rows,
)
from binop.geometry import Conv2dGeometry
from binop.packing import WORD_BITS, word_count

WITH_WGMMA = (9, 0)

_PRODUCT_PIXELS = 64
_MAX_PIXELS = 4 * _PRODUCT_PIXELS
_MAX_STAGES = 8
_MIN_STAGES = 2
_WARPGROUP = 128
_MAX_CHANNELS = 256
_MAX_CHANNELS_OF_PIXELS = 160  # contiguous output: more spill registers
MAX_CHANNELS_OF_RESIDUAL = 128  # the same
# The depth, so that every number of the epilogue is an integer that float32 holds, or 16 bits.
_MAX_TAPS = 2**20
_MAX_TAPS_OF_BITS = 2**15 - 1
_MAX_INDEX = 2**16  # of a pixel in a patch
_MAX_OFFSET = 2**31
_ROW_BYTES = 8  # RowWords of conv_wgmma_tile.cuh

# Cycles of a block, fitted to times of layers and tiles on one H200 (2026-11-30, clock taken as
# 1.85 GHz).
_START_CYCLES = 5600
_FILTER_CYCLES_PER_BYTE = 0.045  # their copies and the counting of their bits
_PRODUCT_CYCLES = 15
_PRODUCT_CYCLES_PER_CHANNEL = 0.42
_ROUND_CYCLES = 850
_BITS_STORE_CYCLES = 3.2  # for a channel and a consumer
_FLOAT_STORE_CYCLES = 7.5


class Tiled(Protocol):
    """What is common to the tiles of conv_wgmma and conv_wgmma_in_place."""

    @property
    def channels(self) -> int: ...
    @property
    def consumers(self) -> int: ...
    @property
    def pixels(self) -> int: ...


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


def stores_of(geometry: Conv2dGeometry, call: ConvCall) -> str:
    """How conv_wgmma_store.cuh writes the output."""
    if call.out == "bits":
        return "bits"
    if not call.channels_last:
        return "kPixels"
    # 16 bytes or more of 8 channels; the first of a group must be aligned too, and of the residual.
    whole = geometry.out_channels // geometry.groups % 8 == 0
    aligned = call.residual is None or call.residual.aligned
    return "kWide" if whole and aligned else "kSingle"


def patch_pixels(geometry: Conv2dGeometry, pixels: int) -> int:
    """The most pixels of the padded image that so many output pixels in a row can read."""
    rows, columns = axes(geometry)
    return patch_rows(rows, columns, pixels) * columns.padded


@dataclass(frozen=True)
class Memory:
    """Bytes of shared memory (Layout of conv_wgmma_tile.cuh)."""

    fixed: int
    stage: int
    plane: int
    copies: int  # of the filters as they lie in memory, where there may be some

    def copied(self, slabs: int, available: int) -> int:
        """``copies``, if there is room for them and for the patches of two tiles, or 0."""
        wanted = min(_MAX_STAGES, 2 * slabs)
        fits = self.fixed + self.copies + wanted * self.stage <= available
        return self.copies if fits else 0

    def stages(self, available: int) -> int:
        return min(_MAX_STAGES, (available - self.fixed) // self.stage)

    def sizes(
        self, depth: Depth, stages: int, copied: int, columns: int, rows: int
    ) -> dict[str, int]:
        """Of patches of a padded image of so many columns and rows."""
        return {
            "slabs": depth.slabs,
            "stages": stages,
            "stage_bytes": self.stage,
            "copied_bytes": copied,
            "plane_bytes": self.plane,
            "patch_columns": columns,
            "patch_columns_inverse": inverse(columns),
            "patch_rows": rows,
            "patch_rows_inverse": inverse(rows),
        }

    @classmethod
    def of(
        cls,
        geometry: Conv2dGeometry,
        call: ConvCall,
        tile: Tiled,
        classes: int,
        depth: Depth,
        entries: int,
        set_columns: int = 0,
    ) -> Memory:
        """``entries`` of a patch, and columns that a product has beside the tile's channels."""
        plane = entries * CHUNK_BYTES
        stage = divide_up(depth.planes * plane + _ROW_BYTES * tile.pixels, 128) * 128
        barriers = 8 * 2 * _MAX_STAGES + 16
        taps = math.prod(geometry.kernel)
        constants = 2 if call.residual is None else call.residual.constants
        tables = barriers + 4 * tile.channels * (constants + taps)
        tables += class_bytes(geometry, call, tile.channels) * classes
        columns = tile.channels + set_columns
        filters = depth.slabs * 2 * depth.steps * columns * CHUNK_BYTES
        words = word_count(geometry.group_channels)
        # What conv_wgmma_weights.cuh calls kThroughRegisters.
        through_registers = (
            tile.consumers > 1
            and depth.word_taps == 1
            and not _masked(geometry)
            and copy_words(geometry, call) == CHUNK_WORDS
        )
        copies = tile.channels * taps * words * WORD_BITS // 8 if through_registers else 0
        return cls(divide_up(tables, 128) * 128 + filters, stage, plane, copies)


def _memory(geometry: Conv2dGeometry, call: ConvCall, tile: WgmmaTile, classes: int) -> Memory:
    entries = patch_pixels(geometry, tile.pixels)
    return Memory.of(geometry, call, tile, classes, Depth.of(geometry), entries)


def is_narrow(geometry: Conv2dGeometry, call: ConvCall) -> bool:
    """Whether half a word holds what a border class adds to a channel's floats (NARROW)."""
    return call.out != "bits" and call.residual is None and geometry.taps < 2**15


def class_bytes(geometry: Conv2dGeometry, call: ConvCall, channels: int) -> int:
    """Of a border class in the table (Layout::kClassBytes)."""
    both_kinds = call.out == "bits" and channels % 64 == 0
    return (2 if is_narrow(geometry, call) else 4) * channels + (128 if both_kinds else 0)


def border_cuts(geometry: Conv2dGeometry, pad_value: int) -> tuple[int, int, int, int] | None:
    """Taps cut off at the first and last rows and columns; None where the kernel has no class."""
    if pad_value != 0:
        return 0, 0, 0, 0
    rows, columns = (axis.cuts() for axis in axes(geometry))
    return None if rows is None or columns is None else (*rows, *columns)


def border_classes(border: tuple[int, int, int, int]) -> int:
    return (1 + border[0] + border[1]) * (1 + border[2] + border[3])


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


def why_no_wgmma_device(device: Device) -> str | None:
    if device.capability == WITH_WGMMA:
        return None
    return "the device has no warpgroup-wide matrix products"


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


def walkers_of(
    geometry: Conv2dGeometry, tile: Tiled, pixels: int, device: Device
) -> tuple[int, int, int]:
    """Tiles of so many pixels, tiles of channels, and blocks that share each of these."""
    pixel_tiles = divide_up(pixels, tile.pixels)
    out_per_group = geometry.out_channels // geometry.groups
    channel_tiles = geometry.groups * divide_up(out_per_group, tile.channels)
    walkers = max(1, device.multiprocessors // channel_tiles)
    return pixel_tiles, channel_tiles, min(walkers, pixel_tiles)


def cycles(geometry: Conv2dGeometry, call: ConvCall, tile: WgmmaTile, device: Device) -> float:
    """About how long a tile takes."""
    depth = Depth.of(geometry)
    pixel_tiles, channel_tiles, walkers = walkers_of(geometry, tile, out_pixels(geometry), device)
    rounds = divide_up(pixel_tiles, walkers)
    steps = depth.slabs * depth.steps
    filters = steps * 2 * tile.channels * CHUNK_BYTES * _FILTER_CYCLES_PER_BYTE
    product = _PRODUCT_CYCLES + _PRODUCT_CYCLES_PER_CHANNEL * tile.channels
    store = _BITS_STORE_CYCLES if call.out == "bits" else _FLOAT_STORE_CYCLES
    turn = _ROUND_CYCLES + tile.consumers * (steps * product + store * tile.channels)
    waves = divide_up(channel_tiles * walkers, device.multiprocessors)
    return waves * (_START_CYCLES + filters + rounds * turn)


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


def block_sizes(
    geometry: Conv2dGeometry,
    call: ConvCall,
    border: tuple[int, int, int, int],
    walk: tuple[int, int, int],
) -> dict[str, int]:
    """The sizes that do not depend on how a patch lies; ``walk`` is of ``walkers_of``."""
    pixel_tiles, channel_tiles, walkers = walk
    rows, columns = axes(geometry)
    group_channel_tiles = channel_tiles // geometry.groups
    return conv_sizes(geometry, call) | {
        "walkers": walkers,
        "walkers_inverse": inverse(walkers),
        "group_channel_tiles": group_channel_tiles,
        "group_channel_tiles_inverse": inverse(group_channel_tiles),
        "out_per_group": geometry.out_channels // geometry.groups,
        "pixel_tiles": pixel_tiles,
        "reach_rows": rows.reach,
        "reach_columns": columns.reach,
        "step_rows": rows.step,
        "step_columns": columns.step,
        "skip_rows": rows.skip,
        "skip_columns": columns.skip,
        "tap_rows": rows.dilation,
        "tap_columns": columns.dilation,
        "tap_rows_inverse": inverse(rows.dilation),
        "tap_columns_inverse": inverse(columns.dilation),
        "cut_first_rows": border[0],
        "cut_last_rows": border[1],
        "cut_first_columns": border[2],
        "cut_last_columns": border[3],
        "column_classes_inverse": inverse(1 + border[2] + border[3]),
    }


def _masked(geometry: Conv2dGeometry) -> bool:
    return geometry.group_channels % WORD_BITS != 0


def copy_words(geometry: Conv2dGeometry, call: ConvCall) -> int:
    """Of one copy to shared memory, where no tail must be cleared."""
    return math.gcd(CHUNK_WORDS, word_count(geometry.group_channels), max(1, call.alignment // 4))


def inverse(divisor: int) -> int:
    """What divide_small of conv_wgmma_tile.cuh multiplies by."""
    return 0 if divisor == 1 else 2**32 // divisor + 1


def wgmma_kernel(geometry: Conv2dGeometry, call: ConvCall, tile: WgmmaTile) -> Kernel:
    words = 1 if _masked(geometry) else copy_words(geometry, call)
    return kernel_of("conv_wgmma.cu", geometry, call, tile, Depth.of(geometry), words)


def kernel_of(
    source: str,
    geometry: Conv2dGeometry,
    call: ConvCall,
    tile: Tiled,
    depth: Depth,
    words_of_copy: int,
    more: tuple[tuple[str, int], ...] = (),
) -> Kernel:
    words = word_count(geometry.group_channels)
    stores = stores_of(geometry, call)
    return Kernel(
        source,
        (
            ("OUT", call.out),
            ("TILE_N", tile.channels),
            ("CONSUMERS", tile.consumers),
            ("KERNEL_ROWS", geometry.kernel[0]),
            ("KERNEL_COLUMNS", geometry.kernel[1]),
            ("WORD_TAPS", depth.word_taps),
            ("PLANES", depth.planes),
            ("PARTIAL", int(depth.word_taps == 1 and words % (CHUNK_WORDS * depth.planes) != 0)),
            ("COPY_WORDS", words_of_copy),
            ("MASKED", int(_masked(geometry))),
            ("PAD_ONES", int(call.pad_value > 0 and geometry.padding != (0, 0))),
            ("STORES", "kWide" if stores == "bits" else stores),
            ("BIAS", int(call.bias)),
            ("NARROW", int(is_narrow(geometry, call))),
            *more,
            *residual_macros(call),
        ),
    )


def residual_macros(call: ConvCall) -> tuple[tuple[str, int], ...]:
    residual = call.residual
    if residual is None:
        return (("RESIDUAL", 0),)
    return (
        ("RESIDUAL", 1),
        ("RELU", int(residual.relu)),
        ("ACTIVATION", int(residual.activation)),
        ("SHIFTED", int(residual.shift)),
    )
