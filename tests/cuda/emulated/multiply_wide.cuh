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

struct RowTile {
  u32 low;

  static RowTile at(u32 address, int next_chunk) {
    if (address % 16 != 0 || next_chunk % 16 != 0) emulated::fail("misaligned rows");
    if (next_chunk < 0 || next_chunk >= 1 << 18) emulated::fail("rows too far apart");
    return {address >> 4 | static_cast<u32>(next_chunk) >> 4 << 16};
  }
};

// At once, and in one place of the program for the four warps. `row_word` gives a word of one of
// this lane's two rows.
template <int Columns, class RowWord>
inline void multiply_rows(ProductSums<Columns>& sums, RowWord row_word, FilterTile<Columns> b,
                          int accumulate) {
  const unsigned char* filters = emulated::shared_memory + (b.low & 0x3FFFu) * 16;
  const int chunk_bytes = static_cast<int>(b.low >> 16) * 16;
  const int lane = emulated::lane();
  for (int column = 0; column < Columns; column += 8) {
    for (int i = 0; i < 4; ++i) {
      int set = 0;
      for (int word = 0; word < 8; ++word) {
        u32 of_column;
        memcpy(
            &of_column,
            filters + word / 4 * chunk_bytes + (column + lane % 4 * 2 + i % 2) * 16 + word % 4 * 4,
            4);
        set += __popc(row_word(i / 2, word) & of_column);
      }
      int& sum = sums.values[column / 2 + i];
      sum = accumulate ? sum + set : set;
    }
  }
}

template <int Columns>
inline void multiply_async(ProductSums<Columns>& sums, const u32 (&a)[4], FilterTile<Columns> b,
                           int accumulate) {
  emulated::sync_warpgroup();
  memcpy(emulated::fragments[emulated::current], a, sizeof a);
  emulated::sync_warpgroup();
  const int first = emulated::current / 32 * 32 + emulated::lane() / 4 * 4;
  const auto row_word = [&](int half, int word) {
    return emulated::fragments[first + word % 4][word / 4 * 2 + half];
  };
  multiply_rows(sums, row_word, b, accumulate);
}

template <int Columns>
inline void multiply_async(ProductSums<Columns>& sums, RowTile a, FilterTile<Columns> b,
                           int accumulate) {
  emulated::sync_warpgroup();
  const unsigned char* rows = emulated::shared_memory + (a.low & 0x3FFFu) * 16;
  const int chunk_bytes = static_cast<int>(a.low >> 16) * 16;
  const int first = emulated::current % 128 / 32 * 16 + emulated::lane() / 4;
  const auto row_word = [&](int half, int word) {
    u32 of_row;
    memcpy(&of_row,
           rows + word / 4 * chunk_bytes + (first + 8 * half) * 16 + word % 4 * 4, 4);
    return of_row;
  };
  multiply_rows(sums, row_word, b, accumulate);
}
