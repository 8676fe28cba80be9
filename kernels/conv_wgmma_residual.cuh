// Sums of a tile -> the output between two residual sums, as floats and as bits (what
// binop/residual.py computes with several ops, to the bit).
//
// Compiled with
//   RELU        1: a ReLU follows the convolution
//   ACTIVATION  1: an RPReLU follows the sum
//   SHIFTED     1: the signs are those of the output plus a constant
//
// The time goes to memory, for the residual and the output. A lane loads the residual of its first
// channels while the products run, and then stays some words ahead of what it finishes.
//
// Stands after the tile header of its kernel.
#pragma once

#include "conv_wgmma_store.cuh"

// Dense and of the output's layout: [pixels][out_channels]; per-channel operands are rows.
struct ResidualPointers {
  u32* signs;
  const void* residual;
  const float* norm;        // mean, 1 / std, weight, bias
  const float* activation;  // before, slope, after
  const float* shift;
};

// The bases stand in this order: what changes from call to call comes first.
struct ResidualArguments : ResidualPointers, WgmmaArguments {};

constexpr int kNorm = 2;  // rows of the constants in shared memory, after alpha and the addend
constexpr int kActivation = kNorm + 4;
constexpr int kShift = kActivation + 3 * ACTIVATION;

// Those rows, of one channel: all loads are in flight before the first is stored.
struct ResidualConstants {
  static constexpr int kRows = kConstants - kNorm;

  float values[kRows];

  __device__ void load(const WgmmaArguments& arguments, const Channels& channels, int channel) {
    const auto& a = static_cast<const ResidualArguments&>(arguments);
    const i64 at = channels.first + channel;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int row = i + kNorm;
      const float* from = row < kActivation ? a.norm + (row - kNorm) * a.out_channels
                          : ACTIVATION && row < kShift
                              ? a.activation + (row - kActivation) * a.out_channels
                              : a.shift;
      values[i] = channel < channels.count ? from[at] : 0.0f;
    }
  }

  __device__ void store(u32 shared, int channel) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      store_shared(shared + Layout::kAlpha + 4 * (TILE_N * (kNorm + i) + channel),
                   __float_as_uint(values[i]));
    }
  }
};

__device__ inline void write_residual_constants(const WgmmaArguments& a, const Channels& channels,
                                                int channel, u32 shared) {
  ResidualConstants constants;
  constants.load(a, channels, channel);
  constants.store(shared, channel);
}

// Where this lane's channels of a row lie in a channels_last output.
struct LanePlace {
  i64 first;     // its first channel; those of the next word follow kWordBits later
  int existing;  // channels of the tile from it on; none where the row does not exist

  static __device__ LanePlace of(const WgmmaArguments& a, const Channels& channels,
                                 const LaneRows& rows, int half) {
    const int channel = threadIdx.x % 4 * kLaneChannels;
    LanePlace place = {
        static_cast<i64>(rows.pixel_of(half)) * a.out_channels + channels.first + channel,
        rows.exists(half) ? channels.count - channel : 0};
    keep(place.existing);  // and not a register for what it is of every word
    return place;
  }

  __device__ int existing_of(int word) const { return existing - word * kWordBits; }
};

// 8 channels of a pixel, as they are in memory.
template <class Out>
struct LaneElements {
  using Bits = typename Out::Bits;
  static constexpr int kPerWord = 4 / sizeof(Bits);
  static constexpr int kWords = kLaneChannels / kPerWord;

  u32 words[kWords];

  // `count` of them exist.
  static __device__ LaneElements load(const Bits* from, int count) {
    LaneElements loaded;
#pragma unroll
    for (int i = 0; i < kWords; ++i) loaded.words[i] = 0;
    if constexpr (STORES == kWide) {
      if (count > 0) {
#pragma unroll
        for (int i = 0; i < kWords; i += 4) {
          const uint4 part = __ldcs(reinterpret_cast<const uint4*>(from) + i / 4);
          loaded.words[i] = part.x;
          loaded.words[i + 1] = part.y;
          loaded.words[i + 2] = part.z;
          loaded.words[i + 3] = part.w;
        }
      }
    } else {
#pragma unroll
      for (int i = 0; i < kLaneChannels; ++i) {
        const u32 value = i < count ? from[i] : 0;
        loaded.words[i / kPerWord] |= value << i % kPerWord * 16;
      }
    }
    return loaded;
  }

