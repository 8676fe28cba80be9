// From a convolution's floats to a residual sum and its signs, both from registers: the steps of
// binop/residual.py, each rounded by itself in float32, with one rounding to the output's type
// after the convolution and one after the sum.
#pragma once

#include <type_traits>

#include "bits.h"
#include "epilogue.h"
#include "plan.h"
#include "strip.h"

namespace BINOP_PATH {

// Values that lie side by side.
inline void load(float* to, const float* from, i64 count) {
  std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
}

inline void load(float* to, const Bfloat16* from, i64 count) {
  for (i64 i = 0; i < count; ++i) to[i] = bit_cast<float>(static_cast<u32>(from[i].bits) << 16);
}

inline void load(float* to, const Float16* from, i64 count) {
  const u16* halves = &from->bits;
  const i64 whole = count / 8 * 8;
  for (i64 i = 0; i < whole; i += 8) load_halves(to + i, halves + i);
  for (i64 i = whole; i < count; ++i) to[i] = half_to_float(halves[i]);
}

// `yes` or `no`, both computed: a compiler moves a product into the branch that alone needs it, and
// then makes no vectors of the loop, since the product might trap.
inline float select(bool condition, float yes, float no) {
  const u32 mask = 0u - static_cast<u32>(condition);
  return bit_cast<float>((bit_cast<u32>(yes) & mask) | (bit_cast<u32>(no) & ~mask));
}

// The sums of a block's channels. What stands behind the block's channels is computed, too, and
// neither stored nor decided.
template <class Out, int N>
struct ResidualSum {
  static constexpr bool kRounded = !std::is_same_v<Out, float>;

  Scales<float, N> scales;
  alignas(64) float mean[N], inverse[N], weight[N], bias[N];
  alignas(64) float before[N], slope[N], after[N];
  alignas(64) float shift[N];
  const Out* residual;
  const i64* stride;
  i64 first, channels;
  i32 per_count;
  float least;  // zero for a ReLU
  bool activated, shifted;

  void load(const ConvPlan& plan, const ConvPointers& pointers, const Block& block) {
    const Residual& from = *pointers.residual;
    scales.load(plan, pointers, block);
    per_count = plan.copies == 1 ? 2 : 1;
    first = block.first_channel;
    channels = block.channels;
    residual = static_cast<const Out*>(from.values);
    stride = plan.spec.residual.stride;
    least = plan.spec.residual.relu != 0 ? 0.0f : -__builtin_inff();
    activated = from.activation != nullptr;
    shifted = from.shift != nullptr;
    float* const of_norm[] = {mean, inverse, weight, bias};
    for (int i = 0; i < 4; ++i) copy(of_norm[i], from.norm + i * plan.out_channels);
    float* const of_activation[] = {before, slope, after};
    for (int i = 0; activated && i < 3; ++i) {
      copy(of_activation[i], from.activation + i * plan.out_channels);
    }
    if (shifted) copy(shift, from.shift);
  }

  void copy(float* to, const float* from) const {
    std::memcpy(to, from + first, static_cast<size_t>(channels) * sizeof(float));
    for (i64 c = channels; c < N; ++c) to[c] = 0;
  }

  // Writes the sums of the block's channels to `y`, and what decides the signs of `count` channels
  // to `decided`, as patterns, where that is not `y` itself in 16 bits.
  void apply(const ConvPlan& plan, const Pixel& pixel, int count, const i32* counts, u32* decided,
             Out* y) const {
    if (channels == N) {  // a number of steps that the compiler knows
      apply_to<true>(plan, pixel, N, counts, decided, y);
    } else {
      apply_to<false>(plan, pixel, count, counts, decided, y);
    }
  }

  template <bool Full>
  void apply_to(const ConvPlan& plan, const Pixel& pixel, int count, const i32* counts,
                u32* decided, Out* __restrict y) const {
    alignas(64) float copied[N];
    const float* added = fetch(plan, pixel, count, copied);
    const auto convolved = [&](int c) {
      return scales.scaled(c, counts[c], pixel.taps, per_count);
    };
    if constexpr (kRounded) {
      alignas(64) float values[N];
      if constexpr (!Full) std::memset(values, 0, sizeof(values));
      for (int c = 0; c < count; ++c) values[c] = convolved(c);
      round(values, count);
      add(count, added, [&](int c) { return values[c]; }, [&](int c, float v) { values[c] = v; });
      store(y, values, channels);
      if (!shifted) return;
      round(values, count);
      for (int c = 0; c < count; ++c) decided[c] = bit_cast<u32>(values[c] + shift[c]);
    } else {
      add(count, added, convolved, [&](int c, float v) {
        if constexpr (Full) y[c] = v;
        decided[c] = bit_cast<u32>(v);
      });
      if constexpr (!Full) std::memcpy(y, decided, static_cast<size_t>(channels) * sizeof(float));
      if (!shifted) return;
      for (int c = 0; c < count; ++c) {
        decided[c] = bit_cast<u32>(bit_cast<float>(decided[c]) + shift[c]);
      }
    }
  }

  template <class Get, class Put>
  void add(int count, const float* added, const Get& get, const Put& put) const {
    const auto sum = [&](int c) {
      const float v = get(c);
      return ((v < least ? least : v) - mean[c]) * inverse[c] * weight[c] + bias[c] + added[c];
    };
    if (activated) {
      for (int c = 0; c < count; ++c) {
        const float v = sum(c) + before[c];
        put(c, select(v > 0, v, slope[c] * v) + after[c]);
      }
    } else {
      for (int c = 0; c < count; ++c) put(c, sum(c));
    }
  }

  // In place, to what the output's type can hold: eight at a time, the last of them perhaps behind
  // `count`.
  static void round(float* values, int count) {
    alignas(64) Out rounded[8];
    for (int c = 0; c < count; c += 8) {
      store(rounded, values + c, 8);
      BINOP_PATH::load(values + c, rounded, 8);
    }
  }

  // The residual of `count` channels: where it lies, or a copy in `copied`.
  const float* fetch(const ConvPlan& plan, const Pixel& pixel, int count, float* copied) const {
    const Out* from = residual + pixel.image * stride[0] + first * stride[1] +
                      (pixel.row - plan.rows) * stride[2] +
                      (pixel.column - plan.columns) * stride[3];
    if (stride[1] == 1) {
      if constexpr (!kRounded) {
        if (channels == count) return from;
      }
      BINOP_PATH::load(copied, from, channels);
    } else {
      // The strip's next pixels find these lines in the cache.
      alignas(64) Out gathered[N];
      for (i64 c = 0; c < channels; ++c) gathered[c] = from[c * stride[1]];
      BINOP_PATH::load(copied, gathered, channels);
    }
    for (i64 c = channels; c < count; ++c) copied[c] = 0;
    return copied;
  }

  u32 sign_word(const u32* decided, const Out* y, i64 index, i64 left) const {
    if constexpr (kRounded) {
      constexpr i64 kDtype = std::is_same_v<Out, Float16> ? kFloat16 : kBfloat16;
      if (!shifted) return word(&y[index * kWordBits].bits, left, sign_predicate(kDtype));
    }
    return word(decided + index * kWordBits, left, sign_predicate(kFloat32));
  }

  template <class Bits>
  static u32 word(const Bits* at, i64 left, const Predicate& sign) {
    return left < kWordBits ? part_word(at, left, sign) : full_word(at, sign);
  }
};

}  // namespace BINOP_PATH
