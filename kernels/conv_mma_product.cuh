// The matrix product of a stage: fragments from shared memory, the next step's on their way while
// this step's are multiplied.
#pragma once

#include "conv_mma_filters.cuh"
#include "conv_mma_table.cuh"

struct Fragments {
  u32 a[kProductsM][4];
  u32 b[kProductsN / 2][4];
};

// Where this lane's matrix loads start.
struct Operands {
  u32 rows[kProductsM];  // entries in the patch, in bytes
  u32 chunk;             // of the chunks' descriptions: this lane's half of the first step
  u32 filters;           // from the start of a stage's filters

  __device__ void load(Fragments& fragments, u32 patch, u32 filters_at, int step) const {
    const u32 offset = patch + load_shared(chunk + step * 2 * static_cast<int>(sizeof(Chunk)));
#pragma unroll
    for (int i = 0; i < kProductsM; ++i) load_matrices(fragments.a[i], rows[i] + offset);
    const u32 from = filters_at + filters + step * 2 * kTileN * kChunkBytes;
#pragma unroll
    for (int n = 0; n < kProductsN / 2; ++n) {
      load_matrices(fragments.b[n], from + n * 16 * kChunkBytes);
    }
  }

  static __device__ u32 filter_lane(const Warp& warp) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int row = warp.n * WARP_N + lane / 16 * 8 + lane % 8;
    return (lane / 8 % 2 * kTileN + row) * kChunkBytes;
  }

  static __device__ u32 chunk_lane(u32 chunks) {
    return chunks + static_cast<int>(threadIdx.x) % 32 / 16 * static_cast<int>(sizeof(Chunk));
  }

  __device__ void enter(const Spot* spots, const Warp& warp) {
    const int first = warp.m * WARP_M + static_cast<int>(threadIdx.x) % 16;
#pragma unroll
    for (int i = 0; i < kProductsM; ++i) rows[i] = spots[first + i * 16].entry * kChunkBytes;
  }
};

__device__ inline void multiply(Sums& sums, const Fragments& fragments) {
#pragma unroll
  for (int i = 0; i < kProductsM; ++i) {
#pragma unroll
    for (int n = 0; n < kProductsN; ++n) {
      multiply_bits(sums[i][n], fragments.a[i], fragments.b[n / 2][n % 2 * 2],
                    fragments.b[n / 2][n % 2 * 2 + 1]);
    }
  }
}

// Warps that share a part of the tile take every WARPS_K-th step.
__device__ inline void multiply_stage(Sums& sums, const Operands& operands, const Warp& warp,
                                      u32 patch, u32 filters, int steps) {
  Fragments even;
  Fragments odd;
  int step = warp.k;
  if (step >= steps) return;
  operands.load(even, patch, filters, step);
#pragma unroll 1
  while (true) {
    const bool has_odd = step + WARPS_K < steps;
    if (has_odd) operands.load(odd, patch, filters, step + WARPS_K);
    multiply(sums, even);
    step += 2 * WARPS_K;
    if (!has_odd) return;
    if (step < steps) operands.load(even, patch, filters, step);
    multiply(sums, odd);
    if (step >= steps) return;
  }
}

__device__ inline void clear(Sums& sums) {
#pragma unroll
  for (int i = 0; i < kProductsM; ++i) {
#pragma unroll
    for (int n = 0; n < kProductsN; ++n) {
#pragma unroll
      for (int c = 0; c < 4; ++c) sums[i][n][c] = 0;
    }
  }
}

// Adds the sums of the warps that share a part of the tile; the first of them holds the result.
struct Partials {
  int4 sums[kProductsM][kProductsN][32];
};

__device__ inline void hand_over(const Sums& sums, const Warp& warp, Partials* partials) {
  if (warp.k == 0) return;
  Partials& mine = partials[((warp.k - 1) * WARPS_M + warp.m) * WARPS_N + warp.n];
#pragma unroll
  for (int i = 0; i < kProductsM; ++i) {
#pragma unroll
    for (int n = 0; n < kProductsN; ++n) {
      mine.sums[i][n][threadIdx.x % 32] =
          make_int4(sums[i][n][0], sums[i][n][1], sums[i][n][2], sums[i][n][3]);
    }
  }
}

__device__ inline void take_over(Sums& sums, const Warp& warp, const Partials* partials) {
#pragma unroll
  for (int k = 1; k < WARPS_K; ++k) {
    const Partials& other = partials[((k - 1) * WARPS_M + warp.m) * WARPS_N + warp.n];
#pragma unroll
    for (int i = 0; i < kProductsM; ++i) {
#pragma unroll
      for (int n = 0; n < kProductsN; ++n) {
        const int4 more = other.sums[i][n][threadIdx.x % 32];
        sums[i][n][0] += more.x;
        sums[i][n][1] += more.y;
        sums[i][n][2] += more.z;
        sums[i][n][3] += more.w;
      }
    }
  }
}
