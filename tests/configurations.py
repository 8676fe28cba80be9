"""Convolutions beyond tests/cases.py: large enough to fill tiles and to leave them part-filled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import Case

from binop._cuda import (
    mma_tile,
    plan_conv,
    plan_fused,
    plan_mma,
    plan_wgmma,
    plan_wgmma_in_place,
    plan_wgmma_rows,
)
from binop._cuda.mma_candidate import Candidate
from binop._cuda.plan_wgmma import WgmmaTile
from binop._cuda.plan_wgmma_in_place import InPlaceTile
from binop._cuda.plan_wgmma_rows import RowsTile
from binop.packing import word_count

TILES = {
    "large": mma_tile.LARGE,
    "tall": mma_tile.TALL,
    "large-floats": mma_tile.LARGE_OF_FLOATS,
    "tall-floats": mma_tile.TALL_OF_FLOATS,
    "shallow": mma_tile.SHALLOW,
    "medium": mma_tile.MEDIUM,
    "small": mma_tile.SMALL,
}

# Of conv_wgmma: channels and consumers.
WGMMA_TILES = {
    f"{channels}x{consumers}": WgmmaTile(channels, consumers)
    for channels, consumers in ((32, 1), (64, 4), (96, 2), (128, 3), (256, 2))
}

# Of conv_wgmma_in_place.
IN_PLACE_TILES = {
    "x".join(map(str, numbers)): InPlaceTile(*numbers)
    for numbers in ((32, 1, 1), (64, 4, 1), (128, 2, 2), (128, 3, 1))
}

# Of conv_wgmma_rows.
ROWS_TILES = {
    f"{channels}x{consumers}": RowsTile(channels, consumers)
    for channels, consumers in ((32, 1), (64, 4), (96, 2), (128, 3))
}

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

# For conv_wgmma_rows: images whose rows are whole 16-byte pieces.
ROWS = [
    Case("rows-1-word", 32, 70, h=9, w=12, n=3),
    Case("rows-2-words", 64, 64, h=13, w=14, n=3),
    Case("rows-4-words", 128, 136, h=11, w=13, n=2),
    Case("rows-8-words", 256, 33, h=7, w=7, n=4),
    Case("rows-tail-1", 20, 40, h=9, w=8, n=2),
    Case("rows-tail-2", 50, 64, h=20, w=18, n=2, padding=(0, 1)),
    Case("rows-tail-4", 100, 40, h=9, w=9, n=2, padding=(1, 0)),
    Case("rows-tail-8", 250, 16, h=6, w=5, n=3),
    Case("rows-1x1", 256, 96, h=10, w=10, n=2, kernel=(1, 1), padding=(0, 0)),
    Case("rows-1x1-stride2", 128, 9, h=11, w=11, n=2, kernel=(1, 1), stride=(2, 2), padding=(0, 0)),
    Case("rows-1x1-padded", 64, 8, h=4, w=4, n=2, kernel=(1, 1), padding=(2, 1)),
    Case("rows-strided", 64, 64, h=13, w=14, n=2, stride=(2, 2)),
    Case("rows-strided-3x2", 33, 17, h=13, w=12, n=2, stride=(3, 2), padding=(2, 0)),
    Case("rows-dilated", 128, 16, h=12, w=14, n=2, padding=(4, 3), dilation=(4, 3)),
    Case("rows-5x5", 64, 16, h=10, w=16, n=2, kernel=(5, 5), padding=(2, 2)),
    Case("rows-1x3", 64, 24, h=9, w=20, kernel=(1, 3), padding=(0, 1)),
    Case("rows-many-images", 64, 32, h=3, w=4, n=40),  # a patch of more than 32 rows
    Case("rows-large", 64, 64, h=30, w=58, n=2),  # several tiles a block
    Case("rows-16-words", 512, 72, h=7, w=7, n=4),
    Case("rows-tail-16", 490, 40, h=5, w=6, n=2, padding=(1, 0)),
    Case("rows-1-pixel", 256, 40, h=1, w=1, n=70, kernel=(1, 1), padding=(0, 0)),
    Case("rows-3-pixels", 256, 40, h=1, w=3, n=30, kernel=(1, 1), padding=(0, 0)),
]

# For conv_wgmma_in_place, beside those of TILED that have no stride: slabs of other planes, and
# padding that rows and images share.
IN_PLACE = [
    Case("places-3-planes", 384, 40, h=6, w=7, n=2),  # taps are an odd number of pieces
    Case("places-5-planes", 640, 24, h=6, w=5, n=2, kernel=(1, 2), padding=(0, 1)),
    Case("places-slabs", 640, 72, h=7, w=6, n=3),  # of 4 planes, the last part-filled
    Case("places-1-column", 64, 32, h=19, w=1, n=2, kernel=(3, 1), padding=(1, 0)),
    Case("places-many-images", 128, 64, h=2, w=3, n=40),
    # The last tap of a row is where the next row's first is.
    Case("places-dilated", 128, 32, h=9, w=2, n=2, padding=(1, 4), dilation=(1, 3), pad_value=-1),
    Case("places-large", 64, 64, h=30, w=29, n=2),  # several tiles a block
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


def force_tile(monkeypatch: pytest.MonkeyPatch, name: str, *, resident: bool) -> None:
    """Leaves conv_mma one way to run a shape: a tile, with all filters in shared memory (where that
    is possible) or with as little as possible. Shapes that the tile cannot take keep all ways."""
    all_candidates = plan_mma.candidates

    def candidates(*arguments: object) -> Iterator[tuple[Candidate, int]]:
        found = list(all_candidates(*arguments))
        mine = [item for item in found if item[0].tile == TILES[name]]
        return iter([mine[0 if resident else -1]] if mine else found)

    monkeypatch.setattr(plan_mma, "candidates", candidates)
    never_wgmma(monkeypatch)
    never_fuse(monkeypatch)


def _choose_nearest(monkeypatch: pytest.MonkeyPatch, plan: Any, wanted: Any) -> None:
    """Of the tiles that fit a problem."""

    def choose(*arguments: Any) -> Any:
        return min(
            plan.tiles(*arguments),
            key=lambda tile: (
                abs(tile.channels - wanted.channels),
                abs(tile.consumers - wanted.consumers),
            ),
        )

    monkeypatch.setattr(plan, "_choose_tile", choose)


def _prefer(monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    """Where it takes a shape."""
    all_estimates = plan_conv._wide_estimates

    def estimates(*arguments: Any) -> dict[str, float]:
        found = all_estimates(*arguments)
        return {kernel: found[kernel]} if kernel in found else found

    monkeypatch.setattr(plan_conv, "_wide_estimates", estimates)
    never_fuse(monkeypatch)


def force_wgmma_tile(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Leaves conv_wgmma the tile that is nearest to one of WGMMA_TILES, of those that fit."""
    _choose_nearest(monkeypatch, plan_wgmma, WGMMA_TILES[name])
    _prefer(monkeypatch, "conv_wgmma")


def force_in_place_tile(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The same for conv_wgmma_in_place and IN_PLACE_TILES, where it takes a shape."""
    _choose_nearest(monkeypatch, plan_wgmma_in_place, IN_PLACE_TILES[name])
    _prefer(monkeypatch, "conv_wgmma_in_place")


def force_rows_tile(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The same for conv_wgmma_rows and ROWS_TILES, where it takes a shape."""
    _choose_nearest(monkeypatch, plan_wgmma_rows, ROWS_TILES[name])
    _prefer(monkeypatch, "conv_wgmma_rows")


# By kernel, a way to force one of its tiles that floats with a bias have.
FORCE_WIDE = {
    "conv_wgmma": lambda monkeypatch: force_wgmma_tile(monkeypatch, "96x2"),
    "conv_wgmma_in_place": lambda monkeypatch: force_in_place_tile(monkeypatch, "128x3x1"),
    "conv_wgmma_rows": lambda monkeypatch: force_rows_tile(monkeypatch, "96x2"),
}


def never_wgmma(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_conv, "_wide_estimates", lambda *_: {})


def never_fuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_fused, "_MAX_INPUT_WORDS", 0)
