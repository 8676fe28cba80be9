// The matrix product of a stage: fragments from shared memory, the next step's on their way while
// this step's are multiplied.
#pragma once

#include "conv_mma_filters.cuh"
#include "conv_mma_table.cuh"

using Rows = u32[kProductsM][4];
using Pair = u32[4];  // 16 columns

constexpr int kPairs = kProductsN / 2;

struct Fragments {
  Rows a;
  Pair b[kPairs];
};

// Where this lane's matrix loads start.
struct Operands {
  u32 rows[kProductsM];  // entries in the patch, in bytes
  u32 chunk;             // of the chunks' descriptions: this lane's half of the warp's first step
  u32 filters;           // from the start of a stage's filters

  static __device__ u32 filter_lane(const MmaArguments& a, const Warp& warp) {
    const int lane = lane_index();
    const int row = warp.n * WARP_N + lane / 16 * 8 + lane % 8;
    return row * static_cast<int>(a.filter_pitch) + (warp.k * 2 + lane / 8 % 2) * kChunkBytes;
  }

  static __device__ u32 chunk_lane(const Warp& warp, u32 chunks) {
    const int half = lane_index() / 16;
    return chunks + (warp.k * 2 + half) * static_cast<int>(sizeof(Chunk));
  }

  static __device__ Operands of(const MmaArguments& a, const Warp& warp, u8* shared) {
    Operands operands;
    operands.chunk = chunk_lane(warp, shared_address(at<Chunk>(shared, a.chunks_at)));
    operands.filters = filter_lane(a, warp);
    return operands;
  }

  __device__ void enter(const Spot* spots, const Warp& warp) {
    const int first = warp.m * WARP_M + static_cast<int>(threadIdx.x) % 16;
#pragma unroll
    for (int i = 0; i < kProductsM; ++i) rows[i] = spots[first + i * 16].entry * kChunkBytes;
  }
};

// The steps of a stage that this warp takes, in turn. Where a step's chunk lies is read while the
// step before is loaded (and once more after the last, for nothing).
struct Steps {
  const Operands& operands;
  u32 patch;
  u32 chunk;
  u32 filters;
  u32 offset;
  int pair_bytes;

  static __device__ Steps at(const MmaArguments& a, const Operands& operands, u32 patch,
                             u32 filters) {
    return {operands,
            patch,
            operands.chunk,
            filters + operands.filters,
            load_shared(operands.chunk),
            static_cast<int>(a.pair_bytes)};
  }

  __device__ void load_row(Rows& a, int i) const {
    load_matrices(a[i], operands.rows[i] + (patch + offset));
  }

  __device__ void load_rows(Rows& a) const {
#pragma unroll
    for (int i = 0; i < kProductsM; ++i) load_row(a, i);
  }

  __device__ void load_columns(Pair& b, int pair) const {
    load_matrices(b, filters + pair * pair_bytes);
  }

  __device__ void load(Fragments& fragments) {
    load_rows(fragments.a);
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) load_columns(fragments.b[pair], pair);
    advance();
  }

  __device__ void advance() {
    advance_rows();
    advance_columns();
  }

  __device__ void advance_rows() {
    chunk += 2 * WARPS_K * static_cast<int>(sizeof(Chunk));
    offset = load_shared(chunk);
  }

  __device__ void advance_columns() { filters += 2 * WARPS_K * kChunkBytes; }
};

// One row and 16 columns.
__device__ inline void multiply_pair(Sums& sums, int i, int pair, const Rows& a, const Pair& b) {
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    multiply_bits(sums[i][pair * 2 + n], a[i], b[n * 2], b[n * 2 + 1]);
  }
}

__device__ inline void multiply(Sums& sums, const Fragments& fragments) {
#pragma unroll
  for (int i = 0; i < kProductsM; ++i) {
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      multiply_pair(sums, i, pair, fragments.a, fragments.b[pair]);
    }
  }
}

// Of a warp that multiplies without a pause: a step's rows, and two of its pairs of columns in
// turn. What is used up makes room for what comes next.
struct Turns {
  Rows a;
  Pair b[2];

  __device__ void load(Steps& walk) {
    walk.load_rows(a);
    walk.load_columns(b[0], 0);
    walk.advance_rows();
  }

  template <bool Last>
  __device__ void multiply(Sums& sums, Steps& walk) {
    static_assert(kPairs % 2 == 0);
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      const bool ends = pair + 1 == kPairs;
      if (ends) walk.advance_columns();
      if (!ends || !Last) walk.load_columns(b[(pair + 1) % 2], ends ? 0 : pair + 1);
#pragma unroll
      for (int i = 0; i < kProductsM; ++i) {
        multiply_pair(sums, i, pair, a, b[pair % 2]);
        if (ends && !Last) walk.load_row(a, i);
      }
    }
    walk.advance_rows();
  }
};

// Whether there are registers for the next step's fragments; else other warps multiply meanwhile.
constexpr bool kLoadsAhead = WARP_M * WARP_N <= 32 * 32;

// Warps that share a part of the tile take every WARPS_K-th step.
__device__ inline void multiply_stage(const MmaArguments& a, Sums& sums, const Operands& operands,
                                      const Warp& warp, u32 patch, u32 filters) {
  int left = (step_count(a) - warp.k + WARPS_K - 1) / WARPS_K;
  if (left <= 0) return;
  Steps walk = Steps::at(a, operands, patch, filters);
  if constexpr (PRODUCERS > 0) {
    Turns turns;
    turns.load(walk);
#pragma unroll 1
    for (; left > 1; --left) turns.multiply<false>(sums, walk);
    turns.multiply<true>(sums, walk);
    return;
  }
  Fragments even;
  if constexpr (kLoadsAhead) {
    Fragments odd;
    walk.load(even);
#pragma unroll 1
    while (true) {
      if (left > 1) walk.load(odd);
      multiply(sums, even);
      if (left == 1) return;
      if (left > 2) walk.load(even);
      multiply(sums, odd);
      left -= 2;
      if (left <= 0) return;
    }
  } else {
#pragma unroll 1
    for (; left > 0; --left) {
      walk.load(even);
      multiply(sums, even);
    }
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
      mine.sums[i][n][lane_index()] =
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
        const int4 more = other.sums[i][n][lane_index()];
        sums[i][n][0] += more.x;
        sums[i][n][1] += more.y;
        sums[i][n][2] += more.z;
        sums[i][n][3] += more.w;
      }
    }
  }
}
