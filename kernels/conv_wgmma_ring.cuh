// The ring of patches in shared memory that producers fill and consumers read.
#pragma once

#include "hopper.cuh"

// The barriers of a Layout: so many arrivals fill a patch, or empty it, or make the table. By one
// thread, because of barriers that lanes set up side by side, each takes a turn of a loop.
template <class Layout, class Arguments>
__device__ inline void init_barriers(const Arguments& a, u32 shared, int filling, int emptying,
                                     int tabling) {
  if (threadIdx.x != 0) return;
  init_barrier(shared + Layout::kCopied, 1);
  init_barrier(shared + Layout::kTabled, tabling);
#pragma unroll 1
  for (int stage = 0; stage < static_cast<int>(a.stages); ++stage) {
    init_barrier(shared + Layout::kFull + 8 * stage, filling);
    init_barrier(shared + Layout::kEmpty + 8 * stage, emptying);
  }
}

// A place in the ring of patches, and in its barriers' phases.
struct Stage {
  int index = 0;
  u32 phase = 0;

  template <class Arguments>
  __device__ void advance(const Arguments& a) {
    if (++index == static_cast<int>(a.stages)) {
      index = 0;
      phase ^= 1;
    }
  }

  // By any number of places.
  template <class Arguments>
  __device__ void advance(const Arguments& a, int count) {
    for (index += count; index >= static_cast<int>(a.stages); index -= static_cast<int>(a.stages)) {
      phase ^= 1;
    }
  }

  template <class Arguments>
  __device__ u32 patch(const Arguments& a, u32 patches) const {
    return patches + index * static_cast<int>(a.stage_bytes);
  }
};
