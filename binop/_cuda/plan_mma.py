"""The plan of conv_mma: its tile, what stays in shared memory, and how many blocks walk.

Candidates (tile, filters resident or not, depth of a stage) that fit the device are compared by an
estimate of their time. No tensors and no CuPy here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from binop._cuda.conv_call import ConvCall, conv_sizes, out_pixels
from binop._cuda.launches import (
    CONV_SIZES,
    ELEMENT_BYTES,
    MMA_SIZES,
    Device,
    Kernel,
    Launch,
    divide_up,
    in_order,
)
from binop._cuda.mma_patch import (
    CHUNK_BYTES,
    CHUNK_WORDS,
    Patch,
    choose_patch,
    line_length,
    patch_sizes,
)
from binop.geometry import Conv2dGeometry
from binop.packing import WORD_BITS, word_count


@dataclass(frozen=True)
class Tile:
    """Pixels and channels of a warp, and how many warps stand down, across, and along the depth."""

    warp_pixels: int
    warp_channels: int
    warps_down: int
    warps_across: int
    warps_deep: int = 1

    @property
    def pixels(self) -> int:
        return self.warp_pixels * self.warps_down

    @property
    def channels(self) -> int:
        return self.warp_channels * self.warps_across

    @property
    def warps(self) -> int:
        return self.warps_down * self.warps_across * self.warps_deep

    @property
    def threads(self) -> int:
        return 32 * self.warps

    @property
    def blocks_per_multiprocessor(self) -> int:
        """As kBlocks of conv_mma.cu: what the registers allow."""
        return 256 // self.threads if self.warp_pixels * self.warp_channels >= 64 * 64 else 4

    @property
    def products(self) -> int:
        """Matrix products of a step of the depth."""
        return self.pixels // 16 * (self.channels // 8)


WIDE = Tile(64, 64, 4, 2)  # fewest bytes of filters a pixel, where these do not stay
LARGE = Tile(64, 64, 2, 2)  # two blocks a multiprocessor: one stores while the other multiplies
NARROW = Tile(64, 64, 4, 1)  # 64 channels
MEDIUM = Tile(32, 32, 2, 2)  # a few images
SMALL = Tile(16, 32, 1, 1, 4)  # one image: many blocks, whose warps split the depth
TILES = (WIDE, LARGE, NARROW, MEDIUM, SMALL)

# 1-bit matrix instructions exist from sm_80 on; from sm_100 on the compiler emulates them with
# 8-bit ones, which takes registers that the large tiles do not have.
FIRST_WITH_MMA = (8, 0)
FIRST_EMULATED = (10, 0)
EMULATED_TILES = (MEDIUM, SMALL)

_STAGES_AHEAD = 2  # kStagesAhead of conv_mma.cu
_MAX_EXTENT = 2**30
_MAX_TAPS = 2**21  # sums are shifted into the mantissa of a float
_MAX_KERNEL_TAPS = 1024
_SYSTEM_BYTES = 1024  # of every block's shared memory

# For the estimate, in cycles of a multiprocessor. Measured on an H200: 6 a matrix product of a
# quarter multiprocessor, and about 24 bytes from the second-level cache (all multiprocessors
# together 5.5 TB/s). The others are judged: a step's loads before its first product, 4
# instructions an output, a launch with its first loads.
_PRODUCT = 6
_CACHE_BYTES = 24
_STEP = 80
_OUTPUT = 4
_START = 3000


def has_border(geometry: Conv2dGeometry, call: ConvCall) -> bool:
    """Whether taps outside the image count otherwise than clear bits inside it."""
    return call.pad_value >= 0 and geometry.padding != (0, 0)


def _classes(geometry: Conv2dGeometry, axis: int) -> tuple[int, int]:
    """The first and last number of a class along an axis (Interval of conv_mma_table.cuh)."""
    taps, dilation = geometry.kernel[axis], geometry.dilation[axis]
    size = (geometry.height, geometry.width)[axis]
    last_start = ((geometry.out_height, geometry.out_width)[axis] - 1) * geometry.stride[axis]

    def number(start: int) -> int:
        first = min(taps, divide_up(max(0, -start), dilation))
        last = 0 if start >= size else (size - 1 - start) // dilation + 1
        return 2 * taps - first - max(first, min(taps, last))

    padding = geometry.padding[axis]
    return number(-padding), number(last_start - padding)


def _class_sizes(geometry: Conv2dGeometry, call: ConvCall) -> dict[str, int]:
    if not has_border(geometry, call):
        names = ("first_row_class", "first_column_class", "common_class")
        return {"row_classes": 1, "column_classes": 1} | dict.fromkeys(names, 0)
    (row, last_row), (column, last_column) = (_classes(geometry, axis) for axis in (0, 1))
    rows, columns = last_row - row + 1, last_column - column + 1
    # That of the pixels with all taps inside, where there are any.
    inside_row = min(max(geometry.kernel[0], row), last_row) - row
    inside_column = min(max(geometry.kernel[1], column), last_column) - column
    return {
        "row_classes": rows,
        "column_classes": columns,
        "first_row_class": row,
        "first_column_class": column,
        "common_class": inside_row * columns + inside_column,
    }


@dataclass(frozen=True)
class Candidate:
    """A tile, and what of the depth is in shared memory at a time."""

    geometry: Conv2dGeometry
    call: ConvCall
    tile: Tile
    patch: Patch
    stage_planes: int
    resident: bool
    one_tile_each: bool

    @property
    def stages(self) -> int:
        words = word_count(self.geometry.group_channels)
        return divide_up(words, CHUNK_WORDS) // self.stage_planes

    @property
    def tap_chunks(self) -> int:
        rows, columns = self.geometry.kernel
        return rows * divide_up(columns, self.patch.fold)

    @property
    def steps(self) -> int:
        """Of a stage; each takes two chunks."""
        return divide_up(self.tap_chunks * self.stage_planes, 2)

    @property
    def has_rows(self) -> bool:
        """Whether lanes store straight into the output: packed, or 8 channels at a time."""
        out_per_group = self.geometry.out_channels // self.geometry.groups
        return self.call.out == "bits" or (self.call.channels_last and out_per_group % 8 == 0)

    @property
    def slots(self) -> int:
        return min(1 + _STAGES_AHEAD, self.stages) if self.one_tile_each else 1 + _STAGES_AHEAD

    @property
    def patch_bytes(self) -> int:
        return self.stage_planes * self.patch.entries * CHUNK_BYTES

    @property
    def filter_bytes(self) -> int:
        return 2 * self.steps * self.tile.channels * CHUNK_BYTES

    def regions(self) -> dict[str, int]:
        """Bytes of the parts of shared memory, in order."""
        tile, classes = self.tile, _class_sizes(self.geometry, self.call)
        slot = self.patch_bytes + (0 if self.resident else self.filter_bytes)
        stored = 0
        if not self.has_rows:
            size = ELEMENT_BYTES[self.call.out]
            stored = tile.warps_down * tile.warps_across * 32 * (tile.warp_pixels * size + 4)
        partials = (tile.warps_deep - 1) * tile.pixels * tile.channels * 4
        return {
            "filters": self.stages * self.filter_bytes if self.resident else 0,
            "ring_at": self.slots * slot,
            "set_bits_at": self.patch.entries * 4,
            "table_at": classes["row_classes"] * classes["column_classes"] * tile.channels * 4,
            "ranges_at": (classes["row_classes"] + classes["column_classes"]) * 8,
            "rows_at": tile.pixels * tile.warps_across * 8,
            "chunks_at": 2 * self.steps * 8,
            "channels_at": tile.channels * 8,
            "scratch_at": max(
                math.prod(self.geometry.kernel) * tile.channels * 4, partials + stored
            ),
        }

    def places(self) -> tuple[dict[str, int], int]:
        """Where the parts start, and the bytes of all."""
        places, end = {}, 0
        for name, size in self.regions().items():
            places[name] = end
            end += divide_up(size, 16) * 16
        del places["filters"]
        return places, end

    @property
    def tile_counts(self) -> tuple[int, int]:
        out_per_group = self.geometry.out_channels // self.geometry.groups
        across = self.geometry.groups * divide_up(out_per_group, self.tile.channels)
        return divide_up(out_pixels(self.geometry), self.tile.pixels), across

    def resident_blocks(self, device: Device, shared_bytes: int) -> int:
        fitting = device.multiprocessor_shared_bytes // (shared_bytes + _SYSTEM_BYTES)
        return max(1, min(self.tile.blocks_per_multiprocessor, fitting))

    def estimate(self, device: Device, shared_bytes: int) -> float:
        """Cycles, by the constants above."""
        tiles = math.prod(self.tile_counts)
        blocks = min(
            self.resident_blocks(device, shared_bytes), divide_up(tiles, device.multiprocessors)
        )
        waves = divide_up(tiles, device.multiprocessors * blocks)
        steps = self.stages * self.steps
        deep = self.tile.warps_deep
        products = self.tile.products * steps * _PRODUCT / 4
        latency = divide_up(steps, deep) * _STEP
        copied = self.stages * self.patch_bytes
        if not self.resident:
            copied += self.stages * self.filter_bytes
        stored = self.tile.pixels * self.tile.channels * _OUTPUT / 128
        copying = copied / _CACHE_BYTES
        # Copies overlap with products, but take some of their time.
        busy = max(blocks * (products + copying / 4), blocks * copying, latency)
        # With two warps a quarter, one stores while the other multiplies.
        overlapped = blocks * self.tile.warps >= 8
        each = max(busy, blocks * stored) if overlapped else busy + stored
        # What must have come before the first product.
        first = blocks * self.filter_bytes * (self.stages if self.resident else 1)
        return _START + first / _CACHE_BYTES + waves * each


def candidates(
    geometry: Conv2dGeometry, call: ConvCall, device: Device
) -> Iterator[tuple[Candidate, int]]:
    """Those that fit the device, with their bytes of shared memory."""
    planes = divide_up(word_count(geometry.group_channels), CHUNK_WORDS)
    for tile in EMULATED_TILES if device.capability >= FIRST_EMULATED else TILES:
        patch = choose_patch(geometry, tile.pixels)
        tiles = divide_up(out_pixels(geometry), tile.pixels) * divide_up(
            geometry.out_channels, tile.channels
        )
        for stage_planes in range(planes, 0, -1):
            if planes % stage_planes != 0:
                continue
            for resident in (True, False):
                candidate = Candidate(
                    geometry, call, tile, patch, stage_planes, resident,
                    tiles <= device.multiprocessors,
                )  # fmt: skip
                _, shared_bytes = candidate.places()
                if shared_bytes <= device.block_shared_bytes:
                    yield candidate, shared_bytes


def _extent(geometry: Conv2dGeometry) -> int:
    """The largest count or coordinate that conv_mma keeps in 32 bits."""
    reach = [
        size + 2 * padding + stride + dilation * kernel
        for size, padding, stride, dilation, kernel in zip(
            (geometry.height, geometry.width),
            geometry.padding,
            geometry.stride,
            geometry.dilation,
            geometry.kernel,
            strict=True,
        )
    ]
    line = line_length(geometry, max(tile.pixels for tile in TILES))
    return max(*reach, geometry.out_channels, geometry.channels, out_pixels(geometry), line)


def why_not_mma(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> str | None:
    out_per_group = geometry.out_channels // geometry.groups
    if device.capability < FIRST_WITH_MMA:
        return "the device has no 1-bit matrix instructions"
    if out_per_group < 8:
        return "fewer output channels a group than a matrix product has columns"
    if call.out == "bits" and geometry.groups > 1 and out_per_group % WORD_BITS != 0:
        return "groups share words of the packed output"
    if geometry.taps >= _MAX_TAPS:
        return "sums beyond 2**21"
    if math.prod(geometry.kernel) > _MAX_KERNEL_TAPS:
        return "the kernel has too many taps"
    if _extent(geometry) >= _MAX_EXTENT:
        return "sizes beyond 2**30"
    if next(candidates(geometry, call, device), None) is None:
        return "no tile's pixels and filters fit into shared memory"
    return None


def plan_mma(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> Launch:
    """For a call that ``why_not_mma`` has nothing against."""
    candidate, shared_bytes = min(
        candidates(geometry, call, device), key=lambda item: item[0].estimate(device, item[1])
    )
    return launch_candidate(candidate, shared_bytes, device)


def launch_candidate(candidate: Candidate, shared_bytes: int, device: Device) -> Launch:
    geometry, call, tile = candidate.geometry, candidate.call, candidate.tile
    pixel_tiles, channel_tiles = candidate.tile_counts
    slots = device.multiprocessors * candidate.resident_blocks(device, shared_bytes)
    walkers = min(pixel_tiles, max(1, slots // channel_tiles))
    group_words = word_count(geometry.group_channels)
    sizes = {
        "pixels": out_pixels(geometry),
        "channel_tiles": channel_tiles,
        "pixel_tiles": pixel_tiles,
        "copy_words": math.gcd(CHUNK_WORDS, group_words, max(1, call.alignment // 4)),
        "pixel_words": geometry.groups * group_words,
        "filter_words": math.prod(geometry.kernel) * group_words,
        "tap_chunks": candidate.tap_chunks,
        "stage_planes": candidate.stage_planes,
        "stages": candidate.stages,
        "resident": int(candidate.resident),
        "slots": candidate.slots,
        "patch_bytes": candidate.patch_bytes,
        "filter_bytes": candidate.filter_bytes,
    }
    sizes |= patch_sizes(geometry, candidate.patch)
    sizes |= _class_sizes(geometry, call)
    sizes |= candidate.places()[0]
    kept = "filters stay in shared memory" if candidate.resident else "filters come in stages"
    return Launch(
        mma_kernel(call.out, tile, candidate.has_rows),
        walkers * channel_tiles,
        tile.threads,
        shared_bytes,
        in_order(CONV_SIZES, conv_sizes(geometry, call)) + in_order(MMA_SIZES, sizes),
        f"tensor cores: tiles of {tile.pixels} pixels and {tile.channels} channels, {kept}",
    )


def mma_kernel(out: str, tile: Tile, rows: bool = True) -> Kernel:
    return Kernel(
        "conv_mma.cu",
        (
            ("OUT", out),
            ("WARP_M", tile.warp_pixels),
            ("WARP_N", tile.warp_channels),
            ("WARPS_M", tile.warps_down),
            ("WARPS_N", tile.warps_across),
            ("WARPS_K", tile.warps_deep),
            ("ROWS", int(rows)),
        ),
    )
