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

// How it is loaded: the whole in one access, which the caches need not keep.
using Whole = Choose<sizeof(Vector) == 16, uint4,
                     Choose<sizeof(Vector) == 8, u64,
                            Choose<sizeof(Vector) == 4, u32,
                                   Choose<sizeof(Vector) == 2, u16, u8>::Type>::Type>::Type>::Type;

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

// The words of the block's pixels from the tile, consecutive threads to consecutive words.
__device__ inline void store_words(const Bytes& tile, u32* out, const PackArguments& a,
                                   int first_pixel, int first_word, int pixels) {
  const int words = static_cast<int>(a.groups * a.group_words);
  const int two_words = static_cast<int>(a.block_words) - 1;
#pragma unroll 1
  for (int i = threadIdx.x; i < pixels << two_words; i += kThreads) {
    const int pixel = i >> two_words;
    const int word = i & two_words;
    if (first_pixel + pixel < a.pixels && first_word + word < words) {
      const u8* bytes = tile.bytes + word * kBytes * pixels + pixel;
      out[static_cast<i64>(first_pixel + pixel) * words + first_word + word] =
          bytes[0] | bytes[pixels] << 8 | bytes[2 * pixels] << 16 |
          static_cast<u32>(bytes[3 * pixels]) << 24;
    }
  }
}

// The plan keeps pixels and words below 2**31. Every division is by a reciprocal: all code runs
// once a block, and the first blocks wait for each instruction to come from memory.
__device__ inline void pack_planes(const PackArguments& a, i64 block) {
  __shared__ Bytes signs;
#if MASK
  __shared__ Bytes mask;
#endif
  const int two_words = static_cast<int>(a.block_words) - 1;
  const int lanes = kThreads / kBytes >> two_words;
  const int pixels = lanes * VECTOR;
  const int words = static_cast<int>(a.groups * a.group_words);
  const int pixel_block = divide_by(static_cast<int>(block), a.by_word_blocks);
  const int word_block = static_cast<int>(block) - pixel_block * static_cast<int>(a.word_blocks);
  const int first_word = word_block << two_words;
  const int first_pixel = pixel_block * pixels;

  const int byte = two_words ? threadIdx.x / (kThreads / kBytes / 2)  // of the block's words
                             : threadIdx.x / (kThreads / kBytes);
  const int tile_pixel = (static_cast<int>(threadIdx.x) - byte * lanes) * VECTOR;
  const int pixel = first_pixel + tile_pixel;
  // Past the end, loads repeat the last pixels, words and channels: no branch around any load.
  const int word = first_word + byte / kBytes;
  const int loaded_word = word < words ? word : words - 1;
  const int loaded_pixel = pixel < a.pixels ? pixel : static_cast<int>(a.pixels) - VECTOR;
  const int group = divide_by(loaded_word, a.by_group_words);
  const int skipped = (loaded_word - group * static_cast<int>(a.group_words)) * kWordBits +
                      byte % kBytes * kByteChannels;
  const int last_channel = static_cast<int>(a.group_channels) - 1;
  const int channels = last_channel + 1 - skipped;
  const int image = divide_by(loaded_pixel, a.by_plane);
  const int first_channel = channels > 0 ? skipped : last_channel;
  const Bits* source = a.x + image * a.stride_image +
                       (loaded_pixel - image * static_cast<int>(a.plane)) +
                       (group * a.group_channels + first_channel) * a.stride_channel;

  Vector vectors[kByteChannels];
#pragma unroll
  for (int c = 0; c < kByteChannels; ++c) {
    *reinterpret_cast<Whole*>(vectors + c) = __ldcs(reinterpret_cast<const Whole*>(source));
    if (c + 1 < channels) source += a.stride_channel;
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
