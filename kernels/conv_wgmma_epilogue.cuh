// What becomes of a tile's sums, and the arguments that this takes.
#pragma once

#include "conv_wgmma_tile.cuh"
// (After the tile.)
#include "conv_wgmma_store.cuh"

#if RESIDUAL
#include "conv_wgmma_residual.cuh"
using KernelArguments = ResidualArguments;
using TileEpilogue = ResidualEpilogue<OUT>;
#else
using KernelArguments = WgmmaArguments;

// Made before the products are done; stores when they are.
struct TileEpilogue {
  const WgmmaArguments& a;
  const Channels& channels;
  const LaneRows& rows;

  __device__ void store(u32 shared, const Sums& sums) const {
    store_tile<OUT>(a, channels, shared, rows, sums);
  }
};
#endif
