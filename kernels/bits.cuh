// The bit of a value, and words of bits (layout: binop/packing.py).
#pragma once

#include "types.cuh"

constexpr int kWordBits = 32;

// v >= 0 by bit pattern: -0.0 is true, NaN and negative subnormals are false, whatever the
// compiler does to subnormals.
__device__ inline bool is_nonnegative(u32 bits, u32 infinity, u32 minus_zero) {
  return bits <= infinity || bits == minus_zero;
}

template <class Element>
__device__ inline bool is_nonnegative(u32 bits) {
  return is_nonnegative(bits, Element::kInfinity, Element::kMinusZero);
}

// Bits of the last word of `channels` channels.
__device__ inline u32 tail_mask(i64 channels) {
  const int used = static_cast<int>(channels % kWordBits);
  return used == 0 ? ~0u : (1u << used) - 1u;
}

// Two 16-bit floats in one word. The answers stand in the halves' top bits (kPairTops); the other
// bits are arbitrary. No sum carries from one half into the other: 0x7FFF + 0x8000 fits 16 bits.
constexpr u32 kPairTops = 0x80008000u;

__device__ inline u32 both_halves(u32 half) { return half * 0x10001u; }

template <class Element>
__device__ inline u32 pair_is_nonnegative(u32 pair) {
  const u32 magnitudes = pair & ~kPairTops;
  const u32 nan = magnitudes + both_halves(0x7FFFu - Element::kInfinity);
  const u32 nonzero = magnitudes + ~kPairTops;
  return ~(nan | (pair & nonzero));
}

// abs(x) <= bound in float32, decided on integers: non-negative floats order like their bit
// patterns, and an absolute NaN lies above the infinity.
struct ClipBound {
  int bits;

  // clip is a double; the bound is float32(clip) * abs(float32(scale)).
  static __device__ ClipBound from(double clip, float scale) {
    const float bound = __fmul_rn(__double2float_rn(clip), fabsf(scale));
    const int bits = __float_as_int(bound);
    return {bits > 0x7F800000 || bits < 0 ? -1 : bits};
  }

  // For pair_passes: what lifts the 16-bit magnitudes above the bound to 0x8000 and more.
  template <class Element>
  __device__ u32 pair_slack() const {
    const u32 largest = bits < 0 ? ~0u : Element::largest_at_most(__int_as_float(bits));
    return both_halves(0x7FFFu - largest);
  }

  static __device__ u32 pair_passes(u32 pair, u32 slack) { return ~((pair & ~kPairTops) + slack); }

  template <class Element>
  __device__ bool passes(u32 value) const {
    const auto narrow = static_cast<typename Element::Bits>(value);
    return (__float_as_int(Element::to_float(narrow)) & 0x7FFFFFFF) <= bits;
  }
};
