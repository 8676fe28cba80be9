"""Which kernel convolves, and why. No tensors and no CuPy here."""

from __future__ import annotations

from binop._cuda.conv_call import ConvCall, conv_sizes, out_pixels
from binop._cuda.launches import CONV_SIZES, Device, Kernel, Launch, divide_up, in_order
from binop._cuda.plan_mma import plan_mma, why_not_mma
from binop._cuda.plan_wgmma import plan_wgmma, wgmma_cycles, why_not_wgmma
from binop._cuda.plan_wgmma_rows import plan_wgmma_rows, wgmma_rows_cycles, why_not_wgmma_rows
from binop.geometry import Conv2dGeometry

_POPCOUNT_THREADS = 128
_POPCOUNT_PIXELS = 4
_MAX_BLOCKS = 2**31 - 1


def plan_conv(geometry: Conv2dGeometry, call: ConvCall, device: Device) -> Launch | None:
    """``None`` stands for nothing to do."""
    if out_pixels(geometry) * geometry.out_channels == 0:
        return None
    wide = why_not_wgmma(geometry, call, device) is None
    if why_not_wgmma_rows(geometry, call, device) is None and (
        not wide or wgmma_rows_cycles(geometry, call, device) < wgmma_cycles(geometry, call, device)
    ):
        return plan_wgmma_rows(geometry, call, device)
    if wide:
        return plan_wgmma(geometry, call, device)
    obstacle = why_not_mma(geometry, call, device)
    if obstacle is None:
        return plan_mma(geometry, call, device)
    return _plan_popcount(geometry, call, obstacle)


def _plan_popcount(geometry: Conv2dGeometry, call: ConvCall, why: str) -> Launch:
    tasks = divide_up(out_pixels(geometry), _POPCOUNT_PIXELS) * divide_up(geometry.out_channels, 32)
    return Launch(
        Kernel("conv_simt.cu", (("OUT", call.out),)),
        min(divide_up(tasks, _POPCOUNT_THREADS // 32), _MAX_BLOCKS),
        _POPCOUNT_THREADS,
        0,
        in_order(CONV_SIZES, conv_sizes(geometry, call)),
        f"popcount instructions: {why}",
    )
