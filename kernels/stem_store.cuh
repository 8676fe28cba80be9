// Sums -> output, channel by channel: y = sum + bias, rounded; then BatchNorm and ReLU, or bits.
#pragma once

#include "compare_pairs.cuh"
#include "stem_filters.cuh"
#include "stem_product.cuh"
// (After the sizes.)
#include "multiply_half.cuh"

__device__ inline int lane_channel() { return lane_index() % 4 * kLaneChannels; }

// A barrier for the compiler, which otherwise begins steps before those before them have ended,
// until it has no registers left.
__device__ inline void hold() { __syncwarp(); }

#if PACKED
// Words of bits come from products: pairs of ones and zeros, as the sums lie, are rows of 16
// channels, and a column of what they are multiplied with has powers of two, so that it is half a
// word: column n of half n % 4 of a pixel's two words. (So lanes 0 and 1 of four have both words of
// the pixel lane / 4, and lanes 2 and 3 of that + 8.)
struct BitValues {
  u32 values[kTileWords][kLaneChannels / 2];  // of this lane's channels, two by two

  static __device__ BitValues of(int lane) {
    // A lane's channels are the bits from 8 * (lane % 4) on.
    const u32 low = ELEMENT::kOne + (lane % 2 * kLaneChannels << ELEMENT::kFractionBits);
    const u32 pair = low | (low + (1u << ELEMENT::kFractionBits)) << 16;
    BitValues made;
#pragma unroll
    for (int word = 0; word < kTileWords; ++word) {
      const bool here = lane / 4 % 4 == 2 * word + lane % 4 / 2;
#pragma unroll
      for (int i = 0; i < kLaneChannels / 2; ++i) {
        made.values[word][i] = here ? pair + i * (0x20002u << ELEMENT::kFractionBits) : 0u;
      }
    }
    return made;
  }
};
#endif

// What this lane stores, of a pass: 16 bytes of channels of the pixels lane / 4 and that + 8 of its
// rows, or a word of bits of one of these.
struct LaneOutput {
#if PACKED
  using Type = u32;
  static constexpr int kPixels = 1;
  BitValues bits;
#else
  using Type = Bits;
  static constexpr int kPixels = 2;
#endif

  int column;            // the first pixel's, in its tile
  int channels;          // that exist from this lane's first one on
  Type* all;             // of the whole output's first pixel, this lane's
  Type* first;           // of its pixel in the pass's first row
  i64 next_row;          // values of all channels, from row to row
  int next_eight;        // from a pixel to its eighth next one
  int rows;              // of pixels that exist, from the pass's first one on
  bool exists[kPixels];  // pixels, in rows that exist

  static __device__ LaneOutput of(const StemArguments& a, int first_channel) {
    const int lane = lane_index();
    LaneOutput output;
#if PACKED
    const int channel = first_channel + lane % kTileWords * kWordBits;
    const int value = channel / kWordBits;
    output.column = lane / 4 + lane % 4 / kTileWords * 8;
    output.bits = BitValues::of(lane);
#else
    const int channel = first_channel + lane_channel();
    const int value = channel;
    output.column = lane / 4;
#endif
    output.channels = static_cast<int>(a.out_channels) - channel;
    output.all = static_cast<Type*>(a.out) + output.column * a.out_pixel + value;
    output.next_row = a.out_row;
    output.next_eight = 8 * static_cast<int>(a.out_pixel);
    return output;
  }

  __device__ void move_to(const StemArguments& a, const Tile& tile) {
    const int row = tile.row + warp_index() * kWarpRows;
    const i64 rows_before = tile.image * a.out_height + row;
    first = all + rows_before * a.out_row + tile.column * static_cast<int>(a.out_pixel);
    rows = static_cast<int>(a.out_height) - row;
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      exists[i] = tile.column + column + 8 * i < static_cast<int>(a.out_width);
    }
  }

  __device__ void next_pass() {
    first += kPassRows * next_row;
    rows -= kPassRows;
  }
};

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

// Words of the values that compare so with the bounds from an address on.
template <class Compare>
__device__ inline void decide(u32 (&words)[kPassRows], Sums& sums, u32 bounds,
                              const BitValues& bits, Compare compare) {
  // An integer below 2^16 is the lower half of its sum with this.
  constexpr float kIntegers = 8388608.0f;
  float halves[kPassRows][4];
#pragma unroll
  for (int m = 0; m < kPassRows; ++m) {
#pragma unroll
    for (int i = 0; i < 4; ++i) halves[m][i] = kIntegers;
  }
#pragma unroll
  for (int word = 0; word < kTileWords; ++word) {
    hold();
    const uint4 loaded = load_chunk(bounds + 2 * (word * kWordBits + lane_channel()));
    const u32 of_pair[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
#pragma unroll
      for (int m = 0; m < kPassRows; ++m) {
        u32 ones[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int pair = i + j / 2;
          ones[j] = compare(rounded_pair(sums, m, j % 2, word, 2 * pair), of_pair[pair]);
        }
        multiply_half<ELEMENT>(halves[m], ones, bits.values[word][i], bits.values[word][i + 1]);
      }
    }
  }
  const bool second = lane_index() % 4 >= kTileWords;
#pragma unroll
  for (int m = 0; m < kPassRows; ++m) {
    const float low = second ? halves[m][2] : halves[m][0];
    const float high = second ? halves[m][3] : halves[m][1];
    words[m] = __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x5410);
  }
}

// Of channels from this one of the block's on.
__device__ inline void store(const LaneOutput& output, Sums& sums, int channel, u32 constants) {
  if (BIAS) add_bias(sums, constants);
  const u32 bounds = constants + kBounds * kConstantBytes;
  const BitValues& bits = output.bits;
  u32 words[kPassRows];
  decide(words, sums, bounds, bits, at_least<ELEMENT>);
  if (load_shared(constants + kOthers * kConstantBytes) != 0) {
    u32 within[kPassRows];
    decide(within, sums, bounds + 2 * kTileChannels, bits, at_most<ELEMENT>);
#pragma unroll
    for (int m = 0; m < kPassRows; ++m) words[m] &= within[m];
  }
  u32* out = output.first + channel / kWordBits;
#pragma unroll
  for (int m = 0; m < kPassRows; ++m) {
    if (output.exists[0] && m < output.rows && channel < output.channels) *out = words[m];
    out += output.next_row;
  }
}

#else

// By a warp for a channel tile.
__device__ inline void write_constants(const StemArguments& a, int first, u8* constants) {
  float* rows = reinterpret_cast<float*>(constants);
  for (int i = lane_index(); i < kTileChannels; i += 32) {
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

// Of channels from this one of the block's on.
__device__ inline void store(const LaneOutput& output, Sums& sums, int channel, u32 constants) {
  if (BIAS) add_bias(sums, constants);
#pragma unroll
  for (int word = 0; word < kTileWords; ++word) {
    if constexpr (NORM || RELU) finish(sums, constants, word);
    hold();
    Bits* out = output.first + channel + word * kWordBits;
    const bool exists = channel + word * kWordBits < output.channels;  // (8 exist or none.)
#pragma unroll
    for (int m = 0; m < kPassRows; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        store_vector_if(exists && output.exists[half] && m < output.rows,
                        out + half * output.next_eight, rounded_pair(sums, m, half, word, 0),
                        rounded_pair(sums, m, half, word, 2), rounded_pair(sums, m, half, word, 4),
                        rounded_pair(sums, m, half, word, 6));
      }
      out += output.next_row;
    }
  }
}

#endif
