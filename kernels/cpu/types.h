// Element types as bit patterns, and scalar conversions that round as the ops define.
#pragma once

#include <cstdint>
#include <cstring>

#include "abi.h"

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i32 = std::int32_t;

constexpr int kWordBits = 32;

// Everything in this header and in the headers of one path lies in a namespace of that path: the
// same inline function is compiled for several instruction sets, and the linker must not merge
// the copies.
#ifndef BINOP_PATH
#define BINOP_PATH common
#endif

namespace BINOP_PATH {

template <class T>
inline T smaller(T a, T b) {
  return a < b ? a : b;
}

template <class T>
inline T larger(T a, T b) {
  return a > b ? a : b;
}

inline i64 divide_up(i64 value, i64 divisor) { return (value + divisor - 1) / divisor; }

template <class To, class From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// Bits of the last word of `channels` channels.
inline u32 tail_mask(i64 channels) {
  const int used = static_cast<int>(channels % kWordBits);
  return used == 0 ? ~0u : (1u << used) - 1u;
}

inline float half_to_float(u16 half) {
  const u32 sign = static_cast<u32>(half & 0x8000u) << 16;
  const u32 magnitude = half & 0x7FFFu;
  if (magnitude >= 0x7C00u) return bit_cast<float>(sign | 0x7F800000u | (magnitude << 13));
  if (magnitude >= 0x400u) return bit_cast<float>(sign | ((magnitude << 13) + (112u << 23)));
  // A subnormal half: its fraction counts units of 2**-24.
  return bit_cast<float>(sign | bit_cast<u32>(static_cast<float>(magnitude) * 0x1p-24f));
}

// To nearest, ties to even.
inline u16 float_to_half(float value) {
  const u32 bits = bit_cast<u32>(value);
  const u32 sign = (bits >> 16) & 0x8000u;
  const u32 magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<u16>(sign | 0x7E00u);
  if (magnitude >= 0x47800000u) return static_cast<u16>(sign | 0x7C00u);
  u32 half;
  u32 rest;
  u32 tie;
  if (magnitude >= 0x38800000u) {  // a normal half
    half = (magnitude - 0x38000000u) >> 13;
    rest = magnitude & 0x1FFFu;
    tie = 0x1000u;
  } else {
    if (magnitude < 0x33000000u) return static_cast<u16>(sign);
    const u32 shift = 126u - (magnitude >> 23);  // 14 to 24
    const u32 fraction = (magnitude & 0x7FFFFFu) | 0x800000u;
    half = fraction >> shift;
    rest = fraction & ((1u << shift) - 1u);
    tie = 1u << (shift - 1u);
  }
  if (rest > tie || (rest == tie && (half & 1u))) ++half;
  return static_cast<u16>(sign | half);
}

inline u16 float_to_bfloat16(float value) {
  const u32 bits = bit_cast<u32>(value);
  const u32 rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<u16>((bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded);
}

inline double load_float(const void* base, i64 index, i64 dtype) {
  switch (dtype) {
    case kFloat16:
      return half_to_float(static_cast<const u16*>(base)[index]);
    case kBfloat16:
      return bit_cast<float>(static_cast<u32>(static_cast<const u16*>(base)[index]) << 16);
    case kFloat32:
      return static_cast<const float*>(base)[index];
    default:
      return static_cast<const double*>(base)[index];
  }
}

// The bit pattern of an element type. A value's bit is 1 where
// (pattern & kept) <= most || pattern == also, as unsigned integers.
struct Predicate {
  u64 kept;
  u64 most;
  u64 also;
};

// v >= 0: up to infinity, and -0.0. int8 has one zero.
inline Predicate sign_predicate(i64 dtype) {
  switch (dtype) {
    case kFloat16:
      return {0xFFFFu, 0x7C00u, 0x8000u};
    case kBfloat16:
      return {0xFFFFu, 0x7F80u, 0x8000u};
    case kFloat32:
      return {0xFFFFFFFFu, 0x7F800000u, 0x80000000u};
    case kFloat64:
      return {~0ull, 0x7FF0000000000000ull, 0x8000000000000000ull};
    default:
      return {0xFFu, 0x7Fu, 0u};
  }
}

}  // namespace BINOP_PATH
