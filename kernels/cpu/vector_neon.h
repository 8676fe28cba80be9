// NEON: four words, counted in bytes that are widened before the 32nd addition of up to 8.
#pragma once

#include <arm_neon.h>

#include "bits.h"

namespace BINOP_PATH {

struct Words {
  using Vector = uint8x16_t;
  static constexpr int kLanes = 4;
  static constexpr int kSteps = 31;

  static Vector zero() { return vdupq_n_u8(0); }
  static Vector load(const void* at) { return vld1q_u8(static_cast<const u8*>(at)); }
  static Vector broadcast(const u32* at) { return vreinterpretq_u8_u32(vld1q_dup_u32(at)); }

  static Vector count(Vector sum, Vector a, Vector b) {
    return vaddq_u8(sum, vcntq_u8(veorq_u8(a, b)));
  }

  static void widen(Vector sum, i32* totals, bool first) {
    const int32x4_t all = vreinterpretq_s32_u32(vpaddlq_u16(vpaddlq_u8(sum)));
    vst1q_s32(totals, first ? all : vaddq_s32(all, vld1q_s32(totals)));
  }
};

// Bit i: base - (totals[i] << doubled) >= threshold[i].
inline u32 reached_word(const i32* totals, int doubled, i32 base, const i32* threshold) {
  u32 word = 0;
  for (int i = 0; i < kWordBits; i += 4) {
    const int32x4_t dot =
        vsubq_s32(vdupq_n_s32(base), vshlq_s32(vld1q_s32(totals + i), vdupq_n_s32(doubled)));
    const uint32x4_t reached = vcgeq_s32(dot, vld1q_s32(threshold + i));
    word |= vaddvq_u32(vandq_u32(reached, vld1q_u32(kWord.bit + i)));
  }
  return word;
}

inline void store_halves(u16* out, const float* values) {
  vst1q_u16(out, vcombine_u16(vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(values))),
                              vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(values + 4)))));
}

inline void load_halves(float* to, const u16* from) {
  vst1q_f32(to, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from))));
  vst1q_f32(to + 4, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from + 4))));
}

// out[c][p] = in[p][c] for 8 x 8 floats, in blocks of 4 x 4.
inline void transpose(const float* in, i64 in_pitch, float* out, i64 out_pitch) {
  for (int p = 0; p < 8; p += 4) {
    for (int c = 0; c < 8; c += 4) {
      const float* from = in + p * in_pitch + c;
      float* to = out + c * out_pitch + p;
      const float32x4x2_t a = vtrnq_f32(vld1q_f32(from), vld1q_f32(from + in_pitch));
      const float32x4x2_t b =
          vtrnq_f32(vld1q_f32(from + 2 * in_pitch), vld1q_f32(from + 3 * in_pitch));
      for (int half = 0; half < 2; ++half) {
        const float32x4_t left = a.val[half];
        const float32x4_t right = b.val[half];
        vst1q_f32(to + half * out_pitch, vcombine_f32(vget_low_f32(left), vget_low_f32(right)));
        vst1q_f32(to + (half + 2) * out_pitch,
                  vcombine_f32(vget_high_f32(left), vget_high_f32(right)));
      }
    }
  }
}

}  // namespace BINOP_PATH
