// Sums of a tile -> output: corrections, epilogue, and stores for each layout.
#pragma once

#include "conv_mma_tile.cuh"

constexpr int kProductsM = WARP_M / 16;  // matrix products of a warp, down and across
constexpr int kProductsN = kWarpN / 8;
constexpr int kLaneChannels = 8;  // consecutive channels that a lane holds of a row

using Sums = int[kProductsM][kProductsN][4];

// The exact dot products of one row and this lane's channels.
struct Dots {
  int values[kLaneChannels];
};

__device__ inline void add_table_row(Dots& dots, const int* table, int entry, int first,
                                     int weight) {
  const int4* from = reinterpret_cast<const int4*>(table + entry * TILE_N + first);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int4 part = from[half];
    dots.values[half * 4] += weight * part.x;
    dots.values[half * 4 + 1] += weight * part.y;
    dots.values[half * 4 + 2] += weight * part.z;
    dots.values[half * 4 + 3] += weight * part.w;
  }
}

// Correction of a pixel: the counts of the taps inside the image; with pad_value 1, less those of
// the taps outside (so twice those inside, less all).
__device__ inline Dots dots_of(const Shared& shared, const int* table, int pad_value,
                               const Dots& counted, const int (&sums)[kProductsN][4], int half,
                               int row, int first_channel) {
  Dots dots = counted;
  const Corners corners = shared.corners[row];
  if (corners.word != kAllTaps) {
    const int weight = pad_value > 0 ? 2 : 1;
#pragma unroll
    for (int i = 0; i < kLaneChannels; ++i) dots.values[i] *= 1 - weight;
    add_table_row(dots, table, corners.last_last, first_channel, weight);
    add_table_row(dots, table, corners.first_last, first_channel, -weight);
    add_table_row(dots, table, corners.last_first, first_channel, -weight);
    add_table_row(dots, table, corners.first_first, first_channel, weight);
  }
  const int set = 2 * shared.row_bits[row];
#pragma unroll
  for (int i = 0; i < kLaneChannels; ++i) {
    dots.values[i] += 4 * sums[i / 2][half * 2 + i % 2] - set;
  }
  return dots;
}

// Eight finished values of one row, channels innermost in the output.
template <class Out>
__device__ void store_row(const ConvArguments& a, const Block& block, i64 pixel, int first,
                          const typename Channel<Out>::Value (&values)[kLaneChannels]) {
  using Bits = typename Out::Bits;
  Bits* out = static_cast<Bits*>(a.out) + pixel * a.out_channels + block.first_channel + first;
  if (a.wide_stores) {
    union {
      uint4 vectors[kLaneChannels * sizeof(Bits) / 16];
      Bits elements[kLaneChannels];
    } stored;
#pragma unroll
    for (int i = 0; i < kLaneChannels; ++i) stored.elements[i] = values[i];
#pragma unroll
    for (int i = 0; i < kLaneChannels * sizeof(Bits) / 16; ++i) {
      if (first < block.channels) reinterpret_cast<uint4*>(out)[i] = stored.vectors[i];
    }
  } else {
#pragma unroll
    for (int i = 0; i < kLaneChannels; ++i) {
      if (first + i < block.channels) out[i] = values[i];
    }
  }
}

// Contiguous output: lanes along the pixels of one channel.
template <class Out>
__device__ void store_transposed(const ConvArguments& a, const Block& block, const Shared& shared,
                                 i64 first_pixel, const typename Out::Bits* transposed) {
  const i64 plane = a.out_height * a.out_width;
  const i64 left = a.batch * plane - first_pixel;
  for (int n = threadIdx.x / 32; n < block.channels; n += kThreads / 32) {
    for (int row = threadIdx.x % 32; row < TILE_M && row < left; row += 32) {
      static_cast<typename Out::Bits*>(
          a.out)[shared.images[row] + (block.first_channel + n) * plane] =
          transposed[n * Transposed<Out>::kStride + row];
    }
  }
}

