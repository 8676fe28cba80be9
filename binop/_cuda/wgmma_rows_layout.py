"""How conv_wgmma_rows lays rows of an image out in shared memory: the bytes of a row, and how far
apart rows stand so that the taps of a product fall into different banks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from binop._cuda.launches import divide_up
from binop.geometry import Conv2dGeometry
from binop.packing import word_count

COPY_BYTES = 16  # whole pieces, aligned
_WORD_BYTES = 4
_BANKS = 32
_STEP_WORDS = 8  # of depth, in a product
_ROW_LANES = 4  # that share a row of a fragment


@dataclass(frozen=True)
class RowLayout:
    """In bytes."""

    row: int  # of the image
    inside: int  # from the row's start in shared memory to the image's first pixel
    first: int  # to the first tap of the first output
    pitch: int

    @classmethod
    def of(cls, geometry: Conv2dGeometry) -> RowLayout:
        pixel = word_count(geometry.channels) * _WORD_BYTES
        before = geometry.padding[1] * pixel
        inside = divide_up(before, COPY_BYTES) * COPY_BYTES
        first = inside - before
        last = (geometry.out_width - 1) * geometry.stride[1]
        reach = geometry.dilation[1] * (geometry.kernel[1] - 1) + 1
        row = geometry.width * pixel
        least = divide_up(max(inside + row, first + (last + reach) * pixel), COPY_BYTES)
        pitches = range(least * COPY_BYTES, least * COPY_BYTES + _BANKS * _WORD_BYTES, COPY_BYTES)
        return cls(row, inside, first, min(pitches, key=lambda pitch: _waits(geometry, pitch)))


def is_row_a_span(geometry: Conv2dGeometry) -> bool:
    """Whether a load's taps are those of a row of the kernel: kRowSpans of the tile's header."""
    rows, columns = geometry.kernel
    room = _STEP_WORDS // 2
    spans = divide_up(rows * columns, room)
    return word_count(geometry.channels) == 2 and columns <= room and spans == rows


def steps_of(geometry: Conv2dGeometry) -> int:
    """Products of a tile."""
    words = word_count(geometry.channels)
    return divide_up(geometry.kernel[0] * geometry.kernel[1] * words, _STEP_WORDS)


def _waits(geometry: Conv2dGeometry, pitch: int) -> int:
    """Accesses that the fragments of one row of a tile take: of the lanes that load together, as
    many as one bank has different words."""
    return sum(
        max(len({word for word in together if word % _BANKS == bank}) for bank in range(_BANKS))
        for together in _loads(geometry, pitch // _WORD_BYTES)
    )


def _loads(geometry: Conv2dGeometry, pitch: int) -> Iterator[list[int]]:
    """Per load the words of its lanes, where these are of several taps: of one or two words a
    pixel, which are loaded one by one."""
    words = word_count(geometry.channels)
    if words > 2:
        return
    columns = geometry.kernel[1]
    taps = geometry.kernel[0] * columns
    together = columns if is_row_a_span(geometry) else _ROW_LANES  # taps of a load
    for first in range(0, taps, together):
        for word in range(words):
            yield [
                tap // columns * geometry.dilation[0] * pitch
                + tap % columns * geometry.dilation[1] * words
                + pixel * geometry.stride[1] * words
                + word
                for tap in range(first, min(first + together, taps))
                for pixel in range(_BANKS // _ROW_LANES)
            ]
