// Sums of a tile of conv_wgmma -> output.
//
// Integers become floats for nothing: the bits of a small integer are a subnormal float, that
// integer times 2**-149, and one fused multiply-add scales it and adds the channel's constant,
// exactly. Floating-point adds run at twice the rate of integer ones.
//
// Stands after the tile header of its kernel, which defines WgmmaArguments and Layout.
#pragma once

#include "conv_wgmma_channels.cuh"

constexpr int kTileWords = TILE_N / kWordBits;
constexpr int kLaneChannels = 8;  // consecutive channels that a lane holds of every 32

using Sums = ProductSums<kColumns>;

// The two rows of this lane (8 apart).
struct LaneRows {
  i64 pixel;      // of the first
  int left;       // pixels from it to the end, at most 9 (0 or less: it does not exist)
  u32 border[2];  // classes
  int set[2];     // popc(a)

  __device__ bool exists(int half) const { return left > 8 * half; }
  __device__ i64 pixel_of(int half) const { return pixel + 8 * half; }
};

// sum * 2**-22 + addend, exact for sum below 2**23.
__device__ inline float scale_and_add(int sum, float addend) {
  return multiply_add(__int_as_float(sum), 0x1p127f, addend);
}

struct LaneValues {
  float values[kLaneChannels];

  static __device__ LaneValues load(u32 address) {
    LaneValues loaded;
#pragma unroll
    for (int i = 0; i < kLaneChannels; i += 4) {
      const float4 part = load_floats(address + 4 * i);
      loaded.values[i] = part.x;
      loaded.values[i + 1] = part.y;
      loaded.values[i + 2] = part.z;
      loaded.values[i + 3] = part.w;
    }
    return loaded;
  }
};

// This lane's sum of channel i (of its 8) of every 32: see column_of.
__device__ inline int sum_of(const Sums& sums, int word, int half, int i) {
  return sums.values[(word * 4 + i / 2) * 4 + half * 2 + i % 2];
}

// ---- packed output ----

// Lane l of four neighbours holds byte l of four words, in one; afterwards it holds word l.
struct ByteExchange {
  u32 of_two;  // which bytes to take from the two lanes that differ in one bit of their number
  u32 of_four;

  static __device__ ByteExchange of(int lane) {
    return {lane % 2 == 0 ? 0x6240u : 0x3715u, lane < 2 ? 0x5410u : 0x3276u};
  }

  __device__ u32 operator()(u32 bytes) const {
    bytes = __byte_perm(bytes, __shfl_xor_sync(kAllLanes, bytes, 1), of_two);
    return __byte_perm(bytes, __shfl_xor_sync(kAllLanes, bytes, 2), of_four);
  }
};

// Signs of 8 channels of a row, below `bits`.
__device__ inline u32 append_signs(u32 bits, const Sums& sums, const LaneValues& least,
                                   float negative_set, int word, int half) {
#pragma unroll
  for (int i = kLaneChannels - 1; i >= 0; --i) {
    const float value =
        __fadd_rn(scale_and_add(sum_of(sums, word, half, i), least.values[i]), negative_set);
    bits = __funnelshift_l(__float_as_uint(value), bits, 1);
  }
  return bits;
}

__device__ inline void store_word(const WgmmaArguments& a, const Channels& channels, u32 shared,
                                  const LaneRows& rows, int half, int word, u32 below) {
  if (!rows.exists(half) || word * kWordBits >= channels.count) return;
  const u32 toggle = load_shared(shared + Layout::kToggle + 4 * word);
  const u32 exists = load_shared(shared + Layout::kExists + 4 * word);
  const i64 words = (a.out_channels + kWordBits - 1) / kWordBits;
  static_cast<u32*>(a.out)[rows.pixel_of(half) * words + channels.first / kWordBits + word] =
      (below ^ toggle) & exists;
}

__device__ inline void store_bits(const WgmmaArguments& a, const Channels& channels, u32 shared,
                                  const LaneRows& rows, const Sums& sums) {
  const int lane = threadIdx.x % 4;
  // Bytes that are exchanged together: four words of a row, or both rows where they have fewer.
  constexpr bool kBothRows = kTileWords <= 2;
  constexpr int kWords = kBothRows ? kTileWords : 4;
  const ByteExchange exchange = ByteExchange::of(lane);
  u32 bytes = 0;
#pragma unroll
  for (int first = 0; first < kTileWords; first += kWords) {
#pragma unroll
    for (int half = 1; half >= 0; --half) {
      const float negative_set = static_cast<float>(-rows.set[half]) * 0x1p-23f;
      const u32 table = shared + Layout::kTable + 4 * TILE_N * rows.border[half];
      if (!kBothRows || half == 1) bytes = 0;
#pragma unroll
      for (int i = kWords - 1; i >= 0; --i) {
        if (TILE_N > 128) __syncwarp();  // as in store_floats
        if (first + i < kTileWords) {
          const LaneValues least =
              LaneValues::load(table + 4 * ((first + i) * kWordBits + lane * kLaneChannels));
          bytes = append_signs(bytes, sums, least, negative_set, first + i, half);
        }
      }
      if constexpr (!kBothRows) {
        store_word(a, channels, shared, rows, half, first + lane, exchange(bytes));
      }
    }
  }
  if constexpr (kBothRows) {
    const u32 below = exchange(bytes);
    if (lane < 2 * kTileWords) {
      store_word(a, channels, shared, rows, lane / kTileWords, lane % kTileWords, below);
    }
  }
}

// ---- float output ----

