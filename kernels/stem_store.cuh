// Sums -> output, channel by channel: y = sum + bias, rounded; then BatchNorm and ReLU, or bits.
#pragma once

#include "byte_exchange.cuh"
#include "stem_filters.cuh"
#include "stem_product.cuh"

// What a lane knows of the pixels of its warp's first row.
struct Pixels {
  i64 first;    // the output pixel lane / 4 of that row
  int rows;     // that exist
  int columns;  // that exist, from that pixel on

  static __device__ Pixels of(const StemArguments& a, const Tile& tile) {
    const int thread = thread_index();
    const int row = tile.row + thread / 32 * kWarpRows;
    const int column = tile.column + thread % 32 / 4;
    return {(static_cast<i64>(tile.image) * a.out_height + row) * a.out_width + column,
            static_cast<int>(a.out_height) - row, static_cast<int>(a.out_width) - column};
  }

  __device__ bool exist(int m, int half) const { return m < rows && half * 8 < columns; }
};

__device__ inline int lane_channel() { return thread_index() % 4 * kLaneChannels; }

// A barrier for the compiler, which otherwise begins steps before those before them have ended,
// until it has no registers left.
__device__ inline void hold() { __syncwarp(); }

// Of this lane's channels of a word.
__device__ inline void load_constants(float (&loaded)[kLaneChannels], u32 constants, int row,
                                      int word) {
  const u32 from = constants + row * kConstantBytes + 4 * (word * kWordBits + lane_channel());
#pragma unroll
  for (int i = 0; i < kLaneChannels; i += 4) {
    const float4 part = load_floats(from + 4 * i);
    loaded[i] = part.x;
    loaded[i + 1] = part.y;
    loaded[i + 2] = part.z;
    loaded[i + 3] = part.w;
  }
}

// Every value of a word with the constant of its channel.
template <class Step>
__device__ inline void each(Sums& sums, u32 constants, int row, int word, Step step) {
  float loaded[kLaneChannels];
  hold();
  load_constants(loaded, constants, row, word);
#pragma unroll
  for (int m = 0; m < kWarpRows; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kLaneChannels; ++i) {
        float& value = sums.at(m, half, word, i);
        value = step(value, loaded[i]);
      }
    }
  }
}

__device__ inline void add_bias(Sums& sums, u32 constants) {
#pragma unroll
  for (int word = 0; word < kTileWords; ++word) {
    each(sums, constants, 0, word, [](float sum, float bias) { return __fadd_rn(sum, bias); });
  }
}

#if PACKED

// The least float32 that, rounded to ELEMENT, is at least `bound`; NaN, than which no sum is more,
// where there is none. Floats are gone through in their order, from -infinity to infinity.
__device__ inline float least_sum(float bound) {
  constexpr u32 kNegative = float32::kInfinity + 1;
  const auto at = [](u32 place) {
    return __uint_as_float(place < kNegative ? float32::kMinusZero | (float32::kInfinity - place)
                                             : place - kNegative);
  };
  u32 first = 0;
  u32 last = 2 * kNegative;  // the first NaN
#pragma unroll 1
  while (first < last) {
    const u32 middle = first + (last - first) / 2;
    if (ELEMENT::to_float(ELEMENT::from_float(at(middle))) >= bound) {
      last = middle;
    } else {
      first = middle + 1;
    }
  }
  return at(first);
}

// The float before another one that is not -infinity; NaN, which nothing is above, of NaN.
__device__ inline float before(float value) {
  const u32 bits = __float_as_uint(value);
  if (value == 0.0f) return __uint_as_float(float32::kMinusZero | 1u);
  return __uint_as_float(value < 0.0f ? bits + 1 : value > 0.0f ? bits - 1 : bits);
}

