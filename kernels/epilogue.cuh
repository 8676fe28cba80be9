// From the exact dot product to the output. Compiled with -DOUT=<float16|bfloat16|float32|bits>.
//
// Float: alpha * float(dot) + bias, each operation rounded by itself (no contraction to FMA).
// Bits: (dot >= threshold) ^ flip.
#pragma once

#include "conv.cuh"

struct bits {};

// What the epilogue needs of one output channel, and the value that it makes of a dot product.
template <class Out>
struct Channel {
  static constexpr bool kPacked = false;
  using Value = typename Out::Bits;
  float alpha;
  float addend;

  template <class Arguments>
  static __device__ Channel load(const Arguments& a, i64 channel) {
    Channel loaded;
    loaded.alpha = load_scale(a.scale_w, channel * a.scale_w_stride, a.scale_w_dtype);
    if (a.scale_a != nullptr) {
      loaded.alpha = __fmul_rn(load_scale(a.scale_a, 0, a.scale_a_dtype), loaded.alpha);
    }
    // Adding -0.0 leaves every value as it is, -0.0 included; adding +0.0 would not.
    loaded.addend = a.bias != nullptr ? a.bias[channel * a.bias_stride] : -0.0f;
    return loaded;
  }

  __device__ float finish(float dot) const { return __fadd_rn(__fmul_rn(alpha, dot), addend); }

  __device__ Value finish(int dot) const { return Out::from_float(finish(__int2float_rn(dot))); }
};

template <>
struct Channel<bits> {
  static constexpr bool kPacked = true;
  using Value = u32;  // 0 or 1
  int threshold;
  u32 at_least;  // the bit where dot >= threshold

  template <class Arguments>
  static __device__ Channel load(const Arguments& a, i64 channel) {
    // |dot| < 2**24, so that clamping changes no comparison, and the difference cannot overflow.
    constexpr int kLimit = 1 << 25;
    const int threshold = a.threshold[channel * a.threshold_stride];
    return {threshold < -kLimit  ? -kLimit
            : threshold > kLimit ? kLimit
                                 : threshold,
            a.flip[channel * a.flip_stride] ? 0u : 1u};
  }

  __device__ u32 finish(int dot) const {
    return (static_cast<u32>(dot - threshold) >> 31) ^ at_least;
  }
};
