"""Which float convolutions pack and convolve in one launch. No tensors and no CuPy here."""

from __future__ import annotations

import math

from binop._cuda.choice import forced_choice
from binop._cuda.conv_call import ConvCall, conv_sizes, out_pixels
from binop._cuda.launches import (
    CONV_SIZES,
    ELEMENT_BYTES,
    FUSED_SIZES,
    SPECIALS,
    Kernel,
    Launch,
    divide_up,
    in_order,
)
from binop._cuda.plan_pack import Image
from binop.geometry import Conv2dGeometry
from binop.packing import word_count

_CHANNELS = 32  # of a block
_THREADS = 512
# Every block packs all of the input and its own filters. Judged, not measured: below these the
# device should be done before the host could have launched two kernels.
_MAX_INPUT_WORDS = 512
_MAX_FILTER_WORDS = 1024
_MAX_PIXELS = 512


def plan_fused(geometry: Conv2dGeometry, call: ConvCall, x: Image, weight: Image) -> Launch | None:
    """``None`` where the call is too large for it, or empty, or another kernel is forced."""
    if forced_choice() is not None:
        return None
    words = word_count(geometry.group_channels)
    x_words = geometry.batch * geometry.height * geometry.width * geometry.groups * words
    filter_words = min(_CHANNELS, geometry.out_channels) * math.prod(geometry.kernel) * words
    pixels = out_pixels(geometry)
    if not (0 < x_words <= _MAX_INPUT_WORDS and filter_words <= _MAX_FILTER_WORDS):
        return None
    if pixels > _MAX_PIXELS:
        return None
    sizes = conv_sizes(geometry, call)
    for name, image in (("x", x), ("weight", weight)):
        first = f"{name}_stride_image" if name == "x" else "weight_stride"
        strides = (first, *(f"{name}_stride_{axis}" for axis in ("channel", "row", "column")))
        sizes |= dict(zip(strides, image.strides, strict=True))
        infinity, minus_zero = SPECIALS[image.element]
        sizes |= {
            f"{name}_bytes": ELEMENT_BYTES[image.element],
            f"{name}_infinity": infinity,
            f"{name}_minus_zero": minus_zero,
        }
    return Launch(
        fused_kernel(call.out),
        divide_up(geometry.out_channels, _CHANNELS),
        _THREADS,
        4 * (x_words + filter_words),
        in_order(CONV_SIZES, sizes) + in_order(FUSED_SIZES, sizes),
        "one launch: the device packs and convolves in less than another launch takes the host",
    )


def fused_kernel(out: str) -> Kernel:
    return Kernel("conv_fused.cu", (("OUT", out),))
