"""How a float convolution of few channels runs (``stem.cu``), or why it does not. No tensors and no
CuPy here.
"""

from __future__ import annotations

from dataclasses import dataclass

from binop._cuda.launches import (
    STEM_SIZES,
    Device,
    Kernel,
    Launch,
    divide_up,
    in_order,
    reciprocal,
)
from binop._cuda.mma_tile import FIRST_EMULATED, FIRST_WITH_MMA
from binop._cuda.plan_pack import Image
from binop._cuda.wgmma_block import WITH_WGMMA
from binop.geometry import STEM_CHANNELS, Conv2dGeometry
from binop.packing import word_count

ELEMENTS = ("float16", "bfloat16")
MOST_TAPS = 7 * 7 * STEM_CHANNELS
CHANNEL_MULTIPLE = 8  # output channels that a lane stores at once

# As in kernels/stem_tile.cuh.
_WARPS = 4
_TILE_ROWS = 16
_TILE_COLUMNS = 16
_TILE_CHANNELS = 64
# What a block's runtime keeps of a multiprocessor's shared memory.
_RESERVED_BYTES = 1024
_MOST_TILES = 2**31
_MOST_ELEMENTS = 2**31  # of an image, between its first and its last


@dataclass(frozen=True)
class StemCall:
    """What follows the sums: a bias, and either BatchNorm and ReLU or the bits."""

    element: str
    bias: bool
    packed: bool = False
    norm: bool = False
    relu: bool = False
    bias_stride: int = 0


@dataclass(frozen=True)
class StemTile:
    """How blocks compute: by which products, how many rows of pixels at a time, and how many of
    them share a multiprocessor, which the registers of the sums decide."""

    wide: bool
    pass_rows: int
    blocks: int


NARROW = StemTile(wide=False, pass_rows=2, blocks=4)
# With the registers of four blocks the compiler spills for 10.0 and 12.0.
FEW = StemTile(wide=False, pass_rows=2, blocks=3)
WIDE = StemTile(wide=True, pass_rows=2, blocks=4)
STEM_TILES = (NARROW, FEW, WIDE)


def stem_tile(capability: tuple[int, int]) -> StemTile:
    if capability == WITH_WGMMA:
        return WIDE
    return FEW if capability >= FIRST_EMULATED else NARROW


