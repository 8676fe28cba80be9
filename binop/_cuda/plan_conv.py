"""Which kernel convolves, with which tile, and why. No tensors and no CuPy here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from binop._cuda.launches import (
    CONV_SIZES,
    ELEMENT_BYTES,
    SCALE_CODES,
    ConvCall,
    Device,
    Kernel,
    Launch,
    divide_up,
    in_order,
)
from binop._cuda.plan_wgmma import plan_wgmma, why_not_wgmma
from binop.geometry import Conv2dGeometry
from binop.packing import WORD_BITS, word_count


@dataclass(frozen=True)
class Tile:
    """Of conv_mma: pixels and channels of a block, and pixels of a warp (which has 32 channels)."""

    pixels: int
    channels: int
    warp_pixels: int
    stages: int = 2

    @property
    def threads(self) -> int:
        return 32 * (self.pixels // self.warp_pixels) * (self.channels // 32)

    def shared_bytes(self, out: str, border_entries: int) -> int:
        ring = self.stages * (self.pixels + self.channels) * 4 * STAGE_WORDS
        transposed = 0
        if out != "bits":
            stride = self.pixels + 4 // ELEMENT_BYTES[out]
            transposed = divide_up(self.channels * stride * ELEMENT_BYTES[out], 16) * 16
        rows_and_channels = 32 * self.pixels + 12 * self.channels
        return max(ring, transposed) + rows_and_channels + border_entries * self.channels * 4


# Words of a row in one stage of the ring (kStageWords of conv_mma_tile.cuh).
STAGE_WORDS = 32

LARGE = Tile(128, 128, 64)
NARROW = Tile(128, 64, 32)
SMALL = Tile(32, 64, 16)
TILES = (LARGE, NARROW, SMALL)

# 1-bit matrix instructions exist from sm_80 on; from sm_100 on the compiler emulates them with
# 8-bit ones, which takes registers that the large tile does not have.
FIRST_WITH_MMA = (8, 0)
_FIRST_EMULATED = (10, 0)

_SIMT_THREADS = 128
_SIMT_PIXELS = 4
_MAX_BLOCKS = 2**31 - 1
_MAX_EXTENT = 2**30
_MAX_BORDER_ENTRIES = 255


def _border_entries(geometry: Conv2dGeometry, pad_value: int) -> int:
    """Entries of the border table; 0 where taps outside the image count like those inside."""
    if pad_value < 0 or geometry.padding == (0, 0):
        return 0
    return (geometry.kernel[0] + 1) * (geometry.kernel[1] + 1)


def _extent(geometry: Conv2dGeometry) -> int:
    """The largest size or coordinate that conv_mma keeps in 32 bits."""
    sizes = (geometry.height, geometry.width)
    reach = [
        size + 2 * padding + stride + dilation * kernel
        for size, padding, stride, dilation, kernel in zip(
            sizes,
            geometry.padding,
            geometry.stride,
            geometry.dilation,
            geometry.kernel,
            strict=True,
        )
    ]
    pixel_words = geometry.groups * word_count(geometry.group_channels)
    kernel_rows, kernel_columns = (
        dilation * kernel
        for dilation, kernel in zip(geometry.dilation, geometry.kernel, strict=True)
    )
    # In words, from the first tap to any other: both axes count, because with wide padding a tap
    # can be far to the right of one that lies outside the image.
    kernel_offset = (kernel_rows * geometry.width + kernel_columns) * pixel_words
    return max(*reach, geometry.out_channels, geometry.channels, kernel_offset)


def why_not_mma(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> str | None:
    out_per_group = geometry.out_channels // geometry.groups
    if device.capability < FIRST_WITH_MMA:
        return "the device has no 1-bit matrix instructions"
    if out_per_group < 8:
        return "fewer output channels a group than a matrix product has columns"
    if call.out == "bits" and geometry.groups > 1 and out_per_group % WORD_BITS != 0:
        return "groups share words of the packed output"
    if _border_entries(geometry, call.pad_value) > _MAX_BORDER_ENTRIES:
        return "the kernel is too large for the border table"
    if _extent(geometry) >= _MAX_EXTENT:
        return "sizes beyond 2**30"
    entries = _border_entries(geometry, call.pad_value)
    if SMALL.shared_bytes(call.out, entries) > device.block_shared_bytes:
        return "the border table exceeds shared memory"
    return None


def _choose_tile(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> tuple[Tile, str]:
    out_per_group = geometry.out_channels // geometry.groups
    entries = _border_entries(geometry, call.pad_value)
    tile, reason = LARGE, "large tile"
    if out_per_group <= NARROW.channels:
        tile, reason = NARROW, "at most 64 channels"
    elif device.capability >= _FIRST_EMULATED:
        tile, reason = NARROW, "emulated matrix products need registers"
    if tile.shared_bytes(call.out, entries) > device.block_shared_bytes:
        return SMALL, "the border table leaves no shared memory for a larger tile"
    if math.prod(_tile_counts(geometry, tile)) < device.multiprocessors:
        return SMALL, "larger tiles would leave multiprocessors idle"
    return tile, reason


def _tile_counts(geometry: Conv2dGeometry, tile: Tile) -> tuple[int, int]:
    pixels = geometry.batch * geometry.out_height * geometry.out_width
    out_per_group = geometry.out_channels // geometry.groups
    return divide_up(pixels, tile.pixels), geometry.groups * divide_up(out_per_group, tile.channels)


def _copy_words(group_words: int, masked: bool, alignment: int) -> int:
    """Words of one asynchronous copy; masking passes single words through registers."""
    return 1 if masked else math.gcd(4, group_words, max(1, alignment // 4))


def plan_conv(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> Launch | None:
    pixels = geometry.batch * geometry.out_height * geometry.out_width
    if pixels * geometry.out_channels == 0:
        return None
    if why_not_wgmma(geometry, call, device) is None:
        return plan_wgmma(geometry, call, device)
    entries = _border_entries(geometry, call.pad_value)
    group_words = word_count(geometry.group_channels)
    sizes = {
        "scale_a_dtype": SCALE_CODES[call.scale_a_dtype],
        "scale_w_dtype": SCALE_CODES[call.scale_w_dtype],
        "scale_w_stride": call.scale_w_stride,
        "bias_stride": call.bias_stride,
        "threshold_stride": call.threshold_stride,
        "flip_stride": call.flip_stride,
        "batch": geometry.batch,
        "height": geometry.height,
        "width": geometry.width,
        "out_channels": geometry.out_channels,
        "out_height": geometry.out_height,
        "out_width": geometry.out_width,
        "kernel_rows": geometry.kernel[0],
        "kernel_columns": geometry.kernel[1],
        "stride_rows": geometry.stride[0],
        "stride_columns": geometry.stride[1],
        "padding_rows": geometry.padding[0],
        "padding_columns": geometry.padding[1],
        "dilation_rows": geometry.dilation[0],
        "dilation_columns": geometry.dilation[1],
        "groups": geometry.groups,
        "group_channels": geometry.group_channels,
        "group_words": group_words,
        "pad_value": call.pad_value,
        "channels_last": int(call.channels_last),
    }
    obstacle = why_not_mma(geometry, call, device)
    if obstacle is not None:
        tasks = divide_up(pixels, _SIMT_PIXELS) * divide_up(geometry.out_channels, 32)
        return Launch(
            Kernel("conv_simt.cu", (("OUT", call.out),)),
            min(divide_up(tasks, _SIMT_THREADS // 32), _MAX_BLOCKS),
            _SIMT_THREADS,
            0,
            in_order(CONV_SIZES, sizes),
            f"popcount instructions: {obstacle}",
        )

    tile, reason = _choose_tile(geometry, call, device)
    masked = geometry.group_channels % WORD_BITS != 0
    shared_bytes = tile.shared_bytes(call.out, entries)
    # 1 KiB of every block's shared memory belongs to the system.
    resident = min(512 // tile.threads, device.multiprocessor_shared_bytes // (shared_bytes + 1024))
    slots = device.multiprocessors * max(1, resident)
    sizes |= _mma_sizes(geometry, tile, entries)
    walkers = min(sizes["pixel_tiles"], max(1, slots // sizes["channel_tiles"]))
    kernel = mma_kernel(call.out, tile, _copy_words(group_words, masked, call.alignment), masked)
    return Launch(
        kernel,
        walkers * sizes["channel_tiles"],
        tile.threads,
        shared_bytes,
        in_order(CONV_SIZES, sizes),
        f"tensor cores: {reason}",
    )


def _mma_sizes(geometry: Conv2dGeometry, tile: Tile, border_entries: int) -> dict[str, int]:
    """What conv_mma alone wants to know, computed once here and not in every block."""
    group_words = word_count(geometry.group_channels)
    taps, words = divmod(STAGE_WORDS, group_words)
    rows, columns = divmod(taps, geometry.kernel[1])
    pixel_tiles, channel_tiles = _tile_counts(geometry, tile)
    return {
        "has_border": int(border_entries > 0),
        "wide_stores": int((geometry.out_channels // geometry.groups) % 8 == 0),
        "channel_tiles": channel_tiles,
        "pixel_tiles": pixel_tiles,
        "pixel_words": geometry.groups * group_words,
        "filter_words": math.prod(geometry.kernel) * group_words,
        "reach_rows": geometry.kernel[0] * geometry.dilation[0],
        "reach_columns": geometry.kernel[1] * geometry.dilation[1],
        "walk_rows": rows * geometry.dilation[0],
        "walk_columns": columns * geometry.dilation[1],
        "walk_words": words,
    }


def mma_kernel(out: str, tile: Tile, copy_words: int, masked: bool) -> Kernel:
    return Kernel(
        "conv_mma.cu",
        (
            ("OUT", out),
            ("TILE_M", tile.pixels),
            ("TILE_N", tile.channels),
            ("WARP_M", tile.warp_pixels),
            ("STAGES", tile.stages),
            ("COPY_WORDS", copy_words),
            ("MASKED", int(masked)),
        ),
    )