// Finished values of a row's 8 channels.
__device__ inline LaneValues finish(const Sums& sums, const LaneValues& counted,
                                    const LaneValues& alpha, const LaneValues& addend,
                                    float negative_set, int word, int half) {
  LaneValues y;
#pragma unroll
  for (int i = 0; i < kLaneChannels; ++i) {
    const float scaled = scale_and_add(sum_of(sums, word, half, i), counted.values[i]);
    const float dot = multiply_add(scaled, 0x1p24f, negative_set);
    y.values[i] = __fadd_rn(__fmul_rn(alpha.values[i], dot), addend.values[i]);
  }
  return y;
}

// Channels innermost: 8 of one pixel.
template <class Out>
__device__ inline void store_channels(const WgmmaArguments& a, i64 pixel, int channel, int count,
                                      const LaneValues& y) {
  using Bits = typename Out::Bits;
  Bits* out = static_cast<Bits*>(a.out) + pixel * a.out_channels + channel;
  if constexpr (STORES == kWide) {
    if (count <= 0) return;
    if constexpr (sizeof(Bits) == 2) {
      *reinterpret_cast<uint4*>(out) = make_uint4(Out::pair_from_floats(y.values[0], y.values[1]),
                                                  Out::pair_from_floats(y.values[2], y.values[3]),
                                                  Out::pair_from_floats(y.values[4], y.values[5]),
                                                  Out::pair_from_floats(y.values[6], y.values[7]));
    } else {
      reinterpret_cast<float4*>(out)[0] =
          make_float4(y.values[0], y.values[1], y.values[2], y.values[3]);
      reinterpret_cast<float4*>(out)[1] =
          make_float4(y.values[4], y.values[5], y.values[6], y.values[7]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kLaneChannels; ++i) {
      if (i < count) out[i] = Out::from_float(y.values[i]);
    }
  }
}

// Contiguous output: the pixels that this lane stores of one half of its rows. Two-byte values are
// transposed within the warp, in blocks of 8 channels by 8 pixels, so that a lane holds two
// neighbouring pixels of a channel; of four-byte values it stores those that it has.
template <class Out>
struct LanePixels {
  using Bits = typename Out::Bits;
  static constexpr bool kTransposed = sizeof(Bits) == 2;
  static constexpr int kPixels = kTransposed ? 2 : 1;

  Bits* to[kPixels];  // channel 0 of the block; null where there is no such pixel

  static __device__ LanePixels of(const WgmmaArguments& a, const Channels& channels, i64 first) {
    const int lane = threadIdx.x % 32;
    const i64 plane = a.out_height * a.out_width;
    LanePixels pixels;
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      const i64 pixel = first + (kTransposed ? lane % 4 * 2 + i : lane / 4);
      const i64 image = divide(pixel, plane);
      const i64 position = image * a.out_channels * plane + (pixel - image * plane);
      pixels.to[i] = pixel < a.batch * plane
                         ? static_cast<Bits*>(a.out) + channels.first * plane + position
                         : nullptr;
    }
    return pixels;
  }

  __device__ void store(i64 plane, int count, int word, const LaneValues& y) const {
    const int lane = threadIdx.x % 32;
    // Of channels and channels + 1, after a transposition: rows of the block are lanes / 4.
    const int first = word * kWordBits + (kTransposed ? lane / 8 : lane % 4) * kLaneChannels;
#pragma unroll
    for (int i = 0; i < kLaneChannels; i += kPixels) {
      if constexpr (kTransposed) {
        const int channel = first + i + lane / 4 % 2;
        const u32 pair = transpose_pairs(Out::pair_from_floats(y.values[i], y.values[i + 1]));
        if (channel >= count) continue;
        if (plane % 2 == 0) {  // then both pixels are of one image, and aligned
          if (to[0] != nullptr) *reinterpret_cast<u32*>(to[0] + channel * plane) = pair;
        } else {
          if (to[0] != nullptr) to[0][channel * plane] = static_cast<Bits>(pair);
          if (to[1] != nullptr) to[1][channel * plane] = static_cast<Bits>(pair >> 16);
        }
      } else {
        const int channel = first + i;
        if (channel < count && to[0] != nullptr) {
          to[0][channel * plane] = Out::from_float(y.values[i]);
        }
      }
    }
  }
};

template <class Out>
__device__ inline void store_floats(const WgmmaArguments& a, const Channels& channels, u32 shared,
                                    const LaneRows& rows, const Sums& sums) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float negative_set = static_cast<float>(-2 * rows.set[half]);
    const u32 table = shared + Layout::kTable + 4 * TILE_N * rows.border[half];
    LanePixels<Out> pixels;
    if constexpr (STORES == kPixels) {
      pixels = LanePixels<Out>::of(a, channels, rows.pixel_of(half) - lane / 4);
    }
#pragma unroll
    for (int word = 0; word < kTileWords; ++word) {
      // A barrier for the compiler: with the constants of later words in registers beside the
      // sums, they would spill.
      if (TILE_N > 64) __syncwarp();
      const int channel = word * kWordBits + lane % 4 * kLaneChannels;
      const LaneValues y = finish(sums, LaneValues::load(table + 4 * channel),
                                  LaneValues::load(shared + Layout::kAlpha + 4 * channel),
                                  LaneValues::load(shared + Layout::kAddend + 4 * channel),
                                  negative_set, word, half);
      if constexpr (STORES == kPixels) {
        pixels.store(a.out_height * a.out_width, channels.count, word, y);
      } else if (rows.exists(half)) {
        store_channels<Out>(a, rows.pixel_of(half), channels.first + channel,
                            channels.count - channel, y);
      }
    }
  }
}

template <class Out>
__device__ inline void store_tile(const WgmmaArguments& a, const Channels& channels, u32 shared,
                                  const LaneRows& rows, const Sums& sums) {
  if constexpr (Channel<Out>::kPacked) {
    store_bits(a, channels, shared, rows, sums);
  } else {
    store_floats<Out>(a, channels, shared, rows, sums);
  }
}
