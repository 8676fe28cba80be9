// The ring of patches in shared memory that producers fill and consumers read.
#pragma once

#include "types.cuh"

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
