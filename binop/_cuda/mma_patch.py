"""How conv_mma lays out the input pixels of a tile in shared memory (kernels/conv_mma_patch.cuh).

Lay the images out in a line, each with its padding around it. The first taps of a tile's output
pixels then lie in an interval of that line, and the other taps at constant distances from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from binop._cuda.conv_call import out_pixels
from binop._cuda.launches import reciprocal
from binop.geometry import Conv2dGeometry
from binop.packing import word_count

CHUNK_WORDS = 4
CHUNK_BYTES = 16


@dataclass(frozen=True)
class Patch:
    per_tap: bool
    segments: int
    segment_entries: int
    tap_entries: int
    segment_step: int
    tap_rows_apart: int
    tap_columns_apart: int
    fold: int

    @property
    def entries(self) -> int:
        return self.segments * self.segment_entries


def padded_size(geometry: Conv2dGeometry) -> tuple[int, int]:
    return (
        geometry.height + 2 * geometry.padding[0],
        geometry.width + 2 * geometry.padding[1],
    )


def _interval(geometry: Conv2dGeometry, pixels: int) -> int:
    """At most how many padded pixels lie between the first taps of ``pixels`` output pixels."""
    rows, columns = padded_size(geometry)
    out_rows, out_columns = geometry.out_height, geometry.out_width
    plane = out_rows * out_columns
    pixels = min(pixels, out_pixels(geometry))
    ends_of_rows = min((out_columns + pixels - 2) // out_columns, geometry.batch * out_rows - 1)
    ends_of_images = min((plane + pixels - 2) // plane, geometry.batch - 1)
    row_step, column_step = geometry.stride
    return (
        (pixels - 1) * column_step
        + ends_of_rows * max(0, row_step * columns - out_columns * column_step)
        + ends_of_images * max(0, (rows - out_rows * row_step) * columns)
        + 1
    )


def _run(geometry: Conv2dGeometry, pixels: int) -> int:
    """Padded pixels under one row of a tile's taps."""
    return _interval(geometry, pixels) + (geometry.kernel[1] - 1) * geometry.dilation[1]


def _row_of_taps(geometry: Conv2dGeometry) -> int:
    """Padded pixels from one row of taps to the next."""
    return geometry.dilation[0] * padded_size(geometry)[1]


def line_length(geometry: Conv2dGeometry, pixels: int) -> int:
    """Padded pixels from the start of a tile's first image to its last tap, at most."""
    rows, columns = padded_size(geometry)
    taps = geometry.kernel[0] * _row_of_taps(geometry)
    return rows * columns + _run(geometry, pixels) + taps


def choose_patch(geometry: Conv2dGeometry, pixels: int) -> Patch:
    """The layout with the fewest entries for tiles of ``pixels`` output pixels."""
    kernel_rows, kernel_columns = geometry.kernel
    dilation_columns = geometry.dilation[1]
    words = word_count(geometry.group_channels)
    fold = CHUNK_WORDS // words if words in (1, 2) and kernel_columns > 1 else 1
    interval, row_of_taps = _interval(geometry, pixels), _row_of_taps(geometry)
    across = (kernel_columns - 1) * dilation_columns
    down = (kernel_rows - 1) * row_of_taps
    run, whole = interval + across, interval + across + down
    candidates = (
        # One run with all rows of taps, which share pixels.
        Patch(False, 1, whole, across + down, 0, row_of_taps, dilation_columns, fold),
        # A run for each row of taps, where they lie far apart.
        Patch(False, kernel_rows, run, across, row_of_taps, run, dilation_columns, fold),
        # No sharing: strides that skip most pixels, kernels of one tap.
        Patch(True, math.prod(geometry.kernel), pixels, 0, 0, kernel_columns * pixels, pixels, 1),
    )
    return min(candidates, key=lambda patch: patch.entries)


def patch_sizes(geometry: Conv2dGeometry, patch: Patch, copiers: int) -> dict[str, int]:
    rows, columns = padded_size(geometry)
    return {
        "patch_per_tap": int(patch.per_tap),
        "segments": patch.segments,
        "segment_entries": patch.segment_entries,
        "tap_entries": patch.tap_entries,
        "segment_step": patch.segment_step,
        "padded_height": rows,
        "padded_width": columns,
        "padded_plane": rows * columns,
        "tap_rows_apart": patch.tap_rows_apart,
        "tap_columns_apart": patch.tap_columns_apart,
        "thread_rows": copiers // columns,
        "thread_columns": copiers % columns,
        "fold": patch.fold,
        "by_plane": reciprocal(geometry.out_height * geometry.out_width),
        "by_width": reciprocal(geometry.out_width),
        "by_padded_plane": reciprocal(rows * columns),
        "by_padded_width": reciprocal(columns),
    }
