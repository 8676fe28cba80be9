"""The plan of conv_mma: its tile, what stays in shared memory, and how many blocks walk.

Candidates (tile, filters resident or not, depth of a stage) that fit the device are compared by an
estimate of their time. No tensors and no CuPy here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from binop._cuda.conv_call import ConvCall, conv_sizes, out_pixels
from binop._cuda.launches import (
    CONV_SIZES,
    MMA_SIZES,
    Device,
    Launch,
    divide_up,
    in_order,
    reciprocal,
)
from binop._cuda.mma_candidate import Candidate
from binop._cuda.mma_classes import class_sizes, misses_taps_at_both_ends
from binop._cuda.mma_patch import CHUNK_WORDS, choose_patch, line_length, patch_sizes
from binop._cuda.mma_tile import (
    EMULATED_TILES,
    FIRST_EMULATED,
    FIRST_WITH_MMA,
    TILES,
    decides_pairs,
    mma_kernel,
)
from binop.geometry import Conv2dGeometry
from binop.packing import WORD_BITS, word_count

_MAX_EXTENT = 2**30
_MAX_TAPS = 2**21  # sums are shifted into the mantissa of a float
_MAX_KERNEL_TAPS = 1024


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
                if decides_pairs(tile) and not candidate.in_pairs:
                    continue
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
    pixels = max(out_pixels(geometry), geometry.batch * geometry.height * geometry.width)
    line = line_length(geometry, max(tile.pixels for tile in TILES))
    return max(*reach, geometry.out_channels, geometry.channels, pixels, line)


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
    if misses_taps_at_both_ends(geometry, call):
        return "pixels miss taps at both ends of the image"
    if next(candidates(geometry, call, device), None) is None:
        return "no tile's pixels and filters fit into shared memory"
    return None


def plan_mma(
    geometry: Conv2dGeometry,
    call: ConvCall,
    device: Device,
    numbers: tuple[int, ...] | None = None,
) -> Launch:
    """For a call that ``why_not_mma`` has nothing against; ``numbers`` are those of a candidate."""
    candidate, shared_bytes = min(
        (
            item
            for item in candidates(geometry, call, device)
            if numbers is None or item[0].numbers == numbers
        ),
        key=lambda item: item[0].estimate(device, item[1]),
    )
    return launch_candidate(candidate, shared_bytes, device)


def launch_candidate(candidate: Candidate, shared_bytes: int, device: Device) -> Launch:
    geometry, call, tile = candidate.geometry, candidate.call, candidate.tile
    pixel_tiles, channel_tiles = candidate.tile_counts
    walkers = candidate.walkers(device, shared_bytes)
    group_words = word_count(geometry.group_channels)
    sizes = {
        "pixels": out_pixels(geometry),
        "channel_tiles": channel_tiles,
        "pixel_tiles": pixel_tiles,
        "walkers": walkers,
        "copy_words": candidate.copy_words,
        "pixel_words": geometry.groups * group_words,
        "filter_words": math.prod(geometry.kernel) * group_words,
        "tap_chunks": candidate.tap_chunks,
        "folds": candidate.folds,
        "stage_planes": candidate.stage_planes,
        "stages": candidate.stages,
        "resident": int(candidate.resident),
        "slots": candidate.slots,
        "patch_bytes": candidate.patch_bytes,
        "filter_bytes": candidate.filter_bytes,
        "filter_pitch": candidate.filter_pitch,
        "pair_bytes": 16 * candidate.filter_pitch,
        "by_dilation_rows": reciprocal(geometry.dilation[0]),
        "by_dilation_columns": reciprocal(geometry.dilation[1]),
        "by_group_words": reciprocal(group_words),
        "by_kernel_columns": reciprocal(geometry.kernel[1]),
        "by_stage_planes": reciprocal(candidate.stage_planes),
        "by_folds": reciprocal(candidate.folds),
    }
    sizes |= patch_sizes(geometry, candidate.patch, tile.copiers)
    sizes |= class_sizes(geometry, call)
    sizes |= candidate.places()[0]
    kept = "filters stay in shared memory" if candidate.resident else "filters come in stages"
    return Launch(
        mma_kernel(call.out, tile, candidate.has_rows, candidate.in_pairs),
        walkers * channel_tiles,
        tile.threads,
        shared_bytes,
        in_order(CONV_SIZES, conv_sizes(geometry, call)) + in_order(MMA_SIZES, sizes),
        f"tensor cores: tiles of {tile.pixels} pixels and {tile.channels} channels, {kept}",
        overlaps=True,
    )
