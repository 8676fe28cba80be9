"""A convolution as conv_wgmma (sm_90a) sees it: the axes of a padded image, and a depth cut into
pieces of 16 bytes."""

from __future__ import annotations

from dataclasses import dataclass

from binop._cuda.launches import divide_up
from binop.geometry import Conv2dGeometry
from binop.packing import word_count

CHUNK_BYTES = 16
CHUNK_WORDS = 4
MAX_STEPS = 9  # products of a slab: their fragments stay in registers


@dataclass(frozen=True)
class Axis:
    """One axis of the padded image."""

    size: int  # of the image
    out: int
    kernel: int
    stride: int
    padding: int
    dilation: int

    @property
    def step(self) -> int:
        """From one output to the next. (For one tap, the patch leaves out what no output sees.)"""
        return 1 if self.kernel == 1 else self.stride

    @property
    def skip(self) -> int:
        """Of the image, from one element of the padded image to the next."""
        return self.stride if self.kernel == 1 else 1

    @property
    def reach(self) -> int:
        return self.dilation * (self.kernel - 1) + 1

    @property
    def padded(self) -> int:
        return (self.out - 1) * self.step + self.reach

    def cuts(self) -> tuple[int, int] | None:
        """The most taps that lie before and behind the image; None where an output has taps on
        both sides, or none inside."""
        most = [0, 0]
        for index in range(self.out):
            start = index * self.stride - self.padding
            over = start + self.reach - self.size
            before = max(0, divide_up(-start, self.dilation))
            after = max(0, divide_up(over, self.dilation))
            if (before and after) or max(before, after) >= self.kernel:
                return None
            most = [max(most[0], before), max(most[1], after)]
        return most[0], most[1]


def axes(geometry: Conv2dGeometry) -> tuple[Axis, Axis]:
    sizes = (geometry.height, geometry.width)
    outs = (geometry.out_height, geometry.out_width)
    rows, columns = (
        Axis(*values)
        for values in zip(
            sizes,
            outs,
            geometry.kernel,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            strict=True,
        )
    )
    return rows, columns


def patch_rows(rows: Axis, columns: Axis, pixels: int) -> int:
    """The most rows of the padded image that so many output pixels in a row can read."""
    rows_down = (columns.out - 1 + pixels - 1) // columns.out
    images_on = (rows.out - 1 + rows_down) // rows.out
    between_images = max(0, rows.padded - rows.out * rows.step)
    return rows_down * rows.step + images_on * between_images + rows.reach


@dataclass(frozen=True)
class Depth:
    """How taps and words of channels fill 16-byte chunks: the macros of conv_wgmma_tile.cuh."""

    word_taps: int
    planes: int
    chunks: int  # of a slab, before it is filled up to whole steps
    slabs: int

    @property
    def steps(self) -> int:
        return divide_up(self.chunks, 2)

    @classmethod
    def of(cls, geometry: Conv2dGeometry) -> Depth:
        words = word_count(geometry.group_channels)
        rows, columns = geometry.kernel
        if words <= 2:
            taps = CHUNK_WORDS // words
            planes = 2 if columns > taps and columns % taps else 1
            return cls(taps, planes, rows * divide_up(columns, taps), 1)
        pieces = divide_up(words, CHUNK_WORDS)
        planes = min(pieces, max(1, 2 * MAX_STEPS // (rows * columns)))
        return cls(1, planes, rows * columns * planes, divide_up(pieces, planes))
