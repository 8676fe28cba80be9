// What is counted of the filters, for the table of classes (conv_mma_table.cuh): of each channel
// and tap group_channels - 2 popc, [kernel_rows + 1][kernel_columns + 1][kTileN], a row and a
// column of taps ahead of the first left free.
#pragma once

#include "conv_mma_filters.cuh"

// group_channels - 2 popc(filter at one tap).
__device__ inline int count_tap(const MmaArguments& a, const u32* filter) {
  const int group_words = static_cast<int>(a.group_words);
  int set = 0;
  if (a.copy_words == 4) {
#pragma unroll 4
    for (int word = 0; word < group_words - 1; word += 4) {
      uint4 four = *reinterpret_cast<const uint4*>(filter + word);
      if (word + 4 == group_words) four.w &= tail_mask(a.group_channels);
      set += __popc(four.x) + __popc(four.y) + __popc(four.z) + __popc(four.w);
    }
  } else {
#pragma unroll 4
    for (int word = 0; word < group_words - 1; ++word) set += __popc(filter[word]);
    set += __popc(filter[group_words - 1] & tail_mask(a.group_channels));
  }
  return static_cast<int>(a.group_channels) - 2 * set;
}

// From global memory, while the filters are on their way or come in stages.
__device__ inline void count_taps(const MmaArguments& a, const Block& block, int* sums) {
  const int columns = static_cast<int>(a.kernel_columns);
  const int taps = static_cast<int>(a.kernel_rows) * columns;
#pragma unroll 1
  for (int item = thread_index(); item < block.channels * taps; item += kConsumerThreads) {
    const int channel = divide_by(item, a.by_taps);
    const int tap = item - channel * taps;
    const int row = divide_by(tap, a.by_kernel_columns);
    const u32* filter =
        a.weight + (static_cast<i64>(block.first_channel + channel) * taps + tap) * a.group_words;
    sums[((row + 1) * (columns + 1) + tap - row * columns + 1) * kTileN + channel] =
        count_tap(a, filter);
  }
  sync_consumers();
}

// From shared memory, where all filters are: neighbouring threads have neighbouring rows of a
// chunk.
__device__ inline void count_resident_taps(const MmaArguments& a, const u8* filters, int* sums) {
  const int columns = static_cast<int>(a.kernel_columns);
  const int planes = static_cast<int>(a.stage_planes);
  const int fold = static_cast<int>(a.fold);
  const int group_words = static_cast<int>(a.group_words);
  const int items = static_cast<int>(a.kernel_rows) * columns * kTileN;
#pragma unroll 1
  for (int item = thread_index(); item < items; item += kConsumerThreads) {
    const int tap = item / kTileN;
    const int row = item % kTileN;
    const int tap_row = divide_by(tap, a.by_kernel_columns);
    const int tap_column = tap - tap_row * columns;
    int set = 0;
    if (fold == 1) {
      const u8* chunk = filters + (tap * planes * kTileN + row) * kChunkBytes;
#pragma unroll 1
      for (int stage = 0; stage < static_cast<int>(a.stages); ++stage) {
#pragma unroll 1
        for (int plane = 0; plane < planes; ++plane) {
          const uint4 words =
              *reinterpret_cast<const uint4*>(chunk + plane * (kTileN * kChunkBytes));
          set += __popc(words.x) + __popc(words.y) + __popc(words.z) + __popc(words.w);
        }
        chunk += static_cast<int>(a.filter_bytes);
      }
    } else {
      // (One stage of one plane.)
      const int in_row = tap_column / fold;
      const int chunk = tap_row * static_cast<int>(a.folds) + in_row;
      const u32* words =
          reinterpret_cast<const u32*>(filters + (chunk * kTileN + row) * kChunkBytes) +
          (tap_column - in_row * fold) * group_words;
      for (int word = 0; word < group_words; ++word) set += __popc(words[word]);
    }
    sums[((tap_row + 1) * (columns + 1) + tap_column + 1) * kTileN + channel_of_row(row)] =
        static_cast<int>(a.group_channels) - 2 * set;
  }
  sync_consumers();
}
