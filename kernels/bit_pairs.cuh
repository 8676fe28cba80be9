// Packed output, decided two channels at a time.
//
//   dot >= threshold  <=>  2 sum - popc(a) >= t  <=>  sum >= popc(a) / 2 + (t + popc(a) % 2 + 1) /
//   2
//
// (halves rounded down; sum = popc(a & b)). With a depth below 2**15 all of these fit 16 bits, so
// that one addition decides two channels: in each half of 32768 + sum - popc(a) / 2 - (...), the
// top bit. The last term is a table's, for even and odd popc(a).
#pragma once

#include "tensor_core.cuh"

// t: dot = 4 sum - 2 popc(a) + counted.
__device__ inline int least_difference(int counted, int threshold) {
  return (threshold - counted + 1) >> 1;
}

// 32768 less the last term.
__device__ inline int table_half(int counted, int threshold, int odd) {
  constexpr int kLimit = 1 << 14;  // beyond all sums
  const int least = (least_difference(counted, threshold) + odd + 1) >> 1;
  return 0x8000 - (least < -kLimit ? -kLimit : least > kLimit ? kLimit : least);
}

// popc(a) / 2 in both halves (a multiplication would be distributed over all pairs).
__device__ inline u32 half_set_pair(int set) { return __byte_perm(set >> 1, 0, 0x1010); }

// Of 8 channels, as bits 0 to 7: whether below the threshold. The other bits are set.
__device__ inline u32 below_threshold(const u32 (&decided)[4]) {
  const u32 bits = add_signs(~0u, spread_signs(decided[0], decided[1]), 0x08040201u);
  return add_signs(bits, spread_signs(decided[2], decided[3]), 0x80402010u);
}
