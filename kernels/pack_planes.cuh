// pack where pixels are innermost (NCHW): a transposition. Lanes run along the pixels, so loads
// coalesce; a thread makes a byte of each of VECTOR neighbouring pixels out of 8 channels; bytes
// cross shared memory to be stored as words in NHWC order. VECTOR divides the image size.
//
// Blocks are small (32 KiB of 16-bit input): with four times that, an H200 ran one and a half waves
// of them for 100 MB, and reached 78% of the copy bandwidth.
#pragma once

#include "pack.cuh"

constexpr int kByteChannels = 8;
constexpr int kBytes = kWordBits / kByteChannels;

// Pixels are told apart two at a time where a word holds two.
constexpr bool kPairs = sizeof(Bits) == 2 && VECTOR % 2 == 0;
using Unit = Choose<kPairs, u32, Bits>::Type;
constexpr int kUnits = VECTOR * sizeof(Bits) / sizeof(Unit);

struct alignas(VECTOR * sizeof(Bits)) Vector {
  Unit units[kUnits];
};

// A byte for each of VECTOR pixels: bit c from channel c.
struct alignas(VECTOR) PixelBytes {
  u8 bytes[VECTOR];
};

template <bool Pairs>
struct Collector {
  u32 signs[kUnits] = {};
  u32 mask[kUnits] = {};

  __device__ void push(const Vector& vector, int channel, ClipBound bound, u32) {
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      signs[u] |= static_cast<u32>(is_nonnegative<ELEMENT>(vector.units[u])) << channel;
#if MASK
      mask[u] |= static_cast<u32>(bound.passes<ELEMENT>(vector.units[u])) << channel;
#endif
    }
  }

  static __device__ PixelBytes bytes(const u32 (&answers)[kUnits], u32 valid) {
    PixelBytes result;
#pragma unroll
    for (int u = 0; u < kUnits; ++u) result.bytes[u] = static_cast<u8>(answers[u] & valid);
    return result;
  }
};

// Answers shift in from the top of each half: after 8 channels they fill its upper byte.
template <>
struct Collector<true> {
  u32 signs[kUnits] = {};
  u32 mask[kUnits] = {};

  __device__ void push(const Vector& vector, int, ClipBound, u32 slack) {
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      signs[u] = PackedPairs::shift_in(signs[u], pair_is_nonnegative<ELEMENT>(vector.units[u]));
#if MASK
      mask[u] = PackedPairs::shift_in(mask[u], ClipBound::pair_passes(vector.units[u], slack));
#endif
    }
  }

  static __device__ PixelBytes bytes(const u32 (&answers)[kUnits], u32 valid) {
    PixelBytes result;
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      result.bytes[2 * u] = static_cast<u8>(answers[u] >> 8 & valid);
      result.bytes[2 * u + 1] = static_cast<u8>(answers[u] >> 24 & valid);
    }
    return result;
  }
};

// [byte of a word][pixel], for each word of the block.
struct Bytes {
  alignas(16) u8 bytes[kThreads * VECTOR];
};

// The words of `block_words` by `pixels` from the tile, consecutive threads to consecutive words.
__device__ inline void store_words(const Bytes& tile, u32* out, const PackArguments& a,
                                   i64 first_pixel, int first_word, int pixels) {
  const i64 words = a.groups * a.group_words;
  const int block_words = static_cast<int>(a.block_words);
#pragma unroll 4
  for (int i = threadIdx.x; i < block_words * pixels; i += kThreads) {
    const int pixel = i / block_words;
    const int word = i % block_words;
    if (first_pixel + pixel < a.pixels && first_word + word < words) {
      const u8* bytes = tile.bytes + word * kBytes * pixels + pixel;
      out[(first_pixel + pixel) * words + first_word + word] =
          bytes[0] | bytes[pixels] << 8 | bytes[2 * pixels] << 16 |
          static_cast<u32>(bytes[3 * pixels]) << 24;
    }
  }
}

__device__ inline void pack_planes(const PackArguments& a, i64 block) {
  __shared__ Bytes signs;
#if MASK
  __shared__ Bytes mask;
#endif
  const int block_words = static_cast<int>(a.block_words);
  const int lanes = kThreads / kBytes / block_words;
  const int pixels = lanes * VECTOR;
  const i64 word_blocks = divide_up(a.groups * a.group_words, block_words);
  const i64 pixel_block = divide(block, word_blocks);
  const int first_word = static_cast<int>(block - pixel_block * word_blocks) * block_words;
  const i64 first_pixel = pixel_block * pixels;

  const int byte = static_cast<int>(threadIdx.x) / lanes;  // of the block's words
  const int tile_pixel = static_cast<int>(threadIdx.x) % lanes * VECTOR;
  const i64 pixel = first_pixel + tile_pixel;
  // Past the end, loads repeat the last pixels, words and channels: no branch around any load.
  const i64 words = a.groups * a.group_words;
  const i64 word = first_word + byte / kBytes;
  const i64 loaded_word = word < words ? word : words - 1;
  const i64 loaded_pixel = pixel < a.pixels ? pixel : a.pixels - VECTOR;
  const i64 group = divide(loaded_word, a.group_words);
  const i64 skipped =
      (loaded_word - group * a.group_words) * kWordBits + byte % kBytes * kByteChannels;
  const i64 left = a.group_channels - skipped;
  const int channels = static_cast<int>(left < kByteChannels ? left : kByteChannels);
  const i64 image = divide(loaded_pixel, a.plane);
  const Bits* source = a.x + image * a.stride_image + (loaded_pixel - image * a.plane) +
                       group * a.group_channels * a.stride_channel;

  Vector vectors[kByteChannels];
#pragma unroll
  for (int c = 0; c < kByteChannels; ++c) {
    const i64 channel = c < channels ? skipped + c : a.group_channels - 1;
    vectors[c] = *reinterpret_cast<const Vector*>(source + channel * a.stride_channel);
  }
  const ClipBound bound = clip_bound(a);
  const u32 slack = pair_slack(bound);
  Collector<kPairs> collector;
#pragma unroll
  for (int c = 0; c < kByteChannels; ++c) collector.push(vectors[c], c, bound, slack);

  using AllBytes = Collector<kPairs>;
  const u32 valid = channels >= kByteChannels ? 0xFFu : channels > 0 ? (1u << channels) - 1u : 0u;
  const int at = byte * pixels + tile_pixel;
  *reinterpret_cast<PixelBytes*>(signs.bytes + at) = AllBytes::bytes(collector.signs, valid);
#if MASK
  *reinterpret_cast<PixelBytes*>(mask.bytes + at) = AllBytes::bytes(collector.mask, valid);
#endif
  __syncthreads();
  store_words(signs, a.signs, a, first_pixel, first_word, pixels);
#if MASK
  store_words(mask, a.mask, a, first_pixel, first_word, pixels);
#endif
}
