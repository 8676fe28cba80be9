// What the kernels that measure 1-bit matrix products have in common (binop/bench/peaks.py): they
// multiply what stays in registers or shared memory, and do nothing else.
#pragma once

#include "types.cuh"

struct PeakArguments {
  const u32* words;  // both operands, the same for every warp
  int* out;          // of every thread, the sum of its sums: shows that the products were made
  i64 rounds;
};

constexpr int kThreads = 256;

template <int Count>
__device__ inline void store_total(const PeakArguments& p, const int (&sums)[Count]) {
  int total = 0;
#pragma unroll
  for (int i = 0; i < Count; ++i) total += sums[i];
  p.out[static_cast<i64>(blockIdx.x) * kThreads + threadIdx.x] = total;
}
