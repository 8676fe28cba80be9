// All warps describe, copy, multiply and store, a stage at a time: for tiles of few warps, whose
// copies should come from all of them.
#pragma once

#include "conv_mma_counts.cuh"
#include "conv_mma_product.cuh"
#include "conv_mma_store.cuh"
#include "conv_mma_walk.cuh"

// One loop over the stages of all tiles, with the code of each part there once: it comes from
// memory when it first runs, at a cost of several cycles an instruction.
__device__ inline void walk_over_tiles(const MmaArguments& a, const Block& block, Walk now,
                                       u8* shared) {
  __syncthreads();  // what the block needs for all tiles
  const Warp warp = Warp::of_thread();
  if (a.resident) load_all_filters(a, block, shared);
  Walk ahead = now;
  bool started = false;  // whether a stage is under way
  int entries = 0;       // of the patch of the last stage that was started
  const auto finish = Finish<OUT>::of(block, warp, at<Channel<OUT>>(shared, a.channels_at));
  Operands operands;
  Sums sums;
#pragma unroll 1
  while (now.tile < static_cast<int>(a.pixel_tiles)) {
    const bool starts = now.stage == 0;
    const Spot* spots = now.spots(a, shared);
    int* set_bits = now.set_bits(a, shared);
    const u8* patch = now.address(a, shared);
    if (started) {
      wait_copies<0>();
      count_set_bits(a, entries, now.stage, patch, set_bits);
      __syncthreads();  // the stage has arrived for all threads, and all have used the one before
    }
    load_stage(a, block, ahead, entries, shared);
    if (!started) {
      fill_table(a, block, at<Channel<OUT>>(shared, a.channels_at), nullptr,
                 at<int>(shared, a.table_at));
      clear(sums);  // so that none of them needs a register before
      operands = Operands::of(a, warp, shared);
      started = true;
      continue;
    }

    if (starts) {
      operands.enter(spots, warp);
      clear(sums);
    }
    multiply_stage(a, sums, operands, warp, shared_address(patch),
                   shared_address(now.filters(a, shared)));
    const int first_pixel = now.tile * kTileM;
    now.advance(a);
    if (now.stage != 0) continue;

    if constexpr (WARPS_K > 1) {
      hand_over(sums, warp, at<Partials>(shared, a.scratch_at));
      __syncthreads();
      if (warp.k == 0) take_over(sums, warp, at<Partials>(shared, a.scratch_at));
    }
    if (warp.k == 0) {
      Row* rows = at<Row>(shared, a.rows_at) + (warp.m * WARPS_N + warp.n) * WARP_M;
      describe_rows<WARP_M, 32>(a, lane_index(), spots + warp.m * WARP_M,
                                at<int>(shared, a.taps_at), set_bits, rows);
      __syncwarp();
      store_tile<OUT>(a, block, first_pixel, warp, finish, shared, rows, sums);
    }
  }
}
