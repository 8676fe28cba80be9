"""What a call must do at least: bytes moved, operations, and the time of both at the ceilings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from binop.bench.cases import PackCase
from binop.geometry import Conv2dGeometry
from binop.packing import word_count

Storage = torch.dtype | Literal["packed"]

_WORD_BYTES = 4


@dataclass(frozen=True)
class Work:
    """``bytes`` moved if every input is read once and every output written once; ``ops`` counts
    a multiply and an add per tap (of padding too, as is usual), done in ``arithmetic``."""

    bytes: int
    ops: int
    arithmetic: str


@dataclass(frozen=True)
class Floor:
    """The least time in seconds, and the ceiling that sets it: ``memory`` or ``arithmetic``."""

    seconds: float
    bound: str


def floor(work: Work, bandwidth: float | None, peak: float | None) -> Floor | None:
    """The larger of bytes/bandwidth (B/s) and ops/peak (1/s); None leaves a term out."""
    memory = work.bytes / bandwidth if bandwidth else 0.0
    arithmetic = work.ops / peak if peak else 0.0
    if memory == arithmetic == 0:
        return None
    return Floor(memory, "memory") if memory >= arithmetic else Floor(arithmetic, "arithmetic")


def tensor_bytes(pixels: int, channels: int, storage: Storage) -> int:
    """Bytes of ``pixels`` positions of ``channels`` values each."""
    if storage == "packed":
        return pixels * word_count(channels) * _WORD_BYTES
    return pixels * channels * storage.itemsize


def conv_work(
    geometry: Conv2dGeometry,
    x: Storage,
    weight: Storage,
    y: Storage,
    arithmetic: str,
    channel_bytes: int = 0,
) -> Work:
    """A convolution with operands stored so, and ``channel_bytes`` per output channel beside."""
    out_pixels = geometry.batch * geometry.out_height * geometry.out_width
    filters = geometry.out_channels * geometry.kernel[0] * geometry.kernel[1]
    moved = (
        tensor_bytes(geometry.batch * geometry.height * geometry.width, geometry.channels, x)
        + tensor_bytes(filters, geometry.group_channels, weight)
        + tensor_bytes(out_pixels, geometry.out_channels, y)
        + channel_bytes * geometry.out_channels
    )
    return Work(moved, 2 * out_pixels * geometry.out_channels * geometry.taps, arithmetic)


def pack_work(case: PackCase, dtype: torch.dtype) -> Work:
    """Reads the values, writes the bits."""
    pixels = case.n * case.size**2
    moved = tensor_bytes(pixels, case.c, dtype) + tensor_bytes(pixels, case.c, "packed")
    return Work(moved, 0, "none")


def copy_work(case: PackCase, dtype: torch.dtype) -> Work:
    """Reads the values, writes them."""
    return Work(2 * tensor_bytes(case.n * case.size**2, case.c, dtype), 0, "none")