// Bounds of the sums, by a warp for a channel tile. The first decides nearly all: bits are sums
// above it. The others are for channels with an upper bound, and for those whose bits are all but
// NaN's: also -infinity's, which is above nothing.
__device__ inline void write_constants(const StemArguments& a, int first, u8* constants) {
  float* rows = reinterpret_cast<float*>(constants);
  const float infinity = __uint_as_float(float32::kInfinity);
  const float lowest = __uint_as_float(float32::kMinusZero | (float32::kInfinity - 1));
  const float nan = __uint_as_float(float32::kInfinity + 1);
  bool others = false;
  for (int i = static_cast<int>(threadIdx.x) % 32; i < kTileChannels; i += 32) {
    const int channel = first + i;
    const bool exists = channel < a.out_channels;
    const bool negated = exists && is_negated(a, channel);
    const bool has_bits = exists && a.low[channel] <= a.high[channel];
    if (BIAS) {
      const float bias = exists ? ELEMENT::to_float(a.bias[channel * a.bias_stride]) : 0.0f;
      rows[i] = negated ? -bias : bias;
    }
    // (Rounding is the same for both signs.)
    float least = nan;
    float upper = infinity;
    if (has_bits) {
      least = least_sum(negated ? -a.high[channel] : a.low[channel]);
      if (!negated) upper = -least_sum(-a.high[channel]);
    }
    const bool unbounded = least == -infinity;
    rows[kLower * kTileChannels + i] = unbounded ? -infinity : before(least);
    rows[kUpper * kTileChannels + i] = upper;
    rows[kUnbounded * kTileChannels + i] = unbounded ? lowest : nan;
    others |= unbounded || !(upper >= infinity);
  }
  const u32 any = __ballot_sync(kAllLanes, others);
  if (threadIdx.x % 32 == 0) reinterpret_cast<u32*>(rows)[kOthers * kTileChannels] = any;
}

// Byte i is of word i % 2 of pixel i / 2: the signs of differences of the channels' constants and
// the sums, the last one first. A difference has the sign of the exact one, and NaN has none. (An
// addition and a shift go to two pipes; a comparison and what follows from it would both go to that
// of the shift.)
template <class Difference>
__device__ inline void append_signs(u32 (&bytes)[kWarpRows], Sums& sums, u32 constants, int row,
                                    Difference difference) {
#pragma unroll
  for (int half = 1; half >= 0; --half) {
#pragma unroll
    for (int word = kTileWords - 1; word >= 0; --word) {
      float loaded[kLaneChannels];
      hold();
      load_constants(loaded, constants, row, word);
#pragma unroll
      for (int i = kLaneChannels - 1; i >= 0; --i) {
#pragma unroll
        for (int m = 0; m < kWarpRows; ++m) {
          const float sign = difference(loaded[i], sums.at(m, half, word, i));
          bytes[m] = __funnelshift_l(__float_as_uint(sign), bytes[m], 1);
        }
      }
    }
  }
}

__device__ inline void store(const StemArguments& a, Sums& sums, const Tile& tile,
                             int first_channel, u32 constants) {
  if (BIAS) add_bias(sums, constants);
  const auto above = [](float bound, float sum) { return __fsub_rn(bound, sum); };
  const auto below = [](float bound, float sum) { return __fsub_rn(sum, bound); };
  u32 bytes[kWarpRows] = {};
  append_signs(bytes, sums, constants, kLower, above);
  if (load_shared(constants + kOthers * kConstantBytes) != 0) {
    u32 beyond[kWarpRows] = {};
    append_signs(beyond, sums, constants, kUpper, above);
#pragma unroll
    for (int m = 0; m < kWarpRows; ++m) bytes[m] &= ~beyond[m];
    append_signs(beyond, sums, constants, kUnbounded, below);
#pragma unroll
    for (int m = 0; m < kWarpRows; ++m) bytes[m] |= beyond[m];
  }
  // After the exchange, lane i of four has that word.
  const int lane = thread_index() % 4;
  const int half = lane / kTileWords;
  const int channel = first_channel + lane % kTileWords * kWordBits;
  const ByteExchange exchange = ByteExchange::of(lane);
  const Pixels pixels = Pixels::of(a, tile);
  const i64 words = (a.out_channels + kWordBits - 1) / kWordBits;
  u32* out = static_cast<u32*>(a.out) + (pixels.first + half * 8) * words + channel / kWordBits;
#pragma unroll
  for (int m = 0; m < kWarpRows; ++m) {
    const u32 mine = exchange(bytes[m]);
    if (channel < a.out_channels && pixels.exist(m, half)) *out = mine;
    out += a.out_width * words;
  }
}

