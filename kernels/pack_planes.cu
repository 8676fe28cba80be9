// pack where pixels are innermost (NCHW): a transposition. Lanes run along the pixels, so loads
// coalesce; a thread collects one word of VECTOR neighbouring pixels over 32 channels; words cross
// shared memory to be stored in NHWC order. VECTOR divides the image size.
#include "pack.cuh"

constexpr int kThreads = 256;
constexpr int kPad = 4;  // words: keeps 16-byte alignment and spreads the banks
// Loads in flight a thread: enough to cover the memory latency also at 2 bytes each.
constexpr int kBatch = VECTOR * sizeof(Bits) >= 8 ? 8 : 16;

// Pixels are told apart two at a time where a word holds two.
constexpr bool kPairs = sizeof(Bits) == 2 && VECTOR % 2 == 0;
using Unit = Choose<kPairs, u32, Bits>::Type;
constexpr int kUnits = VECTOR * sizeof(Bits) / sizeof(Unit);

struct alignas(VECTOR * sizeof(Bits)) Vector {
  Unit units[kUnits];
};

// The words of VECTOR pixels.
struct Words {
  u32 signs[VECTOR];
  u32 mask[VECTOR];
};

// Collects the channels of VECTOR pixels, in order.
template <bool Pairs>
struct Collector {
  Packed packed[VECTOR];

  __device__ void push(const Vector& vector, int channel, ClipBound bound, u32) {
#pragma unroll
    for (int v = 0; v < VECTOR; ++v) packed[v].set(channel, vector.units[v], bound);
  }

  __device__ void finish(Words& words) const {
#pragma unroll
    for (int v = 0; v < VECTOR; ++v) {
      words.signs[v] = packed[v].signs;
      words.mask[v] = packed[v].mask;
    }
  }
};

template <>
struct Collector<true> {
  PackedPairs packed[2][kUnits];  // channels 0-15 and 16-31

  __device__ void push(const Vector& vector, int channel, ClipBound, u32 slack) {
#pragma unroll
    for (int u = 0; u < kUnits; ++u) packed[channel / 16][u].push(vector.units[u], slack);
  }

  __device__ void finish(Words& words) const {
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      join(packed[0][u].signs, packed[1][u].signs, words.signs + 2 * u);
      join(packed[0][u].mask, packed[1][u].mask, words.mask + 2 * u);
    }
  }

  static __device__ void join(u32 low, u32 high, u32* words) {
    words[0] = (low & 0xFFFFu) | (high << 16);
    words[1] = (low >> 16) | (high & 0xFFFF0000u);
  }
};

struct Tile {
  u32 words[kThreads * VECTOR + 8 * kPad];
};

__device__ void stage(u32* row, const u32* words) {
  if constexpr (VECTOR % 4 == 0) {
#pragma unroll
    for (int v = 0; v < VECTOR; v += 4) {
      *reinterpret_cast<uint4*>(row + v) =
          make_uint4(words[v], words[v + 1], words[v + 2], words[v + 3]);
    }
  } else {
#pragma unroll
    for (int v = 0; v < VECTOR; ++v) row[v] = words[v];
  }
}

// The words of `block_words` by `pixels` from the tile, consecutive threads to consecutive words.
__device__ void store_tile(const Tile& tile, u32* out, const PackArguments& a, i64 first_pixel,
                           int first_word, int pixels) {
  const i64 words = a.groups * a.group_words;
  const int block_words = static_cast<int>(a.block_words);
  for (int i = threadIdx.x; i < block_words * pixels; i += kThreads) {
    const int pixel = i / block_words;
    const int word = i % block_words;
    if (first_pixel + pixel < a.pixels && first_word + word < words) {
      out[(first_pixel + pixel) * words + first_word + word] =
          tile.words[word * (pixels + kPad) + pixel];
    }
  }
}

extern "C" __global__ void __launch_bounds__(kThreads)
    pack_planes(const __grid_constant__ PackArguments a) {
  __shared__ alignas(16) Tile signs;
#if MASK
  __shared__ alignas(16) Tile mask;
#endif
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int block_words = static_cast<int>(a.block_words);
  const int pixels = kThreads / block_words * VECTOR;
  const i64 word_blocks = divide_up(a.groups * a.group_words, block_words);
  const i64 pixel_block = divide(blockIdx.x, word_blocks);
  const int first_word = static_cast<int>(blockIdx.x - pixel_block * word_blocks) * block_words;
  const i64 first_pixel = pixel_block * pixels;

  const int tile_word = warp % block_words;
  const int tile_pixel = (warp / block_words * 32 + lane) * VECTOR;
  const i64 pixel = first_pixel + tile_pixel;
  // Past the end, loads repeat the last pixels, words and channels: no branch around any load.
  const i64 words = a.groups * a.group_words;
  const i64 loaded_word = first_word + tile_word < words ? first_word + tile_word : words - 1;
  const i64 loaded_pixel = pixel < a.pixels ? pixel : a.pixels - VECTOR;
  const i64 group = divide(loaded_word, a.group_words);
  const i64 skipped = (loaded_word - group * a.group_words) * kWordBits;
  const i64 left = a.group_channels - skipped;
  const int channels = static_cast<int>(left < kWordBits ? left : kWordBits);
  const i64 image = divide(loaded_pixel, a.plane);
  const Bits* source = a.x + image * a.stride_image + (loaded_pixel - image * a.plane) +
                       (group * a.group_channels + skipped) * a.stride_channel;

  const ClipBound bound = clip_bound(a);
  const u32 slack = pair_slack(bound);
  Collector<kPairs> collector;
#pragma unroll
  for (int c = 0; c < kWordBits; c += kBatch) {
    Vector batch[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      // By index: a running pointer would put all loads behind one chain of additions.
      const int channel = c + i < channels ? c + i : channels - 1;
      batch[i] = *reinterpret_cast<const Vector*>(source + channel * a.stride_channel);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) collector.push(batch[i], c + i, bound, slack);
  }

  Words words_of;
  collector.finish(words_of);
  const u32 valid = tail_mask(channels);
#pragma unroll
  for (int v = 0; v < VECTOR; ++v) {
    words_of.signs[v] &= valid;
    words_of.mask[v] &= valid;
  }
  const int row = tile_word * (pixels + kPad) + tile_pixel;
  stage(signs.words + row, words_of.signs);
#if MASK
  stage(mask.words + row, words_of.mask);
#endif
  __syncthreads();
  store_tile(signs, a.signs, a, first_pixel, first_word, pixels);
#if MASK
  store_tile(mask, a.mask, a, first_pixel, first_word, pixels);
#endif
}
