// Words of bits from the bytes of four neighbouring lanes.
#pragma once

#include "types.cuh"

// Lane l of four neighbours holds byte l of four words, in one; afterwards it holds word l.
struct ByteExchange {
  u32 of_two;  // which bytes to take from the two lanes that differ in one bit of their number
  u32 of_four;

  static __device__ ByteExchange of(int lane) {
    return {lane % 2 == 0 ? 0x6240u : 0x3715u, lane < 2 ? 0x5410u : 0x3276u};
  }

  __device__ u32 operator()(u32 bytes) const {
    bytes = __byte_perm(bytes, __shfl_xor_sync(kAllLanes, bytes, 1), of_two);
    return __byte_perm(bytes, __shfl_xor_sync(kAllLanes, bytes, 2), of_four);
  }
};
