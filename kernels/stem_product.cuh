// The sums of a warp: 64 pixels x 64 channels.
//
// A step is 32 products, for which a warp loads 16 words of pixels and 4 times 16 bytes of filters
// (2 KB each: 32 of about 49 cycles that the products take of a multiprocessor), and issues 71
// instructions in about 200 cycles of a scheduler's tensor core. So with few steps it is the
// instructions of the epilogue that bound it, with many the products.
#pragma once

#include "stem_tile.cuh"
// (After the sizes.)
#include "hopper.cuh"
#include "multiply_half.cuh"
#include "tensor_core.cuh"

// Where the pixel lane / 4 of this warp's first row starts in the patch, and what the others are
// further.
__device__ inline u32 first_pixel(u32 patch) {
  const int thread = thread_index();
  const int pixel = thread % 32 / 4;
  const int row = thread / 32 * kWarpRows * STRIDE_ROWS;
  const int element = pixel * kPixelElements;
  const bool moved = kTwoCopies && element % 2 == 1;
  return patch + row * kPitchBytes + 2 * element + (moved ? kCopyBytes - 2 : 0);
}
constexpr int kNextRow = STRIDE_ROWS * kPitchBytes;
constexpr int kNextEight = 8 * 2 * kPixelElements;

// Where this lane finds its operands of a step.
struct Operands {
  u32 pixel;
  u32 table;
  u32 filters;

  // Of a patch and filters at these shared addresses.
  static __device__ Operands at(u32 patch, u32 filters) {
    const int lane = thread_index() % 32;
    return {first_pixel(patch), patch + kTableAt + lane % 4 * 16, filters + lane * 16};
  }

  __device__ void multiply(Sums& sums, int step) const {
    const uint4 where = load_chunk(table + 64 * step);
    u32 pixels[kWarpRows][4];
#pragma unroll
    for (int m = 0; m < kWarpRows; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const u32 from = pixel + (i < 2 ? where.x : where.z) + m * kNextRow + i % 2 * kNextEight;
        pixels[m][i] = load_shared(from) & (i < 2 ? where.y : where.w);
      }
    }
#pragma unroll
    for (int j = 0; j < kTileChannels / 8; j += 2) {
      const uint4 filter = load_chunk(filters + step * kStepBytes + j / 2 * 512);
#pragma unroll
      for (int m = 0; m < kWarpRows; ++m) {
        multiply_half<ELEMENT>(sums.values[m][j], pixels[m], filter.x, filter.y);
        multiply_half<ELEMENT>(sums.values[m][j + 1], pixels[m], filter.z, filter.w);
      }
    }
  }
};

// `sums` are zero. (The first step stands by itself, so that it needs no registers with zeros.)
__device__ inline void multiply(Sums& sums, u32 patch, u32 filters) {
  const Operands operands = Operands::at(patch, filters);
  constexpr int kAhead = kSteps > 1;
  if constexpr (kAhead) operands.multiply(sums, 0);
  int steps = kSteps;
  // A loop of one round would run into the epilogue, for which there are no registers.
  if constexpr (kSteps <= 2) keep(steps);
#pragma unroll 1
  for (int step = kAhead; step < steps; ++step) operands.multiply(sums, step);
}
