// What becomes of a tile's sums, and the arguments that this takes.
//
// Stands after the tile header of its kernel.
#pragma once

#include "conv_wgmma_bits.cuh"

#if RESIDUAL
#include "conv_wgmma_residual.cuh"
using KernelArguments = ResidualArguments;
using TileEpilogue = ResidualEpilogue<OUT>;
#else
using KernelArguments = WgmmaArguments;

__device__ inline void store_bits(const WgmmaArguments& a, const Channels& channels, u32 shared,
                                  const LaneRows& rows, const Sums& sums) {
  const int lane = threadIdx.x % 4;
  const BitRows decisions = BitRows::of(shared + Layout::kTable + lane * 16, rows.border, rows.set);
  BitShares::decide(sums, decisions, ByteExchange::of(lane), [&](int half, int group, u32 below) {
    if constexpr (BitShares::kBothRows) {
      if (lane >= 2 * kTileWords) return;
      store_word(a, channels, shared, rows, lane / kTileWords, lane % kTileWords, below);
    } else {
      store_word(a, channels, shared, rows, half, group * BitShares::kWords + lane, below);
    }
  });
}

struct TileEpilogue {
  // Before the products are done, with the rows' pixels known.
  __device__ void begin(const WgmmaArguments&, const Channels&, const LaneRows&) {}

  __device__ void store(const WgmmaArguments& a, const Channels& channels, u32 shared,
                        const LaneRows& rows, const Sums& sums) const {
    if constexpr (Channel<OUT>::kPacked) {
      store_bits(a, channels, shared, rows, sums);
    } else {
      store_tile<OUT>(a, channels, shared, rows, sums);
    }
  }
};
#endif
