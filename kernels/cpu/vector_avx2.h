// Vectors of 256 bits.
#pragma once

#include <immintrin.h>

#include "bits.h"

namespace BINOP_PATH {

struct Bytes {
  using Vector = __m256i;
  static constexpr int kBytes = 32;

  static Vector zero() { return _mm256_setzero_si256(); }
  static Vector load(const void* at) { return _mm256_load_si256(static_cast<const Vector*>(at)); }
  static void store(void* at, Vector v) { _mm256_store_si256(static_cast<Vector*>(at), v); }
  // 16 bytes, once in every 128-bit lane.
  static Vector repeat(const u8* table) {
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
  }
  static Vector look_up(Vector table, Vector index) { return _mm256_shuffle_epi8(table, index); }
  static Vector add_bytes(Vector a, Vector b) { return _mm256_add_epi8(a, b); }
  static Vector add_shorts(Vector a, Vector b) { return _mm256_add_epi16(a, b); }
  static Vector high_bytes(Vector a) { return _mm256_srli_epi16(a, 8); }
  static Vector differ(Vector a, Vector b) { return _mm256_xor_si256(a, b); }
  static Vector low_nibbles(Vector a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }
  static Vector high_nibbles(Vector a) { return low_nibbles(_mm256_srli_epi16(a, 4)); }

  // The sums of 32 channels (of the even ones in the low bytes of `all`, and in `odd`) as ints.
  static void widen(Vector all, Vector odd, i32* totals, bool first) {
    const Vector even = _mm256_sub_epi16(all, _mm256_slli_epi16(odd, 8));
    const Vector low = _mm256_unpacklo_epi16(even, odd);
    const Vector high = _mm256_unpackhi_epi16(even, odd);
    put(_mm256_castsi256_si128(low), totals, first);
    put(_mm256_castsi256_si128(high), totals + 8, first);
    put(_mm256_extracti128_si256(low, 1), totals + 16, first);
    put(_mm256_extracti128_si256(high, 1), totals + 24, first);
  }

  static void put(__m128i shorts, i32* totals, bool first) {
    Vector* at = reinterpret_cast<Vector*>(totals);
    const Vector ints = _mm256_cvtepu16_epi32(shorts);
    _mm256_store_si256(at, first ? ints : _mm256_add_epi32(ints, _mm256_load_si256(at)));
  }
};

// 32 elements of one flag byte, short or int each (all ones or zero) as a word of bits.
inline u32 word_of_bytes(__m256i flags) { return static_cast<u32>(_mm256_movemask_epi8(flags)); }

inline __m256i passes(const u8* at, const Predicate& predicate) {
  const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
  const __m256i most = _mm256_set1_epi8(static_cast<char>(predicate.most));
  const __m256i kept = _mm256_and_si256(v, _mm256_set1_epi8(static_cast<char>(predicate.kept)));
  return _mm256_or_si256(_mm256_cmpeq_epi8(_mm256_min_epu8(kept, most), kept),
                         _mm256_cmpeq_epi8(v, _mm256_set1_epi8(static_cast<char>(predicate.also))));
}

inline __m256i passes(const u16* at, const Predicate& predicate) {
  const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
  const __m256i most = _mm256_set1_epi16(static_cast<short>(predicate.most));
  const __m256i kept = _mm256_and_si256(v, _mm256_set1_epi16(static_cast<short>(predicate.kept)));
  return _mm256_or_si256(
      _mm256_cmpeq_epi16(_mm256_min_epu16(kept, most), kept),
      _mm256_cmpeq_epi16(v, _mm256_set1_epi16(static_cast<short>(predicate.also))));
}

inline __m256i passes(const u32* at, const Predicate& predicate) {
  const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
  const __m256i most = _mm256_set1_epi32(static_cast<int>(predicate.most));
  const __m256i kept = _mm256_and_si256(v, _mm256_set1_epi32(static_cast<int>(predicate.kept)));
  return _mm256_or_si256(
      _mm256_cmpeq_epi32(_mm256_min_epu32(kept, most), kept),
      _mm256_cmpeq_epi32(v, _mm256_set1_epi32(static_cast<int>(predicate.also))));
}

inline u32 full_word(const u8* at, const Predicate& predicate) {
  return word_of_bytes(passes(at, predicate));
}

inline u32 full_word(const u16* at, const Predicate& predicate) {
  const __m256i bytes = _mm256_packs_epi16(passes(at, predicate), passes(at + 16, predicate));
  return word_of_bytes(_mm256_permute4x64_epi64(bytes, 0xD8));  // packs works in each lane apart
}

inline u32 full_word(const u32* at, const Predicate& predicate) {
  u32 word = 0;
  for (int i = 0; i < 4; ++i) {
    const __m256 flags = _mm256_castsi256_ps(passes(at + 8 * i, predicate));
    word |= static_cast<u32>(_mm256_movemask_ps(flags)) << (8 * i);
  }
  return word;
}

inline u32 part_word(const u32* at, i64 count, const Predicate& predicate) {
  u32 word = 0;
  i64 i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256 flags = _mm256_castsi256_ps(passes(at + i, predicate));
    word |= static_cast<u32>(_mm256_movemask_ps(flags)) << i;
  }
  return word | some_bits(at, i, count, predicate);
}

