// Comparisons of two 16-bit floats in one word: 1.0 in the halves where they hold, else 0.0. NaN is
// neither at least nor at most anything.
#pragma once

#include "types.cuh"

#define COMPARE(RELATION, TYPE) \
  asm("set." RELATION "." TYPE "." TYPE " %0, %1, %2;" : "=r"(halves) : "r"(pair), "r"(bounds))
// (The upper half of 1.0f is that of bfloat16.)
#define COMPARE_FLOATS(RELATION)                                                               \
  float low, high;                                                                             \
  asm("set." RELATION ".f32.f32 %0, %1, %2;"                                                   \
      : "=f"(low)                                                                              \
      : "f"(__uint_as_float(pair << 16)), "f"(__uint_as_float(bounds << 16)));                 \
  asm("set." RELATION ".f32.f32 %0, %1, %2;"                                                   \
      : "=f"(high)                                                                             \
      : "f"(__uint_as_float(pair & 0xFFFF0000u)), "f"(__uint_as_float(bounds & 0xFFFF0000u))); \
  halves = __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x7632)

template <class Element>
__device__ u32 at_least(u32 pair, u32 bounds);
template <class Element>
__device__ u32 at_most(u32 pair, u32 bounds);

template <>
__device__ inline u32 at_least<float16>(u32 pair, u32 bounds) {
  u32 halves;
  COMPARE("ge", "f16x2");
  return halves;
}

template <>
__device__ inline u32 at_most<float16>(u32 pair, u32 bounds) {
  u32 halves;
  COMPARE("le", "f16x2");
  return halves;
}

// (Before sm_90 bfloat16 is compared as float32.)
template <>
__device__ inline u32 at_least<bfloat16>(u32 pair, u32 bounds) {
  u32 halves;
#if __CUDA_ARCH__ >= 900
  COMPARE("ge", "bf16x2");
#else
  COMPARE_FLOATS("ge");
#endif
  return halves;
}

template <>
__device__ inline u32 at_most<bfloat16>(u32 pair, u32 bounds) {
  u32 halves;
#if __CUDA_ARCH__ >= 900
  COMPARE("le", "bf16x2");
#else
  COMPARE_FLOATS("le");
#endif
  return halves;
}

#undef COMPARE
#undef COMPARE_FLOATS
