// What becomes of a tile's sums, and the arguments that this takes.
//
// Stands after the tile header of its kernel.
#pragma once

#include "conv_wgmma_store.cuh"

#if RESIDUAL
#include "conv_wgmma_residual.cuh"
using KernelArguments = ResidualArguments;
using TileEpilogue = ResidualEpilogue<OUT>;
#else
using KernelArguments = WgmmaArguments;

struct TileEpilogue {
  // Before the products are done, with the rows' pixels known.
  __device__ void begin(const WgmmaArguments&, const Channels&, const LaneRows&) {}

  __device__ void store(const WgmmaArguments& a, const Channels& channels, u32 shared,
                        const LaneRows& rows, const Sums& sums) const {
    store_tile<OUT>(a, channels, shared, rows, sums);
  }
};
#endif
