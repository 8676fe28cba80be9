// What a dot product adds to 4 popc(a & b) - 2 popc(a), per channel and class of pixels.
//
// A pixel's taps inside the image form a rectangle whatever the stride and dilation: an interval of
// tap rows and one of tap columns. Going down the image both ends of the interval only fall, so the
// sum of what is missing at the ends numbers the classes that occur.
#pragma once

#include "conv_mma_tile.cuh"

// Taps of one axis inside the image: [first, last).
struct Interval {
  int first;
  int last;

  static __device__ Interval at(int start, int dilation, int taps, int size) {
    const int first = start < 0 ? (-start + dilation - 1) / dilation : 0;
    const int last = start >= size ? 0 : (size - 1 - start) / dilation + 1;
    const int clamped_first = first < taps ? first : taps;
    const int clamped_last = last < taps ? last : taps;
    return {clamped_first, clamped_last > clamped_first ? clamped_last : clamped_first};
  }

  static __device__ Interval of_row(const MmaArguments& a, int row) {
    return at(row * static_cast<int>(a.stride_rows) - static_cast<int>(a.padding_rows),
              static_cast<int>(a.dilation_rows), static_cast<int>(a.kernel_rows),
              static_cast<int>(a.height));
  }

  static __device__ Interval of_column(const MmaArguments& a, int column) {
    return at(column * static_cast<int>(a.stride_columns) - static_cast<int>(a.padding_columns),
              static_cast<int>(a.dilation_columns), static_cast<int>(a.kernel_columns),
              static_cast<int>(a.width));
  }

  __device__ int number(int taps) const { return 2 * taps - first - last; }
  __device__ bool has(int tap) const { return first <= tap && tap < last; }
};

__device__ inline bool has_classes(const MmaArguments& a) {
  return a.row_classes * a.column_classes > 1;
}

__device__ inline int class_of(const MmaArguments& a, const Place& place) {
  if (!has_classes(a)) return 0;
  const int row = Interval::of_row(a, place.row).number(static_cast<int>(a.kernel_rows)) -
                  static_cast<int>(a.first_row_class);
  const int column =
      Interval::of_column(a, place.column).number(static_cast<int>(a.kernel_columns)) -
      static_cast<int>(a.first_column_class);
  return row * static_cast<int>(a.column_classes) + column;
}

// The intervals of each row class, then of each column class.
__device__ inline void find_intervals(const MmaArguments& a, Interval* rows) {
  Interval* columns = rows + a.row_classes;
  const int classes = static_cast<int>(a.row_classes + a.column_classes);
  for (int i = static_cast<int>(threadIdx.x); i < classes; i += kThreads) {
    rows[i] = {0, 0};  // a class that no pixel has
  }
  __syncthreads();
  // The first pixel of each class writes it.
  for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(a.out_height); i += kThreads) {
    const int taps = static_cast<int>(a.kernel_rows);
    const Interval found = Interval::of_row(a, i);
    const int number = found.number(taps);
    if (i == 0 || number != Interval::of_row(a, i - 1).number(taps)) {
      rows[number - static_cast<int>(a.first_row_class)] = found;
    }
  }
  for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(a.out_width); i += kThreads) {
    const int taps = static_cast<int>(a.kernel_columns);
    const Interval found = Interval::of_column(a, i);
    const int number = found.number(taps);
    if (i == 0 || number != Interval::of_column(a, i - 1).number(taps)) {
      columns[number - static_cast<int>(a.first_column_class)] = found;
    }
  }
}

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

// The table's entry as the epilogue wants it: for floats what to add to a float of 1.5 * 2**23 more
// than the integers (which saves their conversion); for bits what to compare the integers with.
constexpr float kShift = 12582912.0f;
constexpr int kShiftBits = 0x4B400000;

template <class Out>
__device__ int table_entry(int correction, const Channel<Out>&) {
  return __float_as_int(__fsub_rn(__int2float_rn(correction), kShift));
}

template <>
__device__ int table_entry<bits>(int correction, const Channel<bits>& channel) {
  return channel.threshold - correction;
}

// Fills the table [class][kTileN]. `counts` holds a number for each tap and channel, meanwhile.
__device__ inline void build_table(const MmaArguments& a, const Block& block,
                                   const Channel<OUT>* channels, Interval* intervals, int* counts,
                                   int* table) {
  const int columns = static_cast<int>(a.kernel_columns);
  const int taps = static_cast<int>(a.kernel_rows) * columns;
  for (int item = static_cast<int>(threadIdx.x); item < block.channels * taps; item += kThreads) {
    const int channel = item / taps;
    const int tap = item - channel * taps;
    const u32* filter =
        a.weight + (static_cast<i64>(block.first_channel + channel) * taps + tap) * a.group_words;
    counts[tap * kTileN + channel] = count_tap(a, filter);
  }
  if (has_classes(a)) find_intervals(a, intervals);
  __syncthreads();

  const int classes = static_cast<int>(a.row_classes * a.column_classes);
  for (int item = static_cast<int>(threadIdx.x); item < classes * kTileN; item += kThreads) {
    const int channel = item % kTileN;
    const int index = item / kTileN;
    if (channel >= block.channels) continue;
    int all = 0;
    int inside = 0;
    for (int tap = 0; tap < taps; ++tap) {
      const int count = counts[tap * kTileN + channel];
      all += count;
      if (!has_classes(a)) continue;
      const int row = tap / columns;
      const Interval& rows = intervals[index / static_cast<int>(a.column_classes)];
      const Interval& across =
          intervals[static_cast<int>(a.row_classes) + index % static_cast<int>(a.column_classes)];
      if (rows.has(row) && across.has(tap - row * columns)) inside += count;
    }
    // With pad_value 1 a tap outside adds what it would have subtracted with -1.
    const int correction = !has_classes(a) ? all : a.pad_value > 0 ? 2 * inside - all : inside;
    table[item] = table_entry(correction, channels[channel]);
  }
}