  static __device__ LaneElements of(const LaneValues& y) {
    LaneElements rounded;
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if constexpr (kPerWord == 2) {
        rounded.words[i] = Out::pair_from_floats(y.values[2 * i], y.values[2 * i + 1]);
      } else {
        rounded.words[i] = Out::from_float(y.values[i]);
      }
    }
    return rounded;
  }

  __device__ void store(Bits* to, int count) const {
    if constexpr (STORES == kWide) {
      if (count <= 0) return;
#pragma unroll
      for (int i = 0; i < kWords; i += 4) {
        store_vector(to + i * kPerWord, words[i], words[i + 1], words[i + 2], words[i + 3]);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kLaneChannels; ++i) {
        if (i < count) to[i] = bits(i);
      }
    }
  }

  __device__ Bits bits(int i) const {
    return static_cast<Bits>(words[i / kPerWord] >> i % kPerWord * 16);
  }

  __device__ LaneValues values() const {
    LaneValues y;
#pragma unroll
    for (int i = 0; i < kLaneChannels; ++i) y.values[i] = Out::to_float(bits(i));
    return y;
  }

  // Bit i is the sign of channel i.
  __device__ u32 signs() const {
    static_assert(kPerWord == 2);
    u32 below[kWords];
#pragma unroll
    for (int i = 0; i < kWords; ++i) below[i] = below_zero<Out>(words[i]);
    const u32 signs = add_signs(0xFFu, spread_signs(below[0], below[1]), 0x08040201u);
    return add_signs(signs, spread_signs(below[2], below[3]), 0x80402010u);
  }
};

// The same of floats. The comparison is exact: no subnormal is flushed here.
__device__ inline u32 signs_of(const LaneValues& y) {
  u32 bits = 0;
#pragma unroll
  for (int i = 0; i < kLaneChannels; ++i) {
    if (y.values[i] >= 0.0f) bits |= 1u << i;
  }
  return bits;
}

// 8 channels of both rows of this lane.
struct LaneSums {
  LaneValues rows[2];

  // Every value with the constant of its channel, of which the lane's first is at an address.
  template <class Step>
  __device__ void each(u32 constants, Step step) {
    const LaneValues loaded = LaneValues::load(constants);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kLaneChannels; ++i) {
        rows[half].values[i] = step(rows[half].values[i], loaded.values[i]);
      }
    }
  }

  template <class Out>
  __device__ void round() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if constexpr (Out::kTopOfFloat) {  // one instruction a value
#pragma unroll
        for (int i = 0; i < kLaneChannels; ++i) {
          float& value = rows[half].values[i];
          value = __uint_as_float(Out::pair_from_floats(0.0f, value));
        }
      } else {
        rows[half] = LaneElements<Out>::of(rows[half]).values();
      }
    }
  }
};

template <class Out>
class ResidualEpilogue {
 public:
  // Before the products are done, with the rows' pixels known.
  __device__ void begin(const WgmmaArguments& a, const Channels& channels, const LaneRows& rows) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      places_[half] = LanePlace::of(a, channels, rows, half);
    }
