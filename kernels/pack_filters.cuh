// The second tensor of a pack: filters of any strides and element type (told apart at run time, so
// that they do not multiply the kernels). A warp packs 32 channels of all taps of a filter.
#pragma once

#include "elements.cuh"
#include "pack.cuh"

constexpr int kTapsAtOnce = 9;  // loads in flight: a 3x3 kernel's

__device__ inline void pack_filters(const PackArguments& a, i64 block) {
  const int lane = threadIdx.x % 32;
  const int words = static_cast<int>(a.filter_channels + kWordBits - 1) / kWordBits;
  const int item = static_cast<int>(block) * (kThreads / 32) + static_cast<int>(threadIdx.x) / 32;
  const i64 filter = divide_by(item, a.by_filter_words);
  if (filter >= a.filter_count) return;
  const int word = static_cast<int>(item - filter * words);
  const int channel = word * kWordBits + lane;
  const bool exists = channel < a.filter_channels;
  const int columns = static_cast<int>(a.filter_columns);
  const int taps = static_cast<int>(a.filter_rows) * columns;
  const i64 start = filter * a.filter_stride + (exists ? channel : 0) * a.filter_stride_channel;
  const auto element =
      ElementType::of(a.filter_element_bytes, a.filter_infinity, a.filter_minus_zero);

  int row = 0;
  int column = 0;
#pragma unroll 1
  for (int first = 0; first < taps; first += kTapsAtOnce) {
    u32 values[kTapsAtOnce];
#pragma unroll
    for (int i = 0; i < kTapsAtOnce; ++i) {
      if (first + i >= taps) break;
      values[i] = element.load(a.filters,
                               start + row * a.filter_stride_row + column * a.filter_stride_column);
      if (++column == columns) {
        column = 0;
        ++row;
      }
    }
    u32 mine = 0;  // the word of tap first + lane
#pragma unroll
    for (int i = 0; i < kTapsAtOnce; ++i) {
      if (first + i >= taps) break;
      const u32 set = __ballot_sync(kAllLanes, exists && element.is_nonnegative(values[i]));
      if (i == lane) mine = set;
    }
    const int tap = first + lane;
    if (lane < kTapsAtOnce && tap < taps) {
      a.filter_bits[(filter * taps + tap) * words + word] = mine;
    }
  }
}
