// sums[16x8] += a[16 rows x 16 of depth] * b[16 of depth x 8 columns] of 16-bit floats, in float32;
// sm_80 and newer. Lane 4g + t holds rows g and g + 8 of a and column g of b, of each depths 2t and
// 2t + 1 in one word and 2t + 8 and 2t + 9 in the next, and of the sums columns 2t and 2t + 1.
#pragma once

#include "types.cuh"

#define MULTIPLY_HALF(TYPE)                                                           \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE                 \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])           \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))

template <class Element>
__device__ void multiply_half(float (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1);

template <>
__device__ inline void multiply_half<float16>(float (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  MULTIPLY_HALF("f16");
}

template <>
__device__ inline void multiply_half<bfloat16>(float (&sums)[4], const u32 (&a)[4], u32 b0,
                                               u32 b1) {
  MULTIPLY_HALF("bf16");
}

#undef MULTIPLY_HALF
