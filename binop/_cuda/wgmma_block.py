"""What the plans of the kernels on warpgroup-wide products (conv_wgmma*, sm_90a) share: border
classes, shared memory, blocks, and the macros of a tile. No tensors and no CuPy here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from binop._cuda.conv_call import ConvCall, conv_sizes
from binop._cuda.launches import Device, Kernel, divide_up
from binop._cuda.wgmma_geometry import CHUNK_BYTES, CHUNK_WORDS, Depth, axes
from binop.geometry import Conv2dGeometry
from binop.packing import WORD_BITS, word_count

WITH_WGMMA = (9, 0)
MAX_CHANNELS_OF_RESIDUAL = 128  # of a tile: more spill registers
_MAX_STAGES = 8
_ROW_BYTES = 8  # RowWords of conv_wgmma_tile.cuh


class Tiled(Protocol):
    """What is common to the tiles of conv_wgmma and conv_wgmma_in_place."""

    @property
    def channels(self) -> int: ...
    @property
    def consumers(self) -> int: ...
    @property
    def pixels(self) -> int: ...


def why_no_wgmma_device(device: Device) -> str | None:
    if device.capability == WITH_WGMMA:
        return None
    return "the device has no warpgroup-wide matrix products"


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


def is_masked(geometry: Conv2dGeometry) -> bool:
    return geometry.group_channels % WORD_BITS != 0


def copy_words(geometry: Conv2dGeometry, call: ConvCall) -> int:
    """Of one copy to shared memory, where no tail must be cleared."""
    return math.gcd(CHUNK_WORDS, word_count(geometry.group_channels), max(1, call.alignment // 4))


def inverse(divisor: int) -> int:
    """What divide_small of conv_wgmma_tile.cuh multiplies by."""
    return 0 if divisor == 1 else 2**32 // divisor + 1


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
            and not is_masked(geometry)
            and copy_words(geometry, call) == CHUNK_WORDS
        )
        copies = tile.channels * taps * words * WORD_BITS // 8 if through_registers else 0
        return cls(divide_up(tables, 128) * 128 + filters, stage, plane, copies)


def walkers_of(
    geometry: Conv2dGeometry, tile: Tiled, pixels: int, device: Device
) -> tuple[int, int, int]:
    """Tiles of so many pixels, tiles of channels, and blocks that share each of these."""
    pixel_tiles = divide_up(pixels, tile.pixels)
    out_per_group = geometry.out_channels // geometry.groups
    channel_tiles = geometry.groups * divide_up(out_per_group, tile.channels)
    walkers = max(1, device.multiprocessors // channel_tiles)
    return pixel_tiles, channel_tiles, min(walkers, pixel_tiles)


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
            ("MASKED", int(is_masked(geometry))),
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
