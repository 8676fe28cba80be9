// Plain C++ that compilers turn into whatever vectors the target has.
#pragma once

#include "bits.h"

namespace BINOP_PATH {

// Four words, as the compiler's own vectors. Counts stand in bytes, so that they must be widened
// before the 32nd addition of up to 8.
struct Words {
  typedef u32 Vector __attribute__((vector_size(16)));
  static constexpr int kLanes = 4;
  static constexpr int kSteps = 31;

  static Vector zero() { return Vector{}; }
  static Vector load(const void* at) { return *static_cast<const Vector*>(at); }
  static Vector broadcast(const u32* at) { return Vector{} + *at; }

  static Vector count(Vector sum, Vector a, Vector b) {
    Vector x = a ^ b;
    x = x - ((x >> 1) & 0x55555555u);
    x = (x & 0x33333333u) + ((x >> 2) & 0x33333333u);
    return sum + ((x + (x >> 4)) & 0x0F0F0F0Fu);
  }

  static void widen(Vector sum, i32* totals, bool first) {
    const Vector pairs = (sum & 0x00FF00FFu) + ((sum >> 8) & 0x00FF00FFu);
    Vector& total = *reinterpret_cast<Vector*>(totals);
    const Vector all = (pairs & 0xFFFFu) + (pairs >> 16);
    total = first ? all : total + all;
  }
};

// Bit i: base - (totals[i] << doubled) >= threshold[i].
inline u32 reached_word(const i32* totals, int doubled, i32 base, const i32* threshold) {
  u32 word = 0;
  for (int i = 0; i < kWordBits; ++i) {
    word |= base - totals[i] * (1 << doubled) >= threshold[i] ? kWord.bit[i] : 0u;
  }
  return word;
}

inline void store_halves(u16* out, const float* values) {
  for (int i = 0; i < 8; ++i) out[i] = float_to_half(values[i]);
}

inline void load_halves(float* to, const u16* from) {
  for (int i = 0; i < 8; ++i) to[i] = half_to_float(from[i]);
}

// out[c][p] = in[p][c] for 8 x 8 floats.
inline void transpose(const float* in, i64 in_pitch, float* out, i64 out_pitch) {
  for (int c = 0; c < 8; ++c) {
    for (int p = 0; p < 8; ++p) out[c * out_pitch + p] = in[p * in_pitch + c];
  }
}

}  // namespace BINOP_PATH
