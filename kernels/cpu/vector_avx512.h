// Vectors of 512 bits (AVX-512 F, BW, VL).
#pragma once

#define BINOP_AVX512
#include "vector_avx2.h"

namespace BINOP_PATH {

struct WideBytes {
  using Vector = __m512i;
  static constexpr int kBytes = 64;

  static Vector zero() { return _mm512_setzero_si512(); }
  static Vector load(const void* at) { return _mm512_load_si512(at); }
  static void store(void* at, Vector v) { _mm512_store_si512(at, v); }
  static Vector repeat(const u8* table) {
    return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
  }
  static Vector look_up(Vector table, Vector index) { return _mm512_shuffle_epi8(table, index); }
  static Vector add_bytes(Vector a, Vector b) { return _mm512_add_epi8(a, b); }
  static Vector add_shorts(Vector a, Vector b) { return _mm512_add_epi16(a, b); }
  static Vector high_bytes(Vector a) { return _mm512_srli_epi16(a, 8); }
  static Vector differ(Vector a, Vector b) { return _mm512_xor_si512(a, b); }
  static Vector low_nibbles(Vector a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
  static Vector high_nibbles(Vector a) { return low_nibbles(_mm512_srli_epi16(a, 4)); }

  static void widen(Vector all, Vector odd, i32* totals, bool first) {
    Bytes::widen(_mm512_castsi512_si256(all), _mm512_castsi512_si256(odd), totals, first);
    Bytes::widen(_mm512_extracti64x4_epi64(all, 1), _mm512_extracti64x4_epi64(odd, 1), totals + 32,
                 first);
  }
};

// Bit i: base - (totals[i] << doubled) >= threshold[i].
inline u32 reached_word(const i32* totals, int doubled, i32 base, const i32* threshold) {
  u32 word = 0;
  const __m512i from = _mm512_set1_epi32(base);
  for (int i = 0; i < 2; ++i) {
    const __m512i total = _mm512_loadu_si512(totals + 16 * i);
    const __m512i dot = _mm512_sub_epi32(from, _mm512_sll_epi32(total, _mm_cvtsi32_si128(doubled)));
    const __mmask16 reached = _mm512_cmpge_epi32_mask(dot, _mm512_load_si512(threshold + 16 * i));
    word |= static_cast<u32>(reached) << (16 * i);
  }
  return word;
}

#if defined(BINOP_VPOPCNTDQ)
struct WideWords {
  using Vector = __m512i;
  static constexpr int kLanes = 16;
  static constexpr int kSteps = 0;  // no limit: the sums are ints

  static Vector zero() { return _mm512_setzero_si512(); }
  static Vector load(const void* at) { return _mm512_load_si512(at); }
  static Vector broadcast(const u32* at) { return _mm512_set1_epi32(static_cast<int>(*at)); }

  static Vector count(Vector sum, Vector a, Vector b) {
    return _mm512_add_epi32(sum, _mm512_popcnt_epi32(_mm512_xor_si512(a, b)));
  }

  static void widen(Vector sum, i32* totals, bool) { _mm512_store_si512(totals, sum); }
};
#endif

}  // namespace BINOP_PATH
