"""Convolutions beyond tests/cases.py: large enough to fill tiles and to leave them part-filled."""

from __future__ import annotations

import torch
from cases import Case

from binop.packing import word_count

TILED = [
    Case("word", 32, 70, h=9, w=11, n=3),  # 4-byte copies, two channel tiles, the last part-filled
    Case("two-words", 64, 64, h=8, w=8, n=3),  # 8-byte copies
    Case("three-words", 96, 33, h=7, w=9, n=2),
    Case("four-words", 128, 136, h=12, w=13, n=2),  # 16-byte copies
    Case("deep", 512, 72, h=7, w=7, n=3),  # more stages than the ring holds
    Case("tail", 100, 40, h=9, w=9, n=2),
    Case("image", 3, 64, h=15, w=17, n=2, kernel=(7, 7), stride=(2, 2), padding=(3, 3)),
    Case("1x1", 256, 130, h=10, w=10, n=2, kernel=(1, 1), padding=(0, 0)),
    Case("1x1-stride2", 128, 9, h=11, w=11, n=2, kernel=(1, 1), stride=(2, 2), padding=(0, 0)),
    Case("1x1-padded", 64, 8, h=4, w=4, n=2, kernel=(1, 1), padding=(2, 1)),
    Case("1x3", 64, 24, h=9, w=20, kernel=(1, 3), padding=(0, 1)),
    Case("5x5", 64, 16, h=10, w=9, n=2, kernel=(5, 5), padding=(2, 2)),
    Case("dilated", 128, 16, h=12, w=14, n=2, padding=(4, 3), dilation=(4, 3)),
    Case("strided", 33, 17, h=13, w=12, n=2, stride=(3, 2), padding=(2, 0)),
    Case("wide-padding", 64, 8, h=3, w=4, n=2, padding=(4, 3)),
    Case("no-padding", 160, 20, h=9, w=8, n=2, padding=(0, 0)),
    Case("groups", 256, 128, h=9, w=9, n=2, groups=2),
    Case("groups-part-tile", 192, 144, h=6, w=7, n=2, groups=3),
    Case("groups-odd-out", 64, 18, h=6, w=7, n=2, groups=2),  # 9 a group: no aligned stores
]


def words(
    channels: int, *shape: int, generator: torch.Generator, dirty: bool = True
) -> torch.Tensor:
    """A random packed tensor; ``dirty``: with random bits also beyond its channels."""
    count = word_count(channels)
    packed = torch.randint(-(2**31), 2**31, (*shape, count), generator=generator)
    packed = packed.to(torch.int32)
    if not dirty and channels % 32:
        packed[..., -1] &= (1 << (channels % 32)) - 1
    return packed


def packed_operands(case: Case, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = words(case.c, case.n, case.h, case.w, generator=generator)
    weight = words(case.c // case.groups, case.o, *case.kernel, generator=generator)
    return x, weight