inline u32 part_word(const u16* at, i64 count, const Predicate& predicate) {
  if (count < 16) return some_bits(at, 0, count, predicate);
  const __m256i flags = passes(at, predicate);
  const __m128i bytes =
      _mm_packs_epi16(_mm256_castsi256_si128(flags), _mm256_extracti128_si256(flags, 1));
  return static_cast<u32>(_mm_movemask_epi8(bytes)) | some_bits(at, 16, count, predicate);
}

#if !defined(BINOP_AVX512)
// Bit i: base - (totals[i] << doubled) >= threshold[i].
inline u32 reached_word(const i32* totals, int doubled, i32 base, const i32* threshold) {
  u32 word = 0;
  const __m256i from = _mm256_set1_epi32(base);
  for (int i = 0; i < 4; ++i) {
    const __m256i total = _mm256_load_si256(reinterpret_cast<const __m256i*>(totals + 8 * i));
    const __m256i dot = _mm256_sub_epi32(from, _mm256_sll_epi32(total, _mm_cvtsi32_si128(doubled)));
    const __m256i least = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(threshold + 8 * i));
    const __m256 below = _mm256_castsi256_ps(_mm256_cmpgt_epi32(least, dot));
    word |= static_cast<u32>(_mm256_movemask_ps(below)) << (8 * i);
  }
  return ~word;
}
#endif

// Eight half-precision floats, rounded to nearest, ties to even.
inline void store_halves(u16* out, const float* values) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                   _mm256_cvtps_ph(_mm256_loadu_ps(values), _MM_FROUND_TO_NEAREST_INT));
}

inline void load_halves(float* to, const u16* from) {
  _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}

// out[c][p] = in[p][c] for 8 x 8 floats.
inline void transpose(const float* in, i64 in_pitch, float* out, i64 out_pitch) {
  __m256 row[8];
  for (int i = 0; i < 8; ++i) row[i] = _mm256_loadu_ps(in + i * in_pitch);
  __m256 pair[8];
  for (int i = 0; i < 4; ++i) {
    pair[2 * i] = _mm256_unpacklo_ps(row[2 * i], row[2 * i + 1]);
    pair[2 * i + 1] = _mm256_unpackhi_ps(row[2 * i], row[2 * i + 1]);
  }
  __m256 quad[8];  // columns c (low lane) and c + 4 (high lane), of rows 0-3 and of rows 4-7
  for (int i = 0; i < 2; ++i) {
    quad[4 * i] = _mm256_shuffle_ps(pair[4 * i], pair[4 * i + 2], 0x44);
    quad[4 * i + 1] = _mm256_shuffle_ps(pair[4 * i], pair[4 * i + 2], 0xEE);
    quad[4 * i + 2] = _mm256_shuffle_ps(pair[4 * i + 1], pair[4 * i + 3], 0x44);
    quad[4 * i + 3] = _mm256_shuffle_ps(pair[4 * i + 1], pair[4 * i + 3], 0xEE);
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(out + i * out_pitch, _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x20));
    _mm256_storeu_ps(out + (i + 4) * out_pitch, _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x31));
  }
}

}  // namespace BINOP_PATH
