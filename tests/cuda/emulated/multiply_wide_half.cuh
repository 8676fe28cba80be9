// Stands in for kernels/multiply_wide_half.cuh, as multiply_half.cuh for its own.
#pragma once

#include "multiply_wide.cuh"

// At once, and in one place of the program for the four warps.
template <class Element>
inline void multiply_async(float (&sums)[8][4], const u32 (&a)[4], FilterTile<64> b,
                           int accumulate) {
  emulated::sync_warpgroup();
  memcpy(emulated::fragments[emulated::current], a, sizeof a);
  emulated::sync_warpgroup();
  const unsigned char* filters = emulated::shared_memory + (b.low & 0x3FFFu) * 16;
  const int chunk_bytes = static_cast<int>(b.low >> 16) * 16;
  const int warp = emulated::current / 32 * 32;
  const int lane = emulated::lane();
  const auto half = [](u32 pair, int i) {
    return Element::to_float(static_cast<typename Element::Bits>(pair >> 16 * i));
  };
  for (int column = 0; column < 64; column += 8) {
    for (int i = 0; i < 4; ++i) {
      float& sum = sums[column / 8][i];
      if (!accumulate) sum = 0.0f;
      for (int depth = 0; depth < 16; ++depth) {
        const int word = depth / 2;
        const u32 of_row =
            emulated::fragments[warp + lane / 4 * 4 + word % 4][word / 4 * 2 + i / 2];
        u32 of_column;
        memcpy(
            &of_column,
            filters + word / 4 * chunk_bytes + (column + lane % 4 * 2 + i % 2) * 16 + word % 4 * 4,
            4);
        sum += half(of_row, depth % 2) * half(of_column, depth % 2);
      }
    }
  }
}
