"""Which kernel packs or unpacks a tensor, and why. No tensors and no CuPy here.

``None`` stands for nothing to do.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from binop._cuda.launches import (
    ELEMENT_BYTES,
    PACK_SIZES,
    SCALE_CODES,
    SPECIALS,
    Kernel,
    Launch,
    divide_up,
    in_order,
    reciprocal,
)
from binop.packing import WORD_BITS, word_count

_PACK_THREADS = 256
_WORD_BYTES = 4
_MAX_PIXELS = 2**31 - 2**13  # of pack_planes, and room for a block


@dataclass(frozen=True)
class Image:
    """A 4-d tensor as the pack kernels see it; strides in elements."""

    element: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    alignment: int  # bytes, a power of two up to 16

    @property
    def pixels(self) -> int:
        return self.shape[0] * self.shape[2] * self.shape[3]

    @property
    def plane(self) -> int:
        return self.shape[2] * self.shape[3]

    def is_one_line(self) -> bool:
        """Whether (image, row, column, channel) is the order of the memory, without gaps."""
        expected = 1
        for axis in (1, 3, 2, 0):
            if self.shape[axis] != 1 and self.strides[axis] != expected:
                return False
            expected *= self.shape[axis]
        return True

    def has_dense_planes(self) -> bool:
        """Whether the pixels of a plane follow each other without gaps."""
        _, _, height, width = self.shape
        return (width == 1 or self.strides[3] == 1) and (height == 1 or self.strides[2] == width)

    def pixel_vector(self) -> int:
        """Pixels of a dense plane that one aligned load of at most 16 bytes can take."""
        size = ELEMENT_BYTES[self.element]
        vector = min(16, self.alignment) // size
        steps = [self.plane]
        steps += [self.strides[axis] for axis in (0, 1) if self.shape[axis] != 1]
        return math.gcd(vector, *steps)


def plan_pack(
    image: Image,
    *,
    groups: int = 1,
    mask: bool = False,
    clip: float = 0.0,
    scale_dtype: str = "",
    filters: Image | None = None,
) -> Launch | None:
    """One launch that packs an image, and with ``filters`` these, too."""
    channels = image.shape[1]
    group_channels = channels // groups
    group_words = word_count(group_channels)
    words = image.pixels * groups * group_words
    if words == 0:
        return None
    block_words = min(2, groups * group_words)
    word_blocks = divide_up(groups * group_words, block_words)
    vector = None
    if image.is_one_line() and group_channels % WORD_BITS == 0 and image.alignment == 16:
        layout, reason = "flat", "channels are innermost and fill whole words"
        blocks = divide_up(words, _PACK_THREADS)
    elif image.has_dense_planes() and max(image.pixels, words // image.pixels) < _MAX_PIXELS:
        layout, reason = "planes", "pixels are innermost"
        vector = image.pixel_vector()
        pixels = _PACK_THREADS // _WORD_BYTES // block_words * vector
        blocks = divide_up(image.pixels, pixels) * word_blocks
    else:
        layout, reason = "strided", "neither channels nor pixels are innermost and dense"
        blocks = divide_up(words, _PACK_THREADS)
    sizes = {
        "scale_a_dtype": SCALE_CODES[scale_dtype] if mask else 0,
        "clip": struct.unpack("q", struct.pack("d", clip))[0],
        "pixels": image.pixels,
        "plane": image.plane,
        "width": image.shape[3],
        "groups": groups,
        "group_channels": group_channels,
        "group_words": group_words,
        "stride_image": image.strides[0],
        "stride_channel": image.strides[1],
        "stride_row": image.strides[2],
        "stride_column": image.strides[3],
        "block_words": block_words,
        "word_blocks": word_blocks,
        "by_word_blocks": reciprocal(word_blocks),
        "by_group_words": reciprocal(group_words),
        "by_plane": reciprocal(image.plane),
    }
    if filters is not None:
        sizes |= _filter_sizes(filters)
    return Launch(
        pack_kernel(image.element, layout, vector, mask=mask, filters=filters is not None),
        blocks + sizes.get("filter_blocks", 0),
        _PACK_THREADS,
        0,
        in_order(PACK_SIZES, sizes),
        reason,
        overlaps=True,
    )


def _filter_sizes(filters: Image) -> dict[str, int]:
    count, channels, rows, columns = filters.shape
    infinity, minus_zero = SPECIALS[filters.element]
    return {
        "filter_blocks": divide_up(count * word_count(channels), _PACK_THREADS // 32),
        "filter_count": count,
        "filter_channels": channels,
        "filter_rows": rows,
        "filter_columns": columns,
        "filter_stride": filters.strides[0],
        "filter_stride_channel": filters.strides[1],
        "filter_stride_row": filters.strides[2],
        "filter_stride_column": filters.strides[3],
        "filter_element_bytes": ELEMENT_BYTES[filters.element],
        "filter_infinity": infinity,
        "filter_minus_zero": minus_zero,
        "by_filter_words": reciprocal(word_count(channels)),
    }


def pack_kernel(
    element: str, layout: str, vector: int | None, *, mask: bool = False, filters: bool = False
) -> Kernel:
    macros: tuple[tuple[str, str | int], ...] = (
        ("ELEMENT", element),
        ("MASK", int(mask)),
        ("FILTERS", int(filters)),
        ("LAYOUT", layout),
    )
    if vector is not None:
        macros = (*macros, ("VECTOR", vector))
    return Kernel("pack.cu", macros)


def plan_unpack(pixels: int, channels: int, element: str) -> Launch | None:
    if pixels * channels == 0:
        return None
    vector = 16 // ELEMENT_BYTES[element]
    return Launch(
        Kernel("unpack.cu", (("ELEMENT", element),)),
        divide_up(pixels * channels, 256 * vector),
        256,
        0,
        (pixels, channels, word_count(channels)),
        "the one kernel",
    )
