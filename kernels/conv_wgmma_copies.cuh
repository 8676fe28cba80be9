// Filters of a block brought to shared memory as they lie in global memory, in one copy: the
// consumers arrange them from there. Loads of their own would wait for the second-level cache in
// every round.
#pragma once

#include "conv_wgmma_channels.cuh"

// By one thread. `filter_words` are those of a filter; what the copy leaves over is less than 16
// bytes.
__device__ inline void copy_filters(const ConvArguments& a, const Channels& channels,
                                    int filter_words, u32 to, u32 barrier) {
  const u32* from = a.weight + static_cast<i64>(channels.first) * filter_words;
  const int words = channels.count * filter_words;
  const int whole = words / kChunkWords * kChunkWords;
  expect_bytes(barrier, whole * 4);
  if (whole > 0) copy_row(to, from, whole * 4, barrier);
  for (int word = whole; word < words; ++word) store_shared(to + 4 * word, from[word]);
  arrive(barrier);
}