// The word that four neighbouring lanes make of their 8 channels each.
__device__ inline u32 join_words(const u32 (&values)[kLaneChannels], int lane, int channels) {
  u32 word = 0;
#pragma unroll
  for (int i = 0; i < kLaneChannels; ++i) word |= values[i] << i;
  const u32 existing = channels >= kLaneChannels ? 0xFFu
                       : channels > 0            ? (1u << channels) - 1u
                                                 : 0u;
  word = (word & existing) << (lane % 4 * kLaneChannels);
  word |= __shfl_xor_sync(kAllLanes, word, 1);
  return word | __shfl_xor_sync(kAllLanes, word, 2);
}

// Packed output: consecutive threads to the consecutive words of a pixel.
__device__ inline void store_words(const ConvArguments& a, const Block& block, i64 first_pixel,
                                   const u32* tile) {
  const i64 left = a.batch * a.out_height * a.out_width - first_pixel;
  const i64 words = (a.out_channels + kWordBits - 1) / kWordBits;
  u32* out = static_cast<u32*>(a.out) + first_pixel * words + block.first_channel / kWordBits;
  for (int i = threadIdx.x; i < TILE_M * kWarpsN; i += kThreads) {
    const int row = i / kWarpsN;
    const int word = i % kWarpsN;
    if (row < left && word * kWordBits < block.channels) out[row * words + word] = tile[i];
  }
}

// What this lane's channels need in every row.
template <class Out>
struct Constants {
  Channel<Out> channels[kLaneChannels];
  Dots counted;

  __device__ void load(const Shared& shared, int first) {
#pragma unroll
    for (int i = 0; i < kLaneChannels; ++i) {
      channels[i] = shared.channels[first + i];
      counted.values[i] = shared.counted[first + i];
    }
  }
};

template <class Out>
__device__ void store_tile(const ConvArguments& a, const Block& block, const Shared& shared,
                           const int* table, i64 first_pixel, const Sums& sums, u8* dynamic) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int first_row = warp / kWarpsN * WARP_M + lane / 4;
  const int first = warp % kWarpsN * kWarpN + lane % 4 * kLaneChannels;
  const i64 pixels = a.batch * a.out_height * a.out_width;

  Constants<Out> constants;
  if constexpr (!Channel<Out>::kPacked) constants.load(shared, first);
#pragma unroll
  for (int i = 0; i < kProductsM; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + i * 16 + half * 8;
      const i64 pixel = first_pixel + row;
      if constexpr (Channel<Out>::kPacked) {
        // Fresh for every row, past a barrier for the compiler: kept in registers beside the
        // sums, they and the dots of several rows would spill.
        __syncwarp();
        constants.load(shared, first);
      }
      const Dots dots = dots_of(shared, table, static_cast<int>(a.pad_value), constants.counted,
                                sums[i], half, row, first);
      typename Channel<Out>::Value values[kLaneChannels];
#pragma unroll
      for (int c = 0; c < kLaneChannels; ++c) {
        values[c] = constants.channels[c].finish(dots.values[c]);
      }

      if constexpr (Channel<Out>::kPacked) {
        const u32 word = join_words(values, lane, block.channels - first);
        if (lane % 4 == 0) {
          reinterpret_cast<u32*>(dynamic)[row * kWarpsN + warp % kWarpsN] = word;
        }
      } else if (a.channels_last) {
        if (pixel < pixels) store_row<Out>(a, block, pixel, first, values);
      } else {
        auto* transposed = reinterpret_cast<typename Out::Bits*>(dynamic);
#pragma unroll
        for (int c = 0; c < kLaneChannels; ++c) {
          transposed[(first + c) * Transposed<Out>::kStride + row] = values[c];
        }
      }
    }
  }
  if constexpr (Channel<Out>::kPacked) {
    __syncthreads();
    store_words(a, block, first_pixel, reinterpret_cast<const u32*>(dynamic));
  } else if (!a.channels_last) {
    __syncthreads();
    store_transposed<Out>(a, block, shared, first_pixel,
                          reinterpret_cast<const typename Out::Bits*>(dynamic));
  }
}
