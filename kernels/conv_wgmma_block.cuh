// What the roles of conv_wgmma and conv_wgmma_in_place know of their block, and what both do.
#pragma once

#include "conv_wgmma_store.cuh"
#include "conv_wgmma_tile.cuh"

struct Work {
  const WgmmaArguments& a;
  Channels channels;
  Layout layout;
  int first_tile;
  int walkers;  // blocks with the same channels
  u8* dynamic;  // shared memory
  u32 shared;   // its address

  static __device__ Work of(const WgmmaArguments& a, u8* dynamic) {
    const int block = static_cast<int>(blockIdx.x);
    const int walkers = static_cast<int>(a.walkers);
    const int channel_tile = divide_small(block, a.walkers_inverse);
    const int group_tiles = static_cast<int>(a.group_channel_tiles);
    const int group = divide_small(channel_tile, a.group_channel_tiles_inverse);
    return {a,
            Channels::at(group, channel_tile - group * group_tiles, a.out_per_group),
            Layout::of(a),
            block - channel_tile * walkers,
            walkers,
            dynamic,
            shared_address(dynamic)};
  }
};

// Every lane of the warp is done with what the barrier guards.
__device__ inline void arrive_for_warp(u32 barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) arrive(barrier);
}

// The rows of this lane for the epilogue, as far as the words behind the patch tell.
__device__ inline void read_rows(u32 words, i64 first_pixel, LaneRows& rows) {
  rows.first = first_pixel;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const u32 at = RowWords::at(words, threadIdx.x % 32 / 4 + 8 * half);
    rows.border[half] = RowWords::border_of(load_shared(at));
    rows.pixel[half] = static_cast<int>(load_shared(at + 4));
    rows.set[half] = 0;
  }
}
