// What the convolutions on warpgroup-wide products (conv_wgmma, conv_wgmma_rows) share: constants,
// a block's channels, and their columns in a product. TILE_N is the channels of a block.
#pragma once

#include "epilogue.cuh"
#include "multiply_wide.cuh"

// 8 channels of a pixel at once, channel by channel, or pixels innermost (contiguous output).
enum Stores { kWide, kSingle, kPixels };

constexpr int kProductM = 64;
constexpr int kWarpgroup = 128;
constexpr int kChunkBytes = 16;  // 128 bits of depth: half a step
constexpr int kChunkWords = 4;
constexpr int kMaxStages = 8;

// Float constants of a channel in shared memory: alpha, an addend, and those of a residual sum.
#if RESIDUAL
constexpr int kConstants = 6 + 3 * ACTIVATION + SHIFTED;
#else
constexpr int kConstants = 2;
#endif

// value / divisor for small numbers; the plan keeps their product below 2**32. `inverse` is
// floor(2**32 / divisor) + 1, or 0 for the divisor 1.
__device__ inline int divide_small(int value, i64 inverse) {
  const u32 factor = static_cast<u32>(inverse);
  return factor == 0 ? value : static_cast<int>(__umulhi(static_cast<u32>(value), factor));
}

// What is fixed for a block: its group and its output channels.
struct Channels {
  int group;
  int first;
  int count;  // of the tile, at most TILE_N

  // In registers of their own: else the compiler computes them again for every tile.
  __device__ void pin() {
    u32 values[2] = {static_cast<u32>(first), static_cast<u32>(count)};
    ::pin(values[0]);
    ::pin(values[1]);
    first = static_cast<int>(values[0]);
    count = static_cast<int>(values[1]);
  }

  static __device__ Channels at(int group, int tile, i64 out_per_group) {
    const int skipped = tile * TILE_N;
    const int left = static_cast<int>(out_per_group) - skipped;
    return {group, group * static_cast<int>(out_per_group) + skipped,
            left < TILE_N ? left : TILE_N};
  }
};

// The product's column of a channel: chosen so that lane l of a row holds, of every 32 channels,
// the 8 from 8 * (l % 4) on.
__device__ inline int column_of(int channel) {
  return channel / 32 * 32 + channel % 8 / 2 * 8 + channel % 32 / 8 * 2 + channel % 2;
}
