"""The tiles of conv_mma, and the kernels compiled for them."""

from __future__ import annotations

from dataclasses import dataclass

from binop._cuda.launches import Kernel

_WARPS = 16  # of a multiprocessor at once, without producers: four a scheduler


@dataclass(frozen=True)
class Tile:
    """Pixels and channels of a warp; how many warps stand down, across, and along the depth; how
    many more only describe and copy (none: all warps do)."""

    warp_pixels: int
    warp_channels: int
    warps_down: int
    warps_across: int
    warps_deep: int = 1
    producers: int = 0

    @property
    def pixels(self) -> int:
        return self.warp_pixels * self.warps_down

    @property
    def channels(self) -> int:
        return self.warp_channels * self.warps_across

    @property
    def warps(self) -> int:
        """Those that multiply."""
        return self.warps_down * self.warps_across * self.warps_deep

    @property
    def threads(self) -> int:
        return 32 * (self.warps + self.producers)

    @property
    def copiers(self) -> int:
        """Threads, as kCopiers of conv_mma_tile.cuh."""
        return 32 * (self.producers or self.warps)

    @property
    def blocks_per_multiprocessor(self) -> int:
        """As kBlocks of conv_mma.cu: what the registers allow."""
        return 1 if self.producers else _WARPS // self.warps

    @property
    def products(self) -> int:
        """Matrix products of a step of the depth."""
        return self.pixels // 16 * (self.channels // 8)


# With producers a scheduler has three warps, and a thread 168 registers; else four and 128. Sums of
# 64 x 64 leave 40, which is too few where floats are stored, or bits decided one by one.
LARGE = Tile(64, 64, 4, 2, producers=4)
TALL = Tile(64, 64, 8, 1, producers=4)  # 64 channels, whose filters fit small shared memories
LARGE_OF_FLOATS = Tile(48, 64, 4, 2, producers=4)
TALL_OF_FLOATS = Tile(48, 64, 8, 1, producers=4)
SHALLOW = Tile(32, 64, 4, 1)  # few products an output: four warps a scheduler store in turn
MEDIUM = Tile(32, 32, 2, 2)  # a few images
SMALL = Tile(16, 32, 1, 1, 4)  # one image: many blocks, whose warps split the depth
_OF_PAIRS = (LARGE, TALL)
TILES = (*_OF_PAIRS, LARGE_OF_FLOATS, TALL_OF_FLOATS, SHALLOW, MEDIUM, SMALL)


def decides_pairs(tile: Tile) -> bool:
    """Whether it is only for packed output that is decided two channels at a time."""
    return tile in _OF_PAIRS


# 1-bit matrix instructions exist from sm_80 on; from sm_100 on the compiler emulates them with
# 8-bit ones, which takes registers that the large tiles do not have.
FIRST_WITH_MMA = (8, 0)
FIRST_EMULATED = (10, 0)
EMULATED_TILES = (MEDIUM, SMALL)


def mma_kernel(out: str, tile: Tile, rows: bool = True, pairs: bool = False) -> Kernel:
    return Kernel(
        "conv_mma.cu",
        (
            ("OUT", out),
            ("WARP_M", tile.warp_pixels),
            ("WARP_N", tile.warp_channels),
            ("WARPS_M", tile.warps_down),
            ("WARPS_N", tile.warps_across),
            ("WARPS_K", tile.warps_deep),
            ("PRODUCERS", tile.producers),
            ("ROWS", int(rows)),
            ("PAIRS", int(pairs)),
        ),
    )