@dataclass(frozen=True)
class _Layout:
    """Bytes of shared memory, as in kernels/stem_tile.cuh."""

    before_tiles: int
    tile: int

    @classmethod
    def of(cls, geometry: Conv2dGeometry, call: StemCall) -> _Layout:
        (rows, columns), strides = geometry.kernel, geometry.stride
        row_pairs, odd = divmod(columns * geometry.channels, 2)
        steps = divide_up(rows * (row_pairs + odd), 8)
        patch_rows = (_TILE_ROWS - 1) * strides[0] + rows
        patch_columns = (_TILE_COLUMNS - 1) * strides[1] + columns
        stored_rows = divide_up(patch_rows, _WARPS) * _WARPS
        row_words = patch_columns * geometry.channels // 2 + 1
        pitch_words = row_pairs + 32 * divide_up(row_words - row_pairs, 32)
        copy = (stored_rows * pitch_words * 4 + 63) // 128 * 128 + 64
        copies = 1 + strides[1] * geometry.channels % 2
        constants = call.bias + (3 if call.packed else 4 * call.norm)
        return cls(
            divide_up(copies * copy + 64 * steps, 128) * 128,
            32 * _TILE_CHANNELS * steps + 4 * _TILE_CHANNELS * constants,
        )

    def tiles_in(self, shared_bytes: int) -> int:
        """Channel tiles that fit."""
        return max(0, (shared_bytes - self.before_tiles) // self.tile)


def why_no_stem_device(device: Device) -> str | None:
    if device.capability < FIRST_WITH_MMA:
        return "the device has no matrix products of bfloat16"
    return None


def why_not_stem(geometry: Conv2dGeometry, call: StemCall, device: Device) -> str | None:
    """Why the kernel does not take a convolution; of its geometry, the image does not count."""
    missing = why_no_stem_device(device)
    if missing is not None:
        return missing
    if call.element not in ELEMENTS:
        return f"its elements are {call.element}"
    if geometry.groups != 1 or geometry.dilation != (1, 1):
        return "it has groups or a dilation"
    if geometry.channels > STEM_CHANNELS:
        return f"it has {geometry.channels} input channels, more than {STEM_CHANNELS}"
    if geometry.taps > MOST_TAPS:
        return f"it has {geometry.taps} taps, more than {MOST_TAPS}"
    if geometry.out_channels % CHANNEL_MULTIPLE != 0:
        return f"its {geometry.out_channels} output channels are no multiple of {CHANNEL_MULTIPLE}"
    if _Layout.of(geometry, call).tiles_in(device.block_shared_bytes) == 0:
        return "its stride makes patches that do not fit shared memory"
    return None


def why_not_image(geometry: Conv2dGeometry, x: Image) -> str | None:
    """Why the kernel cannot address an input."""
    if _tiles(geometry) >= _MOST_TILES:
        return "it has too many pixels"
    reach = zip(x.shape[1:], x.strides[1:], strict=True)
    if sum((size - 1) * stride for size, stride in reach) >= _MOST_ELEMENTS:
        return "elements of an image are too far from each other"
    return None


def _tiles(geometry: Conv2dGeometry) -> int:
    rows = divide_up(geometry.out_height, _TILE_ROWS)
    return geometry.batch * rows * divide_up(geometry.out_width, _TILE_COLUMNS)


def plan_stem(
    geometry: Conv2dGeometry, call: StemCall, x: Image, weight: Image, device: Device
) -> Launch | None:
    """Of what ``why_not_stem`` does not object to. ``None`` where there is nothing to do."""
    tiles = _tiles(geometry)
    if tiles == 0:
        return None
    tile = stem_tile(device.capability)
    layout = _Layout.of(geometry, call)
    channel_tiles = divide_up(geometry.out_channels, _TILE_CHANNELS)
    share = device.multiprocessor_shared_bytes // tile.blocks - _RESERVED_BYTES
    # As many as leave room for the other blocks; all of them read the same patch.
    block_tiles = layout.tiles_in(share) or layout.tiles_in(device.block_shared_bytes)
    block_tiles = min(block_tiles, channel_tiles)
    groups = divide_up(channel_tiles, block_tiles)
    shared = layout.before_tiles + block_tiles * layout.tile
    resident = min(tile.blocks, device.multiprocessor_shared_bytes // (shared + _RESERVED_BYTES))
    walkers = min(tiles, max(1, device.multiprocessors * resident // groups))
    rows, columns = (
        divide_up(geometry.out_height, _TILE_ROWS),
        divide_up(geometry.out_width, _TILE_COLUMNS),
    )
    pixel = word_count(geometry.out_channels) if call.packed else geometry.out_channels
    names = ("image", "channel", "row", "column")
    sizes = dict(zip((f"stride_{name}" for name in names), x.strides, strict=True))
    of_filters = ("weight_stride", *(f"weight_stride_{name}" for name in names[1:]))
    sizes |= dict(zip(of_filters, weight.strides, strict=True))
    sizes |= {
        "bias_stride": call.bias_stride,
        "height": geometry.height,
        "width": geometry.width,
        "padding_rows": geometry.padding[0],
        "padding_columns": geometry.padding[1],
        "out_channels": geometry.out_channels,
        "out_height": geometry.out_height,
        "out_width": geometry.out_width,
        "out_pixel": pixel,
        "out_row": geometry.out_width * pixel,
        "tiles": tiles,
        "by_tiles_an_image": reciprocal(rows * columns),
        "tiles_an_image": rows * columns,
        "by_tiles_a_row": reciprocal(columns),
        "tiles_a_row": columns,
        "walkers": walkers,
        "channel_groups": groups,
        "block_channel_tiles": block_tiles,
    }
    return Launch(
        stem_kernel(geometry, call, tile),
        walkers * groups,
        32 * _WARPS,
        shared,
        in_order(STEM_SIZES, sizes),
        "few input channels of 16 bits",
        overlaps=True,
    )


def stem_kernel(geometry: Conv2dGeometry, call: StemCall, tile: StemTile) -> Kernel:
    return Kernel(
        "stem.cu",
        (
            ("ELEMENT", call.element),
            ("CHANNELS", geometry.channels),
            ("KERNEL_ROWS", geometry.kernel[0]),
            ("KERNEL_COLUMNS", geometry.kernel[1]),
            ("STRIDE_ROWS", geometry.stride[0]),
            ("STRIDE_COLUMNS", geometry.stride[1]),
            ("PACKED", int(call.packed)),
            ("BIAS", int(call.bias)),
            ("NORM", int(call.norm)),
            ("RELU", int(call.relu)),
            ("WIDE", int(tile.wide)),
            ("PASS_ROWS", tile.pass_rows),
            ("BLOCKS", tile.blocks),
        ),
    )
