// What a block needs all along: where pairs of depth lie in a patch, and the filters in the order
// of the products.
#pragma once

#include "stem_tile.cuh"

// Of lane t of a row, its two pairs of a step: where they lie from a pixel's start on, and which of
// their values count. What fills up a row's last pair belongs to the next pixel, and may be
// infinite.
__device__ inline void write_table(u32* table) {
  for (int i = static_cast<int>(threadIdx.x); i < 8 * kSteps; i += kThreads) {
    const int pair = i / 8 * 8 + i % 2 * 4 + i % 8 / 2;
    const int row = pair / kRowPairs;
    const int in_row = pair % kRowPairs;
    const bool exists = pair < kPairs;
    table[2 * i] = exists ? row * kPitchBytes + 4 * in_row : 0;
    table[2 * i + 1] = !exists ? 0u : 2 * in_row + 1 < kRowDepth ? ~0u : 0xFFFFu;
  }
}

#if PACKED
// Whether a channel's bits are y <= high alone. Its filters and its bias are negated, so that they
// are sum >= -high: what is decided by one comparison is always decided by this one.
__device__ inline bool is_negated(const StemArguments& a, int channel) {
  const float infinity = __uint_as_float(float32::kInfinity);
  return a.low[channel] == -infinity && a.high[channel] < infinity;
}
#else
__device__ inline bool is_negated(const StemArguments&, int) { return false; }
#endif

// Two values of a filter's depth; zeros beyond it.
__device__ inline u32 filter_pair(const StemArguments& a, int channel, int pair) {
  const int row = pair / kRowPairs;
  u32 both = 0;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int in_row = pair % kRowPairs * 2 + i;
    if (channel < a.out_channels && pair < kPairs && in_row < kRowDepth) {
      const u32 value = a.weight[channel * a.weight_stride + row * a.weight_stride_row +
                                 in_row / CHANNELS * a.weight_stride_column +
                                 in_row % CHANNELS * a.weight_stride_channel];
      both |= value << 16 * i;
    }
  }
  return both;
}

// A lane's 16 bytes are its words of two times 8 columns of a step: (first 8 columns; pairs t and
// t + 4), (next 8 columns; the same).
__device__ inline void arrange_filters(const StemArguments& a, const ChannelTiles& channels,
                                       u8* tiles) {
  constexpr int kChunks = kStepBytes / 16;
#pragma unroll 1
  for (int tile = 0; tile < channels.count; ++tile) {
    u32* to = reinterpret_cast<u32*>(tiles + tile * kTileBytes);
    // In loops of little code: what runs once waits for code to come from memory.
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < kSteps * kChunks; i += kThreads) {
      const int lane = i % 32;
      const int step = i / kChunks;
#pragma unroll
      for (int word = 0; word < 4; ++word) {
        const int column = (i % kChunks / 32 * 2 + word / 2) * 8 + lane / 4;
        const int channel = channels.first + tile * kTileChannels + channel_of(column);
        u32 pair = filter_pair(a, channel, step * 8 + word % 2 * 4 + lane % 4);
        if (channel < a.out_channels && is_negated(a, channel)) pair ^= kPairTops;
        to[4 * i + word] = pair;
      }
    }
  }
}
