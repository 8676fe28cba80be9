// The second tensor of a pack: filters of any strides and element type (told apart at run time, so
// that they do not multiply the kernels). A warp packs 32 channels of all taps of a filter.
#pragma once

#include "elements.cuh"
#include "pack.cuh"

constexpr int kTapsAtOnce = 8;  // loads in flight

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

  u32 mine = 0;  // the word of tap `lane`, of every 32
  int row = 0;
  int column = 0;
#pragma unroll 1
  for (int first = 0; first < taps; first += kTapsAtOnce) {
    u32 values[kTapsAtOnce];
#pragma unroll
    for (int i = 0; i < kTapsAtOnce; ++i) {
      // Past the last tap, the first again.
      if (row >= a.filter_rows) row = 0;
      values[i] = element.load(a.filters,
                               start + row * a.filter_stride_row + column * a.filter_stride_column);
      if (++column == columns) {
        column = 0;
        ++row;
      }
    }
#pragma unroll
    for (int i = 0; i < kTapsAtOnce; ++i) {
      const u32 set = __ballot_sync(kAllLanes, exists && element.is_nonnegative(values[i]));
      if ((first + i) % 32 == lane) mine = set;
    }
    const int done = first + kTapsAtOnce;
    if (done % 32 == 0 || done >= taps) {
      const int tap = (done - 1) / 32 * 32 + lane;
      if (tap < taps && tap < done) a.filter_bits[(filter * taps + tap) * words + word] = mine;
    }
  }
}
