// What a dot product adds to 4 popc(a & b) - 2 popc(a), per channel and class of pixels.
//
// A pixel's taps inside the image form a rectangle whatever the stride and dilation: an interval of
// tap rows and one of tap columns. Going down the image both ends of the interval only fall, and
// the plan sees to it that no pixel misses taps at both ends: so the sum of the ends is the
// interval's number, and the number tells the interval.
#pragma once

#include "bit_pairs.cuh"
#include "conv_mma_tile.cuh"

// Taps of one axis inside the image: [first, last).
struct Interval {
  int first;
  int last;

  // `start` is the input's row (or column) under the first tap.
  static __device__ int number(int start, int dilation, i64 by_dilation, int taps, int size) {
    const int first = taps_before(-start, dilation, by_dilation, taps);
    const int last = taps_before(size - start, dilation, by_dilation, taps);
    return 2 * taps - first - (last > first ? last : first);
  }

  // Taps less than a distance from the first.
  static __device__ int taps_before(int distance, int dilation, i64 by_dilation, int taps) {
    const int count = divide_by(distance > 0 ? distance + dilation - 1 : 0, by_dilation);
    return count < taps ? count : taps;
  }

  static __device__ Interval of_number(int number, int taps) {
    return number < taps ? Interval{taps - number, taps} : Interval{0, 2 * taps - number};
  }
};

__device__ inline int class_of(const MmaArguments& a, const Place& place) {
  if (a.row_classes * a.column_classes == 1) return 0;
  const int row = Interval::number(
      place.row * static_cast<int>(a.stride_rows) - static_cast<int>(a.padding_rows),
      static_cast<int>(a.dilation_rows), a.by_dilation_rows, static_cast<int>(a.kernel_rows),
      static_cast<int>(a.height));
  const int column = Interval::number(
      place.column * static_cast<int>(a.stride_columns) - static_cast<int>(a.padding_columns),
      static_cast<int>(a.dilation_columns), a.by_dilation_columns,
      static_cast<int>(a.kernel_columns), static_cast<int>(a.width));
  return (row - static_cast<int>(a.first_row_class)) * static_cast<int>(a.column_classes) + column -
         static_cast<int>(a.first_column_class);
}

// What is to be known of each row of a tile.
struct Spot {
  int entry;  // in the patch, under the first tap
  int table;  // first entry of the pixel's class
};

// (Threads that have an entry of the patch more than others, the first, get no more rows.)
__device__ inline void describe_pixels(const MmaArguments& a, const Tile& tile, Spot* spots) {
#pragma unroll 1
  for (int row = copier_index() ^ kCopiers / 2; row < kTileM; row += kCopiers) {
    const Place place = tile.place(a, row);
    spots[row] = {tile.entry(a, row, place), class_of(a, place) * kTileN};
  }
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

// Of PAIRS, a class has its 16-bit halves for even popc(a) and, kOddAt bytes further, for odd.
// Where a lane has 16 channels, those for odd are exchanged by eights, so that lanes with even and
// odd pixels read from different banks.
constexpr int kClassBytes = kTileN * 4;
constexpr int kOddSwap = WARP_N == 64 ? kLaneChannels : 0;  // of a channel's number
constexpr int kOddAt = kTileN * 2 + kOddSwap * 2;

// Writes the entry of a class and a channel of the tile.
__device__ inline void write_entry(int* of_class, int channel, int correction,
                                   const Channel<OUT>& constants) {
#if PAIRS
  auto* halves = reinterpret_cast<u16*>(of_class);
  halves[channel] = static_cast<u16>(table_half(correction, constants.threshold, 0));
  halves[kTileN + (channel ^ kOddSwap)] =
      static_cast<u16>(table_half(correction, constants.threshold, 1));
#else
  of_class[channel] = table_entry(correction, constants);
#endif
}
