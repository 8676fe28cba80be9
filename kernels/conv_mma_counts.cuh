// The table of classes (conv_mma_table.cuh), filled by matrix products: the filters times rows of
// bits that are set under the taps inside the image for a class. So a product counts the filter
// bits under 15 classes' taps, and, in its last row, under all.
#pragma once

#include "conv_mma_filters.cuh"
#include "conv_mma_table.cuh"

constexpr int kClassesAtOnce = 15;
constexpr int kColumnsAtOnce = 16;

struct Tap {
  int row;
  int column;

  static __device__ Tap of_chunk(const MmaArguments& a, int chunk, int columns_right) {
    const ChunkWords words = ChunkWords::of(a, chunk);
    return {words.row, words.column + columns_right};
  }

  static __device__ Tap at(const MmaArguments& a, int in_order) {
    const int row = divide_by(in_order, a.by_kernel_columns);
    return {row, in_order - row * static_cast<int>(a.kernel_columns)};
  }
};

// Taps: a rectangle of the kernel.
struct Rectangle {
  Interval down;
  Interval across;

  static __device__ Rectangle all(const MmaArguments& a) {
    return {{0, static_cast<int>(a.kernel_rows)}, {0, static_cast<int>(a.kernel_columns)}};
  }

  // Those inside the image. (None past the last class.)
  static __device__ Rectangle of_class(const MmaArguments& a, int index) {
    const int row = index / static_cast<int>(a.column_classes);
    const int column = index - row * static_cast<int>(a.column_classes);
    if (row >= static_cast<int>(a.row_classes)) return {{0, 0}, {0, 0}};
    return {Interval::of_number(static_cast<int>(a.first_row_class) + row,
                                static_cast<int>(a.kernel_rows)),
            Interval::of_number(static_cast<int>(a.first_column_class) + column,
                                static_cast<int>(a.kernel_columns))};
  }

  __device__ int taps() const { return (down.last - down.first) * (across.last - across.first); }

  // A word of bits that are all set or all clear.
  __device__ u32 word(const Tap& tap) const {
    const bool inside =
        static_cast<u32>(tap.row - down.first) < static_cast<u32>(down.last - down.first) &&
        static_cast<u32>(tap.column - across.first) < static_cast<u32>(across.last - across.first);
    return inside ? ~0u : 0u;
  }
};

// The rows of a product that a lane has: g and g + 8, of classes from `first` on.
struct ClassRows {
  Rectangle low;
  Rectangle high;

  static __device__ ClassRows of_lane(const MmaArguments& a, int first) {
    const int row = lane_index() / 4;
    return {Rectangle::of_class(a, first + row), row + 8 == kClassesAtOnce
                                                     ? Rectangle::all(a)
                                                     : Rectangle::of_class(a, first + row + 8)};
  }
};

using Counts = int[kColumnsAtOnce / 8][4];

__device__ inline void count_step(Counts& counts, const ClassRows& rows, const Tap (&taps)[2],
                                  const u32 (&filters)[4]) {
  u32 words[4];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    words[half * 2] = rows.low.word(taps[half]);
    words[half * 2 + 1] = rows.high.word(taps[half]);
  }
#pragma unroll
  for (int n = 0; n < kColumnsAtOnce / 8; ++n) {
    multiply_bits(counts[n], words, filters[n * 2], filters[n * 2 + 1]);
  }
}

// From shared memory, where all filters are, a step of two chunks at a time.
__device__ inline void count_resident(const MmaArguments& a, const ClassRows& rows, int first_row,
                                      u32 filters, Counts& counts) {
  const int lane = lane_index();
  // A chunk of folded pixels has a word or two of each.
  const int right = a.fold == 1 ? 0 : lane % 4 >> (static_cast<int>(a.group_words) - 1);
  const int row = first_row + lane / 16 * 8 + lane % 8;
  u32 first = filters + row * static_cast<int>(a.filter_pitch) + lane / 8 % 2 * kChunkBytes;
#pragma unroll 1
  for (int stage = 0; stage < static_cast<int>(a.stages); ++stage) {
#pragma unroll 1
    for (int step = 0; step < step_count(a); ++step) {
      u32 words[4];
      load_matrices(words, first + step * 2 * kChunkBytes);
      const Tap taps[2] = {Tap::of_chunk(a, 2 * step, right),
                           Tap::of_chunk(a, 2 * step + 1, right)};
      count_step(counts, rows, taps, words);
    }
    first += static_cast<int>(a.filter_bytes);
  }
}

