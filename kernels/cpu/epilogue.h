// From counts of differing bits to the output.
//
// dot = taps - 2 * count (or - count, where two copies of the weights were counted); then alpha *
// dot + addend, each operation rounded by itself, and one rounding to the output's type (the
// sources are compiled without contraction to FMA). A norm may follow in float32. Or a bit:
// (dot >= threshold) ^ flip.
#pragma once

#include "bits.h"
#include "plan.h"

namespace BINOP_PATH {

inline void normalize(const Norm& norm, i64 first, i64 count, float* values) {
  const float* scale = norm.scale + first;
  const float* shift = norm.shift + first;
  if (norm.fused != 0) {
    for (i64 c = 0; c < count; ++c) values[c] = __builtin_fmaf(scale[c], values[c], shift[c]);
  } else {
    for (i64 c = 0; c < count; ++c) values[c] = scale[c] * values[c] + shift[c];
  }
}

// What the output channels of a block are scaled by. Adding -0.0 leaves every value as it is.
template <class Real, int N>
struct Scales {
  alignas(64) Real alpha[N];
  alignas(64) Real addend[N];

  void load(const ConvPlan& plan, const ConvPointers& from, const Block& block) {
    const ConvSpec& spec = plan.spec;
    for (i64 c = 0; c < block.channels; ++c) {
      const i64 channel = block.first_channel + c;
      Real scale = static_cast<Real>(
          load_float(from.scale_w, channel * spec.scale_w.stride, spec.scale_w.dtype));
      if (from.scale_a != nullptr) {
        scale = static_cast<Real>(load_float(from.scale_a, 0, spec.scale_a.dtype)) * scale;
      }
      alpha[c] = scale;
      addend[c] = from.bias == nullptr
                      ? static_cast<Real>(-0.0)
                      : static_cast<const float*>(from.bias)[channel * spec.bias.stride];
    }
    for (i64 c = block.channels; c < N; ++c) alpha[c] = addend[c] = 0;
  }

  Real scaled(int c, i32 count, i32 taps, i32 per_count) const {
    return alpha[c] * static_cast<Real>(taps - per_count * count);
  }

  // N is a multiple of a vector's length: the loop has no rest.
  void apply(const i32* counts, i32 taps, i32 per_count, int channels, Real* y) const {
    for (int c = 0; c < channels; ++c) {
      y[c] = scaled(c, counts[c], taps, per_count) + addend[c];
    }
  }
};

// Converts `count` values that lie side by side.
inline void store(float* out, const float* values, i64 count) {
  std::memcpy(out, values, static_cast<size_t>(count) * sizeof(float));
}

inline void store(double* out, const double* values, i64 count) {
  std::memcpy(out, values, static_cast<size_t>(count) * sizeof(double));
}

inline void store(double* out, const float* values, i64 count) {
  for (i64 i = 0; i < count; ++i) out[i] = values[i];
}

struct Bfloat16 {
  u16 bits;
};
struct Float16 {
  u16 bits;
};

inline void store(Bfloat16* out, const float* values, i64 count) {
  for (i64 i = 0; i < count; ++i) out[i].bits = float_to_bfloat16(values[i]);
}

inline void store(Float16* out, const float* values, i64 count) {
  u16* halves = &out->bits;
  i64 i = 0;
  for (; i + 8 <= count; i += 8) store_halves(halves + i, values + i);
  for (; i < count; ++i) halves[i] = float_to_half(values[i]);
}

// What decides the bits of a block's output channels.
template <int N>
struct Thresholds {
  alignas(64) i32 least[N];
  u32 flip[N / kWordBits];

  void load(const ConvPlan& plan, const ConvPointers& from, const Block& block) {
    const ConvSpec& spec = plan.spec;
    const i32* thresholds = static_cast<const i32*>(from.threshold);
    const u8* flips = static_cast<const u8*>(from.flip);
    for (u32& word : flip) word = 0;
    for (i64 c = 0; c < N; ++c) {
      const i64 channel = block.first_channel + c;
      least[c] = c < block.channels ? thresholds[channel * spec.threshold.stride] : 0;
      if (c < block.channels && flips[channel * spec.flip.stride] != 0) {
        flip[c / kWordBits] |= kWord.bit[c % kWordBits];
      }
    }
  }

  u32 word(const i32* counts, i32 taps, int doubled, i64 index) const {
    return reached_word(counts + index * kWordBits, doubled, taps, least + index * kWordBits) ^
           flip[index];
  }
};

}  // namespace BINOP_PATH
