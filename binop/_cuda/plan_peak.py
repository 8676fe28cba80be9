"""Launches that measure what 1-bit matrix products reach. No tensors and no CuPy here."""

from __future__ import annotations

from dataclasses import dataclass

from binop._cuda.launches import Device, Kernel, Launch
from binop._cuda.mma_tile import FIRST_WITH_MMA
from binop._cuda.wgmma_block import WITH_WGMMA

PEAK_POINTERS = ("words", "out")
PEAK_SIZES = ("rounds",)

PEAK_THREADS = 256
_WARPS = PEAK_THREADS // 32
# As mma_peak.cu and wgmma_peak.cu have them.
MMA_ROWS = 4
MMA_COLUMNS = 4
WGMMA_COLUMNS = 256
WGMMA_PRODUCTS = 8
_FILTER_BYTES = WGMMA_COLUMNS * 32

_MMA_OPS = 2 * 16 * 8 * 256
_WGMMA_OPS = 2 * 64 * WGMMA_COLUMNS * 256
_MMA_ROUNDS = 4096  # both about a millisecond on an H200
_WGMMA_ROUNDS = 1024


@dataclass(frozen=True)
class Peak:
    """``words`` are what the launch reads, ``ops`` its operations: two per pair of bits."""

    launch: Launch
    words: int
    ops: int


def mma_peak(device: Device, rounds: int = _MMA_ROUNDS) -> Peak | None:
    """None where the device has no such instruction."""
    if device.capability < FIRST_WITH_MMA:
        return None
    blocks = 2 * device.multiprocessors
    ops = blocks * _WARPS * rounds * MMA_ROWS * MMA_COLUMNS * _MMA_OPS
    words = (4 * MMA_ROWS + 2 * MMA_COLUMNS) * 32
    return Peak(Launch(MMA_PEAK, blocks, PEAK_THREADS, 0, (rounds,), "measures"), words, ops)


def wgmma_peak(device: Device, rounds: int = _WGMMA_ROUNDS) -> Peak | None:
    """None where the device has no such instruction."""
    if device.capability != WITH_WGMMA:
        return None
    blocks = device.multiprocessors
    ops = blocks * (_WARPS // 4) * rounds * WGMMA_PRODUCTS * _WGMMA_OPS
    launch = Launch(WGMMA_PEAK, blocks, PEAK_THREADS, _FILTER_BYTES, (rounds,), "measures")
    return Peak(launch, 4 * 32 + _FILTER_BYTES // 4, ops)


MMA_PEAK = Kernel("mma_peak.cu", ())
WGMMA_PEAK = Kernel("wgmma_peak.cu", ())