// From global memory, while the filters are on their way or come in stages: eight words a step,
// those of some steps on their way together.
__device__ inline void count_global(const MmaArguments& a, const Block& block,
                                    const ClassRows& rows, int first_row, Counts& counts) {
  constexpr int kSteps = 4;
  constexpr int kStepWords = 2 * kChunkWords;
  const int group_words = static_cast<int>(a.group_words);
  const int filter_words = static_cast<int>(a.filter_words);
  const u32 last_mask = tail_mask(a.group_channels);
  const u32* filters[2];
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    filters[n] = filter_of_row(a, block, first_row + n * 8 + lane_index() / 4, 0);
  }
#pragma unroll 1
  for (int start = 0; start < filter_words; start += kSteps * kStepWords) {
    const int first = start + lane_index() % 4;
    u32 words[kSteps][4];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int word = first + step * kStepWords + i % 2 * kChunkWords;
        const u32* filter = filters[i / 2];
        words[step][i] = filter != nullptr && word < filter_words ? filter[word] : 0;
      }
    }
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      Tap taps[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int word = first + step * kStepWords + half * kChunkWords;
        const int tap = divide_by(word, a.by_group_words);
        taps[half] = Tap::at(a, tap);
        if (word - tap * group_words != group_words - 1) continue;
#pragma unroll
        for (int n = 0; n < 2; ++n) words[step][n * 2 + half] &= last_mask;
      }
      count_step(counts, rows, taps, words[step]);
    }
  }
}

// By the consumers. `filters`: where all of them are in shared memory, or null.
__device__ inline void fill_table(const MmaArguments& a, const Block& block,
                                  const Channel<OUT>* channels, const u8* filters, int* table) {
  constexpr int kParts = kTileN / kColumnsAtOnce;
  const int classes = static_cast<int>(a.row_classes * a.column_classes);
  const int depth = static_cast<int>(a.group_channels);
  const int all_taps = Rectangle::all(a).taps();
  const int lane = lane_index();
#pragma unroll 1
  for (int task = warp_index(); task / kParts * kClassesAtOnce < classes; task += kConsumers) {
    const int first_class = task / kParts * kClassesAtOnce;
    const int first_row = task % kParts * kColumnsAtOnce;
    const ClassRows rows = ClassRows::of_lane(a, first_class);
    Counts counts = {};
    if (filters != nullptr) {
      count_resident(a, rows, first_row, shared_address(filters), counts);
    } else {
      count_global(a, block, rows, first_row, counts);
    }
    // Of this lane's columns; what all taps count is in the product's last row.
    int of_all_taps[4];
    int of_columns[4];
    Channel<OUT> constants[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      of_columns[i] = channel_of_row(first_row + i / 2 * 8 + lane % 4 * 2 + i % 2);
      constants[i] = channels[of_columns[i]];
      const int set = __shfl_sync(kAllLanes, counts[i / 2][2 + i % 2], 28 + lane % 4);
      of_all_taps[i] = depth * all_taps - 2 * set;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane / 4 + half * 8;
      if (row == kClassesAtOnce || first_class + row >= classes) continue;
      int* of_class = table + (first_class + row) * kTileN;
      const int of_taps = depth * (half == 0 ? rows.low : rows.high).taps();
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int inside = of_taps - 2 * counts[i / 2][half * 2 + i % 2];
        // With pad_value 1 a tap outside adds what it would have subtracted with -1.
        write_entry(of_class, of_columns[i], a.pad_value > 0 ? 2 * inside - of_all_taps[i] : inside,
                    constants[i]);
      }
    }
  }
}
