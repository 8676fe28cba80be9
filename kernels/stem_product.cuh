// The sums of a warp's pass: rows of 16 pixels x 64 channels.
//
// Depth goes by in steps of 16 values: of each row a warp loads 4 words a lane (and masks them,
// where one belongs to another pixel), and multiplies them with the step's filters.
#pragma once

#include "stem_tile.cuh"
// (After the sizes.)
#include "hopper.cuh"
#if WIDE
#include "multiply_wide_half.cuh"
#else
#include "multiply_half.cuh"
#endif

constexpr int kNextRow = STRIDE_ROWS * kPitchBytes;
constexpr int kNextEight = 8 * 2 * kPixelElements;

// Where this lane finds its pixels' words of a step: from the pixel lane / 4 of its warp's first
// row on, by the table.
struct Places {
  u32 pixel;
  u32 table;

  static __device__ Places of(u32 patch) {
    const u32 lane = lane_index();
    const u32 element = lane / 4 * kPixelElements;
    const bool moved = kTwoCopies && element % 2 == 1;
    const u32 row = warp_index() * kWarpRows;
    return {patch + row * kNextRow + 2 * element + (moved ? kCopyBytes - 2 : 0),
            patch + kTableAt + lane % 4 * 8};
  }

  __device__ Places of_pass(int pass) const { return {pixel + pass * kPassRows * kNextRow, table}; }
};

// This lane's words of a step, of every row.
struct Fragments {
  u32 words[kPassRows][4];

  template <bool Masked>
  __device__ void load(const Places& places, int step) {
    u32 offsets[2];
    u32 masks[2];
    const u32 entry = places.table + kTableStepBytes * step;
    load_pair(offsets[0], offsets[1], entry);
    if (Masked) load_pair(masks[0], masks[1], entry + kTableStepBytes / 2);
#pragma unroll
    for (int m = 0; m < kPassRows; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        words[m][i] =
            load_shared(places.pixel + offsets[i / 2] + m * kNextRow + i % 2 * kNextEight);
      }
    }
    if (!Masked) return;
#pragma unroll
    for (int m = 0; m < kPassRows; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) words[m][i] &= masks[i / 2];
    }
  }

  // (A step's number is known to the compiler.)
  __device__ void load(const Places& places, int step) {
    if (step < kFullSteps) {
      load<false>(places, step);
    } else {
      load<true>(places, step);
    }
  }
};

#if WIDE

// Products are of the four warps and asynchronous, with their filters in shared memory: the words
// of the next step are loaded meanwhile. Those of one or two steps are loaded once for all
// channels.
struct Products {
  static constexpr bool kOnce = kSteps <= 2;

  Places places;
  Fragments fragments[2];  // of steps in turn

  static __device__ Products of(const Places& places) {
    Products products;
    products.places = places;
    if (kOnce) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        products.fragments[step].load(places, step);
      }
    }
    return products;
  }

  __device__ void multiply(Sums& sums, u32 filters) {
    FilterTile<kTileChannels> tile = FilterTile<kTileChannels>::at(filters);
    if (!kOnce) fragments[0].load(places, 0);
    begin_products();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int m = 0; m < kPassRows; ++m) {
        multiply_async<ELEMENT>(sums.values[m], fragments[step % 2].words[m], tile, step > 0);
      }
      commit_products();
      tile.low += FilterTile<kTileChannels>::kStep;
      if (!kOnce && step + 1 < kSteps) {
        wait_products<1>();  // those that read the words before
        fragments[(step + 1) % 2].load(places, step + 1);
        begin_products();
      }
    }
    wait_products(sums);
  }
};

#else

struct Products {
  Places places;

  static __device__ Products of(const Places& places) { return {places}; }

  template <bool Masked>
  __device__ void multiply_step(Sums& sums, u32 filters, int step) const {
    Fragments fragments;
    fragments.load<Masked>(places, step);
#pragma unroll
    for (int j = 0; j < kTileChannels / 8; j += 2) {
      const uint4 filter = load_chunk(filters + step * kStepBytes + j / 2 * 512);
#pragma unroll
      for (int m = 0; m < kPassRows; ++m) {
        multiply_half<ELEMENT>(sums.values[m][j], fragments.words[m], filter.x, filter.y);
        multiply_half<ELEMENT>(sums.values[m][j + 1], fragments.words[m], filter.z, filter.w);
      }
    }
  }

  __device__ void multiply(Sums& sums, u32 filters) const {
    sums = {};
    filters += lane_index() * 16;
#pragma unroll 1
    for (int step = 0; step < kFullSteps; ++step) multiply_step<false>(sums, filters, step);
#pragma unroll 1
    for (int step = kFullSteps; step < kSteps; ++step) multiply_step<true>(sums, filters, step);
  }
};

#endif
