"""Output pixels by which of their taps lie in the image (kernels/conv_mma_table.cuh)."""

from __future__ import annotations

from binop._cuda.conv_call import ConvCall
from binop._cuda.launches import divide_up
from binop.geometry import Conv2dGeometry


def _has_border(geometry: Conv2dGeometry, call: ConvCall) -> bool:
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


def misses_taps_at_both_ends(geometry: Conv2dGeometry, call: ConvCall) -> bool:
    """Whether the padding may hold the first and the last tap of one pixel: then the number of a
    class does not tell its taps."""
    return _has_border(geometry, call) and any(
        padding > 0 and (kernel - 1) * dilation > size
        for padding, kernel, dilation, size in zip(
            geometry.padding,
            geometry.kernel,
            geometry.dilation,
            (geometry.height, geometry.width),
            strict=True,
        )
    )


def class_sizes(geometry: Conv2dGeometry, call: ConvCall) -> dict[str, int]:
    if not _has_border(geometry, call):
        # One class, of pixels with all taps.
        rows, columns = geometry.kernel
        return {
            "row_classes": 1,
            "column_classes": 1,
            "first_row_class": rows,
            "first_column_class": columns,
        }
    (row, last_row), (column, last_column) = (_classes(geometry, axis) for axis in (0, 1))
    rows, columns = last_row - row + 1, last_column - column + 1
    return {
        "row_classes": rows,
        "column_classes": columns,
        "first_row_class": row,
        "first_column_class": column,
    }
