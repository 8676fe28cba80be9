// Sums -> output, channel by channel: y = sum + bias, rounded; then BatchNorm and ReLU, or bits.
#pragma once

#include "byte_exchange.cuh"
#include "compare_pairs.cuh"
#include "stem_filters.cuh"
#include "stem_product.cuh"

// What a lane knows of the pixels of its warp's first row of a pass.
struct Pixels {
  i64 first;    // the output pixel lane / 4 of that row
  int rows;     // that exist
  int columns;  // that exist, from that pixel on

  static __device__ Pixels of(const StemArguments& a, const Tile& tile, int pass) {
    const int thread = thread_index();
    const int row = tile.row + thread / 32 * kWarpRows + pass * kPassRows;
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
  for (int m = 0; m < kPassRows; ++m) {
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

// Of channels i and i + 1, as they are stored.
__device__ inline u32 rounded_pair(Sums& sums, int m, int half, int word, int i) {
  return ELEMENT::pair_from_floats(sums.at(m, half, word, i), sums.at(m, half, word, i + 1));
}

#if PACKED

// Whether a channel's bits are y <= high alone. Its filters and its bias are negated, so that they
// are y >= -high: what is decided by one comparison is always decided by this one.
__device__ inline bool is_negated(const StemArguments& a, int channel) {
  const float infinity = __uint_as_float(float32::kInfinity);
  return a.low[channel] == -infinity && a.high[channel] < infinity;
}

// The least value of ELEMENT that is at least `bound`; NaN of NaN.
__device__ inline Bits least_value(float bound) {
  const Bits rounded = ELEMENT::from_float(bound);
  if (!(ELEMENT::to_float(rounded) < bound)) return rounded;
  return static_cast<Bits>(rounded >= ELEMENT::kMinusZero ? rounded - 1 : rounded + 1);
}

// By a warp for a channel tile. (Rounding is the same for both signs.)
__device__ inline void write_constants(const StemArguments& a, int first, u8* constants) {
  float* biases = reinterpret_cast<float*>(constants);
  Bits* bounds = reinterpret_cast<Bits*>(constants + kBounds * kConstantBytes);
  u32* signs = reinterpret_cast<u32*>(constants + kNegated * kConstantBytes);
  const float infinity = __uint_as_float(float32::kInfinity);
  const Bits nan = ELEMENT::kInfinity + 1;
  bool others = false;
  for (int i = static_cast<int>(threadIdx.x) % 32; i < kTileChannels; i += 32) {
    const int channel = first + i;
    const bool exists = channel < a.out_channels;
    const bool negated = exists && is_negated(a, channel);
    if (BIAS) {
      const float bias = exists ? ELEMENT::to_float(a.bias[channel * a.bias_stride]) : 0.0f;
      biases[i] = negated ? -bias : bias;
    }
    Bits lower = nan;
    Bits upper = ELEMENT::kInfinity;
    if (exists && a.low[channel] <= a.high[channel]) {
      lower = least_value(negated ? -a.high[channel] : a.low[channel]);
      if (!negated) upper = least_value(-a.high[channel]) ^ ELEMENT::kMinusZero;
      others |= !negated && a.high[channel] < infinity;
    }
    bounds[i] = lower;
    bounds[kTileChannels + i] = upper;
    signs[i] = negated ? kPairTops : 0u;
  }
  const u32 any = __ballot_sync(kAllLanes, others);
  if (threadIdx.x % 32 == 0) *reinterpret_cast<u32*>(constants + kOthers * kConstantBytes) = any;
}

// Bits of values that compare so with the bounds from an address on: byte i is of word i % 2 of
// pixel i / 2. Channels are decided in pairs, the even ones in the lower halves of words.
template <class Compare>
__device__ inline void decide(u32 (&bytes)[kPassRows], Sums& sums, u32 bounds, Compare compare) {
  u32 decided[kPassRows][2] = {};
#pragma unroll
  for (int word = 0; word < kTileWords; ++word) {
    hold();
    const uint4 loaded = load_chunk(bounds + 2 * (word * kWordBits + lane_channel()));
    const u32 of_pair[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
#pragma unroll
    for (int m = 0; m < kPassRows; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int i = 0; i < kLaneChannels; i += 2) {
          const u32 places = 0x20001u << (8 * word + i);
          decided[m][half] |= compare(rounded_pair(sums, m, half, word, i), of_pair[i / 2]) & places;
        }
      }
    }
  }
#pragma unroll
  for (int m = 0; m < kPassRows; ++m) {
    bytes[m] = __byte_perm(decided[m][0], decided[m][1], 0x5410) |
               __byte_perm(decided[m][0], decided[m][1], 0x7632);
  }
}

__device__ inline void store(const StemArguments& a, Sums& sums, const Tile& tile, int pass,
                             int first_channel, u32 constants) {
  if (BIAS) add_bias(sums, constants);
  const u32 bounds = constants + kBounds * kConstantBytes;
  u32 bytes[kPassRows];
  decide(bytes, sums, bounds, at_least<ELEMENT>);
  if (load_shared(constants + kOthers * kConstantBytes) != 0) {
    u32 within[kPassRows];
    decide(within, sums, bounds + 2 * kTileChannels, at_most<ELEMENT>);
#pragma unroll
    for (int m = 0; m < kPassRows; ++m) bytes[m] &= within[m];
  }
  // After the exchange, lane i of four has that word.
  const int lane = thread_index() % 4;
  const int half = lane / kTileWords;
  const int channel = first_channel + lane % kTileWords * kWordBits;
  const ByteExchange exchange = ByteExchange::of(lane);
  const Pixels pixels = Pixels::of(a, tile, pass);
  const i64 words = (a.out_channels + kWordBits - 1) / kWordBits;
  u32* out = static_cast<u32*>(a.out) + (pixels.first + half * 8) * words + channel / kWordBits;
#pragma unroll
  for (int m = 0; m < kPassRows; ++m) {
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

// Rounds channels from i on, as many as it takes least instructions for: where ELEMENT is the upper
// half of a float, a pair with zero is the float again.
constexpr int kRounded = ELEMENT::kTopOfFloat ? 1 : 2;

__device__ inline void round_in_place(Sums& sums, int m, int half, int word, int i) {
  if constexpr (ELEMENT::kTopOfFloat) {
    float& value = sums.at(m, half, word, i);
    value = __uint_as_float(ELEMENT::pair_from_floats(0.0f, value));
  } else {
    const u32 pair = rounded_pair(sums, m, half, word, i);
    sums.at(m, half, word, i) = ELEMENT::to_float(static_cast<Bits>(pair));
    sums.at(m, half, word, i + 1) = ELEMENT::to_float(static_cast<Bits>(pair >> 16));
  }
}

// What follows the convolution's output, one rounding a step.
__device__ inline void finish(Sums& sums, u32 constants, int word) {
#pragma unroll
  for (int m = 0; m < kPassRows; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kLaneChannels; i += kRounded) round_in_place(sums, m, half, word, i);
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
    for (int m = 0; m < kPassRows; ++m) {
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

__device__ inline void store(const StemArguments& a, Sums& sums, const Tile& tile, int pass,
                             int first_channel, u32 constants) {
  if (BIAS) add_bias(sums, constants);
#pragma unroll
  for (int word = 0; word < kTileWords; ++word) {
    if constexpr (NORM || RELU) finish(sums, constants, word);
    hold();
    const int channel = first_channel + word * kWordBits + lane_channel();
    const Pixels pixels = Pixels::of(a, tile, pass);
    if (channel >= a.out_channels) continue;  // (8 exist or none.)
    Bits* out = static_cast<Bits*>(a.out) + pixels.first * a.out_channels + channel;
#pragma unroll
    for (int m = 0; m < kPassRows; ++m) {
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
