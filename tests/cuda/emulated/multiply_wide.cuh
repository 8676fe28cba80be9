// Stands in for kernels/multiply_wide.cuh.
#pragma once

#include "hopper.cuh"

template <int Columns>
struct FilterTile {
  static constexpr u32 kStep = 2 * Columns;

  u32 low;

  static FilterTile at(u32 address) {
    if (address % 128 != 0) emulated::fail("misaligned filters");
    return {(address >> 4) | Columns << 16};
  }
};

template <int Columns>
struct ProductSums {
  int values[Columns / 2];
};

// At once, and in one place of the program for the four warps.
template <int Columns>
inline void multiply_async(ProductSums<Columns>& sums, const u32 (&a)[4], FilterTile<Columns> b,
                           int accumulate) {
  emulated::sync_warpgroup();
  memcpy(emulated::fragments[emulated::current], a, sizeof a);
  emulated::sync_warpgroup();
  const unsigned char* filters = emulated::shared_memory + (b.low & 0x3FFFu) * 16;
  const int chunk_bytes = static_cast<int>(b.low >> 16) * 16;
  const int warp = emulated::current / 32 * 32;
  const int lane = emulated::lane();
  for (int column = 0; column < Columns; column += 8) {
    for (int i = 0; i < 4; ++i) {
      int set = 0;
      for (int word = 0; word < 8; ++word) {
        const u32* of_row = emulated::fragments[warp + lane / 4 * 4 + word % 4];
        u32 of_column;
        memcpy(
            &of_column,
            filters + word / 4 * chunk_bytes + (column + lane % 4 * 2 + i % 2) * 16 + word % 4 * 4,
            4);
        set += __popc(of_row[word / 4 * 2 + i / 2] & of_column);
      }
      int& sum = sums.values[column / 2 + i];
      sum = accumulate ? sum + set : set;
    }
  }
}