#else

// By a warp for a channel tile.
__device__ inline void write_constants(const StemArguments& a, int first, u8* constants) {
  float* rows = reinterpret_cast<float*>(constants);
  for (int i = thread_index() % 32; i < kTileChannels; i += 32) {
    const int channel = first + i;
    const bool exists = channel < a.out_channels;
    if (BIAS) rows[i] = exists ? ELEMENT::to_float(a.bias[channel * a.bias_stride]) : 0.0f;
    for (int row = 0; row < 4 * NORM; ++row) {
      rows[(kNorm + row) * kTileChannels + i] =
          exists ? a.norm[row * a.out_channels + channel] : 0.0f;
    }
  }
}

// Of channels i and i + 1, as they are stored.
__device__ inline u32 rounded_pair(Sums& sums, int m, int half, int word, int i) {
  return ELEMENT::pair_from_floats(sums.at(m, half, word, i), sums.at(m, half, word, i + 1));
}

// What follows the convolution's output, one rounding a step.
__device__ inline void finish(Sums& sums, u32 constants, int word) {
#pragma unroll
  for (int m = 0; m < kWarpRows; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kLaneChannels; i += 2) {
        const u32 pair = rounded_pair(sums, m, half, word, i);
        sums.at(m, half, word, i) = ELEMENT::to_float(static_cast<Bits>(pair));
        sums.at(m, half, word, i + 1) = ELEMENT::to_float(static_cast<Bits>(pair >> 16));
      }
    }
  }
  if constexpr (NORM) {
    const auto multiply = [](float y, float by) { return __fmul_rn(y, by); };
    each(sums, constants, kNorm, word, [](float y, float mean) { return __fsub_rn(y, mean); });
    each(sums, constants, kNorm + 1, word, multiply);
    each(sums, constants, kNorm + 2, word, multiply);
    each(sums, constants, kNorm + 3, word, [](float y, float bias) { return __fadd_rn(y, bias); });
  }
  if constexpr (RELU) {
#pragma unroll
    for (int m = 0; m < kWarpRows; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int i = 0; i < kLaneChannels; ++i) {
          float& y = sums.at(m, half, word, i);
          y = y < 0.0f ? 0.0f : y;
        }
      }
    }
  }
}

__device__ inline void store(const StemArguments& a, Sums& sums, const Tile& tile,
                             int first_channel, u32 constants) {
  if (BIAS) add_bias(sums, constants);
#pragma unroll
  for (int word = 0; word < kTileWords; ++word) {
    if constexpr (NORM || RELU) finish(sums, constants, word);
    hold();
    const int channel = first_channel + word * kWordBits + lane_channel();
    const Pixels pixels = Pixels::of(a, tile);
    if (channel >= a.out_channels) continue;  // (8 exist or none.)
    Bits* out = static_cast<Bits*>(a.out) + pixels.first * a.out_channels + channel;
#pragma unroll
    for (int m = 0; m < kWarpRows; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (!pixels.exist(m, half)) continue;
        store_vector(out + half * 8 * a.out_channels, rounded_pair(sums, m, half, word, 0),
                     rounded_pair(sums, m, half, word, 2), rounded_pair(sums, m, half, word, 4),
                     rounded_pair(sums, m, half, word, 6));
      }
      out += a.out_width * a.out_channels;
    }
  }
}

#endif
