// sum over the taps inside the image of (group_channels - 2 popc(filter at the tap)), for any
// pixel: from a table of 2-D prefix sums over the taps, four look-ups a border pixel. Taps inside
// the image form a rectangle whatever the stride and dilation.
#pragma once

#include "conv_mma_tile.cuh"

struct alignas(COPY_WORDS * 4) FilterWords {
  u32 words[COPY_WORDS];
};

__device__ inline int counted_bits(const ConvArguments& a, const u32* filter) {
  const int group_words = static_cast<int>(a.group_words);
  int set = 0;
#pragma unroll 4
  for (int word = 0; word < group_words; word += COPY_WORDS) {
    FilterWords loaded = *reinterpret_cast<const FilterWords*>(filter + word);
#if MASKED
    if (word == group_words - 1) loaded.words[0] &= tail_mask(a.group_channels);
#endif
#pragma unroll
    for (int i = 0; i < COPY_WORDS; ++i) set += __popc(loaded.words[i]);
  }
  return static_cast<int>(a.group_channels) - 2 * set;
}

// Fills shared.counted, and with a border the table [kernel_rows + 1][kernel_columns + 1][TILE_N].
__device__ inline void build_table(const ConvArguments& a, const Block& block, Shared& shared,
                                   int* table) {
  const int n = threadIdx.x;
  const int rows = static_cast<int>(a.kernel_rows);
  const int columns = static_cast<int>(a.kernel_columns);
  const int taps = rows * columns;
  const int pitch = (columns + 1) * TILE_N;
  if (n < TILE_N) shared.counted[n] = 0;
  __syncthreads();

  for (int item = threadIdx.x; item < block.channels * taps; item += kThreads) {
    const int channel = item / taps;
    const int tap = item % taps;
    const u32* filter =
        a.weight + (static_cast<i64>(block.first_channel + channel) * taps + tap) * a.group_words;
    const int counted = counted_bits(a, filter);
    atomicAdd(&shared.counted[channel], counted);
    if (a.has_border) {
      table[(tap / columns + 1) * pitch + (tap % columns + 1) * TILE_N + channel] = counted;
    }
  }
  __syncthreads();

  if (a.has_border && n < block.channels) {
    for (int j = 0; j <= columns; ++j) table[j * TILE_N + n] = 0;
    for (int i = 1; i <= rows; ++i) {
      int row_sum = 0;
      table[i * pitch + n] = 0;
      for (int j = 1; j <= columns; ++j) {
        int* entry = table + i * pitch + j * TILE_N + n;
        row_sum += *entry;
        *entry = row_sum + *(entry - pitch);
      }
    }
  }
  __syncthreads();
}
