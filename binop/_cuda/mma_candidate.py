"""A way to run a convolution with conv_mma: its shared memory, and an estimate of its time."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

from binop._cuda.conv_call import ConvCall, out_pixels
from binop._cuda.launches import ELEMENT_BYTES, Device, divide_up
from binop._cuda.mma_classes import class_sizes
from binop._cuda.mma_patch import CHUNK_BYTES, CHUNK_WORDS, Patch
from binop._cuda.mma_tile import Tile
from binop.geometry import Conv2dGeometry
from binop.packing import word_count

_STAGES_KEPT = 2  # one multiplied, one under way
# One multiplied, one filled and waiting, one under way (kMaxProducerSlots of conv_mma_walk.cuh).
_STAGES_OF_PRODUCERS = 3
_MAX_TAPS_OF_PAIRS = 2**15 - 2  # sums fit 16 bits
_SYSTEM_BYTES = 1024  # of every block's shared memory
_ALIGNMENT = 32  # of the table: lanes tell entries of 16 bytes apart by one bit


# For the estimate, in cycles of a multiprocessor. Measured by themselves on an H200: 6 a matrix
# product of a quarter multiprocessor, and about 24 bytes from the second-level cache (all
# multiprocessors together 5.5 TB/s). The next but _STEP were fitted to 46 times of 3x3 layers on
# one H200 (2026-11-24; 64 to 1,024 channels, large batches, bits and bfloat16, tiles without
# producers), which are met to 11%.
_PRODUCT = 6
_CACHE_BYTES = 24
# Shared by the blocks of a multiprocessor: an output of each of 128 lanes, with all else that is
# done once a tile; of floats also their arithmetic and stores.
_OUTPUT = 10
_FLOAT = 12
# What other blocks do not shorten: a stage's wait, barrier and first loads; an output of a thread.
_STAGE = 1500
_OUTPUT_WAIT = 8
# A launch, its code, tables and first patches: s5's first products began after 12 thousand cycles
# (one H200, 2026-12-01). The fit, of slower starts, had 18 thousand.
_START = 12000
# Judged: a step's loads, where a scheduler has too few warps to multiply meanwhile.
_STEP = 80
# Of tiles with producers, fitted to 22 times of 3x3 layers on one H200 (2026-11-30; tiles of 192
# x 128 and 384 x 64, 1 to 8 stages), which are met to 10%. Consumers: a stage's start and end; a
# float of 128 lanes. Producers: a stage; a copy of an entry of each of their threads, with all that
# is done with it; a pixel of each.
_CONSUMED_STAGE = 690
_STORED_FLOAT = 17
_PRODUCED_STAGE = 600
_PRODUCED_COPY = 315
_PRODUCED_PIXEL = 820
_DELAYED = 0.35  # of those that need less time than the others: they share the schedulers


@dataclass(frozen=True)
class Candidate:
    """A tile, and what of the depth is in shared memory at a time."""

    geometry: Conv2dGeometry
    call: ConvCall
    tile: Tile
    patch: Patch
    stage_planes: int
    resident: bool
    one_tile_each: bool

    @property
    def numbers(self) -> tuple[int, ...]:
        """What tells it from the other candidates of a call."""
        return (*astuple(self.tile), self.stage_planes, int(self.resident))

    @property
    def stages(self) -> int:
        words = word_count(self.geometry.group_channels)
        return divide_up(words, CHUNK_WORDS) // self.stage_planes

    @property
    def folds(self) -> int:
        """Chunks of a row of taps, of one plane."""
        return divide_up(self.geometry.kernel[1], self.patch.fold)

    @property
    def tap_chunks(self) -> int:
        return self.geometry.kernel[0] * self.folds

    @property
    def steps(self) -> int:
        """Of a stage; each takes two chunks."""
        return divide_up(self.tap_chunks * self.stage_planes, 2)

    @property
    def has_rows(self) -> bool:
        """Whether lanes store straight into the output: packed, or 8 channels at a time."""
        out_per_group = self.geometry.out_channels // self.geometry.groups
        return self.call.out == "bits" or (self.call.channels_last and out_per_group % 8 == 0)

    @property
    def in_pairs(self) -> bool:
        """Whether bits are decided two channels at a time (kernels/bit_pairs.cuh)."""
        return self.call.out == "bits" and self.geometry.taps <= _MAX_TAPS_OF_PAIRS

    @property
    def slots(self) -> int:
        kept = _STAGES_OF_PRODUCERS if self.tile.producers else _STAGES_KEPT
        return min(kept, self.stages) if self.one_tile_each else kept

    @property
    def tiles_kept(self) -> int:
        """As kTilesKept of conv_mma_walk.cuh."""
        return _STAGES_OF_PRODUCERS + 1 if self.tile.producers else 2

    @property
    def copy_words(self) -> int:
        """Of one asynchronous copy from x."""
        words = word_count(self.geometry.group_channels)
        return math.gcd(CHUNK_WORDS, words, max(1, self.call.alignment // 4))

    @property
    def patch_bytes(self) -> int:
        return self.stage_planes * self.patch.entries * CHUNK_BYTES

    @property
    def filter_pitch(self) -> int:
        """Bytes of a channel's chunks in shared memory: an odd number of chunks."""
        return (2 * self.steps + 1) * CHUNK_BYTES

    @property
    def filter_bytes(self) -> int:
        return self.filter_pitch * self.tile.channels

    def regions(self) -> dict[str, int]:
        """Bytes of the parts of shared memory, in order."""
        tile, classes = self.tile, class_sizes(self.geometry, self.call)
        rows, columns = self.geometry.kernel
        slot = self.patch_bytes + (0 if self.resident else self.filter_bytes)
        stored = 0
        if not self.has_rows:
            size = ELEMENT_BYTES[self.call.out]
            stored = tile.warps_down * tile.warps_across * 32 * (tile.warp_pixels * size + 4)
        # Described by each warp for itself, or by the producers ahead.
        rows_described = tile.pixels * (self.tiles_kept if tile.producers else tile.warps_across)
        partials = (tile.warps_deep - 1) * tile.pixels * tile.channels * 4
        return {
            "filters": self.stages * self.filter_bytes if self.resident else 0,
            "ring_at": self.slots * slot,
            "set_bits_at": 2 * self.patch.entries * 4,
            "sources_at": self.patch.entries * 4,
            "table_at": classes["row_classes"] * classes["column_classes"] * tile.channels * 4,
            "spots_at": self.tiles_kept * tile.pixels * 8,
            "rows_at": rows_described * 8,
            "taps_at": rows * columns * 4,
            "chunks_at": 2 * self.steps * 8,
            "channels_at": tile.channels * 8,
            "scratch_at": partials + stored,
            "barriers_at": 2 * self.slots * 8 if tile.producers else 0,
        }

    def places(self) -> tuple[dict[str, int], int]:
        """Where the parts start, and the bytes of all."""
        places, end = {}, 0
        for name, size in self.regions().items():
            places[name] = end
            end += divide_up(size, _ALIGNMENT) * _ALIGNMENT
        del places["filters"]
        return places, end

    @property
    def tile_counts(self) -> tuple[int, int]:
        out_per_group = self.geometry.out_channels // self.geometry.groups
        across = self.geometry.groups * divide_up(out_per_group, self.tile.channels)
        return divide_up(out_pixels(self.geometry), self.tile.pixels), across

    def resident_blocks(self, device: Device, shared_bytes: int) -> int:
        fitting = device.multiprocessor_shared_bytes // (shared_bytes + _SYSTEM_BYTES)
        return max(1, min(self.tile.blocks_per_multiprocessor, fitting))

    def walkers(self, device: Device, shared_bytes: int) -> int:
        """Blocks that share the tiles of the same channels."""
        pixel_tiles, channel_tiles = self.tile_counts
        slots = device.multiprocessors * self.resident_blocks(device, shared_bytes)
        return min(pixel_tiles, max(1, slots // channel_tiles))

    def estimate(self, device: Device, shared_bytes: int) -> float:
        """Cycles, by the constants above."""
        pixel_tiles, channel_tiles = self.tile_counts
        walkers = self.walkers(device, shared_bytes)
        blocks = divide_up(walkers * channel_tiles, device.multiprocessors)
        tiles = divide_up(pixel_tiles, walkers)  # of a block, one after the other
        outputs = self.tile.pixels * self.tile.channels
        steps = self.stages * self.steps
        products = max(
            blocks * self.tile.products * steps * _PRODUCT / 4,
            divide_up(steps, self.tile.warps_deep)
            * (_STEP + self.tile.products / self.tile.warps * self.tile.warps_deep * _PRODUCT),
        )
        copied = self.stages * (self.patch_bytes + (0 if self.resident else self.filter_bytes))
        copies = copied / _CACHE_BYTES
        # What must have come before the first product.
        first = blocks * self.filter_bytes * (self.stages if self.resident else 1) / _CACHE_BYTES
        if self.tile.producers:
            of_tile = self._side_by_side(products) + (0 if self.resident else copies)
            return _START + first + tiles * of_tile
        per_output = _OUTPUT if self.call.out == "bits" else _OUTPUT + _FLOAT
        shared = products + blocks * (copies + outputs / 128 * per_output)
        in_turn = self.stages * _STAGE + outputs / self.tile.threads * _OUTPUT_WAIT
        return _START + first + tiles * (shared + in_turn)

    def _side_by_side(self, products: float) -> float:
        """Cycles a tile of consumers and producers, who work at the same time."""
        copiers = self.tile.copiers
        floats = 0 if self.call.out == "bits" else self.tile.pixels * self.tile.channels
        consumed = products + self.stages * _CONSUMED_STAGE + floats / 128 * _STORED_FLOAT
        words = self.stage_planes * CHUNK_WORDS
        if self.patch.fold > 1:
            words = self.patch.fold * word_count(self.geometry.group_channels)
        copies = divide_up(self.patch.entries, copiers) * divide_up(words, self.copy_words)
        produced = (
            self.stages * (_PRODUCED_STAGE + copies * _PRODUCED_COPY)
            + divide_up(self.tile.pixels, copiers) * _PRODUCED_PIXEL
        )
        return max(consumed, produced) + _DELAYED * min(consumed, produced)
