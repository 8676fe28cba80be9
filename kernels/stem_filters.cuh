// What a block needs all along: where pairs of depth lie in a patch, and the filters in the order
// of the products.
#pragma once

#include "stem_tile.cuh"

// Of lane t of a row, its two pairs of a step: where they lie from a pixel's start on, and behind
// those of all lanes which of their values count. What comes after a row's last value belongs to
// the next pixel, and may be infinite.
__device__ inline void write_table(u32* table) {
  for (int i = static_cast<int>(threadIdx.x); i < 8 * kSteps; i += kThreads) {
    const DepthPair pair = DepthPair::at(i / 8 * 8 + i % 2 * 4 + i % 8 / 2);
    u32* step = table + i / 8 * (kTableStepBytes / 4);
    step[i % 8] = pair.row * kPitchBytes + 2 * pair.first;
    step[8 + i % 8] = pair.values == 2 ? ~0u : pair.values == 1 ? 0xFFFFu : 0u;
  }
}

// A word of a channel tile's filters, by its place there.
struct FilterWord {
  static constexpr int kCount = kFilterBytes / 4;
  static constexpr int kAtOnce = 4;  // whose loads are in flight together

  int column;  // of the products
  int pair;    // of depth

  static __device__ FilterWord at(int place) {
    constexpr int kStepWords = kStepBytes / 4;
    const int step = place / kStepWords;
    const int in_step = place % kStepWords;
#if WIDE
    // As in multiply_wide.cuh: four pairs of all columns, and four more.
    constexpr int kChunkWords = 4 * kTileChannels;
    return {in_step % kChunkWords / 4, step * 8 + in_step / kChunkWords * 4 + in_step % 4};
#else
    // A lane's 16 bytes are its words of two times 8 columns: (first 8 columns; pairs t and t + 4),
    // (next 8 columns; the same).
    const int lane = in_step / 4 % 32;
    const int word = in_step % 4;
    return {(in_step / 128 * 2 + word / 2) * 8 + lane / 4, step * 8 + word % 2 * 4 + lane % 4};
#endif
  }

  __device__ int tile_channel() const { return channel_of(column); }

  // Value i of the pair; 0 where there is none.
  __device__ u32 load(const StemArguments& a, int first_channel, int i) const {
    const int channel = first_channel + tile_channel();
    const DepthPair depth = DepthPair::at(pair);
    const int in_row = depth.first + i;
    const u16* from = a.weight + channel * a.weight_stride + depth.row * a.weight_stride_row +
                      in_row / CHANNELS * a.weight_stride_column +
                      in_row % CHANNELS * a.weight_stride_channel;
    return load_if(channel < a.out_channels && i < depth.values, from);
  }
};

// After the constants, which say what is negated.
__device__ inline void arrange_filters(const StemArguments& a, const ChannelTiles& channels,
                                       u8* tiles) {
  constexpr int kStride = kThreads * FilterWord::kAtOnce;
  static_assert(FilterWord::kCount % kStride == 0);
#pragma unroll 1
  for (int tile = 0; tile < channels.count; ++tile) {
    u32* to = reinterpret_cast<u32*>(tiles + tile * kTileBytes);
    const u32* negated = to + (kFilterBytes + kNegated * kConstantBytes) / 4;
    const int first_channel = channels.first + tile * kTileChannels;
    // In loops of little code: what runs once waits for code to come from memory.
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < FilterWord::kCount; i += kStride) {
      u32 values[FilterWord::kAtOnce][2];
#pragma unroll
      for (int j = 0; j < FilterWord::kAtOnce; ++j) {
        const FilterWord word = FilterWord::at(i + j * kThreads);
        values[j][0] = word.load(a, first_channel, 0);
        values[j][1] = word.load(a, first_channel, 1);
      }
#pragma unroll
      for (int j = 0; j < FilterWord::kAtOnce; ++j) {
        u32 pair = values[j][0] | values[j][1] << 16;
        if (PACKED) pair ^= negated[FilterWord::at(i + j * kThreads).tile_channel()];
        to[i + j * kThreads] = pair;
      }
    }
  }
}
