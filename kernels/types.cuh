// Fixed-width names, element types as bit patterns, and the conversions that the ops define.
//
// No CUDA header is included: the sources compile under NVRTC from memory. Types stand for bit
// patterns only; every rounding is spelled out here.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

template <bool Condition, class Yes, class No>
struct Choose {
  using Type = Yes;
};

template <class Yes, class No>
struct Choose<false, Yes, No> {
  using Type = No;
};

constexpr u32 kAllLanes = 0xFFFFFFFFu;

struct float16 {
  using Bits = u16;
  static constexpr u32 kInfinity = 0x7C00u;
  static constexpr u32 kMinusZero = 0x8000u;
  static constexpr u32 kOne = 0x3C00u;
  static constexpr int kFractionBits = 10;
  static constexpr bool kTopOfFloat = false;

  static __device__ float to_float(Bits bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
  }

  static __device__ Bits from_float(float value) {
    Bits bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
  }

  // Two values in one word; sm_80 and newer.
  static __device__ u32 pair_from_floats(float low, float high) {
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
  }

  // Bits of the largest value that is at most this non-negative one.
  static __device__ u32 largest_at_most(float value) {
    Bits bits;
    asm("cvt.rz.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
  }
};

struct bfloat16 {
  using Bits = u16;
  static constexpr u32 kInfinity = 0x7F80u;
  static constexpr u32 kMinusZero = 0x8000u;
  static constexpr u32 kOne = 0x3F80u;
  static constexpr int kFractionBits = 7;
  static constexpr bool kTopOfFloat = true;  // its bits are the upper half of the float's

  static __device__ float to_float(Bits bits) {
    return __uint_as_float(static_cast<u32>(bits) << 16);
  }

  static __device__ u32 pair_from_floats(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
  }

  static __device__ u32 largest_at_most(float value) { return __float_as_uint(value) >> 16; }

  static __device__ Bits from_float(float value) {
#if __CUDA_ARCH__ >= 800
    Bits bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
#else
    const u32 bits = __float_as_uint(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FFFu;
    return static_cast<Bits>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
#endif
  }
};

struct float32 {
  using Bits = u32;
  static constexpr u32 kInfinity = 0x7F800000u;
  static constexpr u32 kMinusZero = 0x80000000u;
  static constexpr u32 kOne = 0x3F800000u;

  static __device__ float to_float(Bits bits) { return __uint_as_float(bits); }
  static __device__ Bits from_float(float value) { return __float_as_uint(value); }
};

struct int8 {
  using Bits = u8;
  static constexpr u32 kInfinity = 0x7Fu;
  static constexpr u32 kMinusZero = 0u;  // int8 has one zero

  static __device__ float to_float(Bits bits) { return static_cast<signed char>(bits); }
};

// A scale of any float dtype as float32. The codes are those of binop/_cuda/launches.py.
__device__ inline float load_scale(const void* base, i64 index, i64 dtype) {
  switch (dtype) {
    case 0:
      return float16::to_float(static_cast<const u16*>(base)[index]);
    case 1:
      return bfloat16::to_float(static_cast<const u16*>(base)[index]);
    case 2:
      return static_cast<const float*>(base)[index];
    default:
      return __double2float_rn(static_cast<const double*>(base)[index]);
  }
}

// floor(value / divisor) of sizes, which stay below 2**48. Beyond 32 bits it goes through double
// precision: the compiler's own 64-bit division is a function call, which costs registers even
// where it is never taken.
__device__ inline i64 divide(i64 value, i64 divisor) {
  // Opaque, so that the compiler does not hoist the reciprocal out of the caller's loop and hold
  // it in registers there.
  asm volatile("" : "+l"(divisor));
  if (((value | divisor) >> 32) == 0) return static_cast<u32>(value) / static_cast<u32>(divisor);
  const double by = static_cast<double>(divisor);
  double inverse;
  asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(inverse) : "d"(by));
#pragma unroll
  for (int i = 0; i < 2; ++i) {  // from 20 exact bits to 40, to all
    inverse = __fma_rn(inverse, __fma_rn(-by, inverse, 1.0), inverse);
  }
  i64 quotient = static_cast<i64>(static_cast<double>(value) * inverse);
  const i64 rest = value - quotient * divisor;
  if (rest < 0) --quotient;
  if (rest >= divisor) ++quotient;
  return quotient;
}

// The same for 0 <= value < 2**31 by a divisor that the host turned into a multiplier (low half)
// and a shift (high half): `reciprocal` of binop/_cuda/launches.py.
__device__ inline int divide_by(int value, i64 reciprocal) {
  const u32 product = __umulhi(static_cast<u32>(value) * 2u, static_cast<u32>(reciprocal));
  return static_cast<int>(product >> static_cast<u32>(reciprocal >> 32));
}

__device__ inline i64 divide_up(i64 value, i64 divisor) {
  return divide(value + divisor - 1, divisor);
}