#pragma unroll
    for (int word = 0; word < kAhead; ++word) load(a, word);
  }

  __device__ void store(const WgmmaArguments& arguments, const Channels& channels, u32 shared,
                        const LaneRows& rows, const Sums& sums) {
    const auto& a = static_cast<const ResidualArguments&>(arguments);
    // As in store_bits: bytes that are exchanged together.
    constexpr bool kBothRows = kTileWords <= 2;
    const ByteExchange exchange = ByteExchange::of(lane());
    u32 bytes[2] = {0, 0};
#pragma unroll
    for (int word = 0; word < kTileWords; ++word) {
      hold_loads();
      LaneSums finished = finish(shared, rows, sums, word);
      if (word + kAhead < kTileWords) load(a, word + kAhead);
      u32 signs[2];
      store_floats(a, shared, word, finished, signs);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if constexpr (kBothRows) {
          bytes[0] |= signs[half] << 8 * (half * kTileWords + word);
        } else {
          bytes[half] |= signs[half] << word % 4 * 8;
        }
      }
      if (!kBothRows && (word % 4 == 3 || word == kTileWords - 1)) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          store_signs(a, channels, rows, half, word / 4 * 4 + lane(), exchange(bytes[half]));
          bytes[half] = 0;
        }
      }
    }
    if constexpr (kBothRows) {
      const u32 signs = exchange(bytes[0]);
      if (lane() < 2 * kTileWords) {
        store_signs(a, channels, rows, lane() / kTileWords, lane() % kTileWords, signs);
      }
    }
  }

 private:
  using Bits = typename Out::Bits;
  static constexpr int kWanted = sizeof(Bits) == 2 ? 2 : 1;
  static constexpr int kAhead = kWanted < kTileWords ? kWanted : kTileWords;  // words

  LanePlace places_[2];
  LaneElements<Out> ahead_[kAhead][2];

  static __device__ int lane() { return threadIdx.x % 4; }

  // This lane's first of a word.
  static __device__ int channel_of(int word) { return word * kWordBits + lane() * kLaneChannels; }

  // Of a row of the constants, for that channel.
  static __device__ u32 constants(u32 shared, int row, int word) {
    return shared + Layout::kAlpha + 4 * (TILE_N * row + channel_of(word));
  }

  __device__ void load(const WgmmaArguments& a, int word) {
    const void* residual = static_cast<const ResidualArguments&>(a).residual;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Bits* from =
          static_cast<const Bits*>(residual) + places_[half].first + word * kWordBits;
      ahead_[word % kAhead][half] = LaneElements<Out>::load(from, places_[half].existing_of(word));
    }
  }

  // One rounding a step.
  __device__ LaneSums finish(u32 shared, const LaneRows& rows, const Sums& sums, int word) const {
    LaneSums s;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float negative_set = static_cast<float>(-2 * rows.set[half]);
      const ClassValues counted =
          ClassValues::load(ClassValues::at(shared, rows.border[half], channel_of(word)));
#pragma unroll
      for (int i = 0; i < kLaneChannels; ++i) {
        const int sum = sum_of(sums, word, half, i);
        s.rows[half].values[i] = dot_of(scale_and_add(sum, counted.value(i)), negative_set);
      }
    }
    const auto multiply = [](float value, float by) { return __fmul_rn(value, by); };
    const auto add = [](float value, float addend) { return __fadd_rn(value, addend); };
    s.each(constants(shared, 0, word), multiply);
    if constexpr (sizeof(Bits) == 2) s.round<Out>();
    if constexpr (RELU) {
      s.each(constants(shared, kNorm, word),
             [](float c, float mean) { return __fsub_rn(c < 0.0f ? 0.0f : c, mean); });
    } else {
      s.each(constants(shared, kNorm, word),
             [](float c, float mean) { return __fsub_rn(c, mean); });
    }
    s.each(constants(shared, kNorm + 1, word), multiply);
    s.each(constants(shared, kNorm + 2, word), multiply);
    s.each(constants(shared, kNorm + 3, word), add);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const LaneValues residual = ahead_[word % kAhead][half].values();
#pragma unroll
      for (int i = 0; i < kLaneChannels; ++i) {
        s.rows[half].values[i] = __fadd_rn(s.rows[half].values[i], residual.values[i]);
      }
    }
    if constexpr (ACTIVATION) {
      s.each(constants(shared, kActivation, word), add);
      s.each(constants(shared, kActivation + 1, word), [](float value, float slope) {
        return value > 0.0f ? value : __fmul_rn(slope, value);
      });
      s.each(constants(shared, kActivation + 2, word), add);
    }
    return s;
  }

  // Returns the signs of what goes to the next convolution.
  __device__ void store_floats(const WgmmaArguments& a, u32 shared, int word, LaneSums& finished,
                               u32 (&signs)[2]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Bits* out = static_cast<Bits*>(a.out) + places_[half].first + word * kWordBits;
      const auto stored = LaneElements<Out>::of(finished.rows[half]);
      stored.store(out, places_[half].existing_of(word));
      if constexpr (SHIFTED) {
        finished.rows[half] = stored.values();
      } else if constexpr (sizeof(Bits) == 2) {
        signs[half] = stored.signs();
      } else {
        signs[half] = signs_of(finished.rows[half]);
      }
    }
    if constexpr (SHIFTED) {
      finished.each(constants(shared, kShift, word),
                    [](float y, float shift) { return __fadd_rn(y, shift); });
#pragma unroll
      for (int half = 0; half < 2; ++half) signs[half] = signs_of(finished.rows[half]);
    }
  }

  static __device__ void store_signs(const ResidualArguments& a, const Channels& channels,
                                     const LaneRows& rows, int half, int word, u32 signs) {
    const int left = channels.count - word * kWordBits;
    if (!rows.exists(half) || left <= 0) return;
    const i64 words = (a.out_channels + kWordBits - 1) / kWordBits;
    a.signs[static_cast<i64>(rows.pixel_of(half)) * words + channels.first / kWordBits + word] =
        signs & (left < kWordBits ? (1u << left) - 1u : ~0u);
  }
};
