"""The plan of conv_simt, which takes every convolution. No tensors and no CuPy here."""

from __future__ import annotations

from binop._cuda.conv_call import ConvCall, conv_sizes, out_pixels
from binop._cuda.launches import CONV_SIZES, Kernel, Launch, divide_up, in_order
from binop.geometry import Conv2dGeometry

_THREADS = 128
_PIXELS = 4
_MAX_BLOCKS = 2**31 - 1


def plan_simt(geometry: Conv2dGeometry, call: ConvCall, why: str) -> Launch:
    """``why``: what keeps the faster kernels from it."""
    tasks = divide_up(out_pixels(geometry), _PIXELS) * divide_up(geometry.out_channels, 32)
    return Launch(
        Kernel("conv_simt.cu", (("OUT", call.out),)),
        min(divide_up(tasks, _THREADS // 32), _MAX_BLOCKS),
        _THREADS,
        0,
        in_order(CONV_SIZES, conv_sizes(geometry, call)),
        f"popcount instructions: {why}",
    )
