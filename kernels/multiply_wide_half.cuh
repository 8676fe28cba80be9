// sums[64 x 64] += a[64 rows x 16 of depth] * b[16 of depth x 64 columns] of 16-bit floats, in
// float32, by the four warps of a warpgroup; asynchronous (hopper.cuh orders it). Warp w has rows
// 16w to 16w + 15, of which each lane holds what it holds in multiply_half.cuh: sums[j] are of
// columns 8j to 8j + 7. b is in shared memory, in the layout of multiply_wide.cuh.
#pragma once

#include "multiply_wide.cuh"

#define SUMS(j) "+f"(sums[j][0]), "+f"(sums[j][1]), "+f"(sums[j][2]), "+f"(sums[j][3])
#define MULTIPLY_WIDE_HALF(TYPE)                                                            \
  asm volatile(                                                                             \
      "{\n\t.reg .pred p;\n\t.reg .b64 b;\n\tmov.b64 b, {%36, %37};\n\t"                    \
      "setp.ne.b32 p, %38, 0;\n\t"                                                          \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE                           \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "            \
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31},"    \
      " {%32, %33, %34, %35}, b, p, 1, 1, 0;\n\t}"                                          \
      : SUMS(0), SUMS(1), SUMS(2), SUMS(3), SUMS(4), SUMS(5), SUMS(6), SUMS(7)              \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.low), "r"(FilterTile<64>::kHigh), \
        "r"(accumulate))

// Without `accumulate`, what the sums were does not count.
template <class Element>
__device__ void multiply_async(float (&sums)[8][4], const u32 (&a)[4], FilterTile<64> b,
                               int accumulate);

template <>
__device__ inline void multiply_async<float16>(float (&sums)[8][4], const u32 (&a)[4],
                                               FilterTile<64> b, int accumulate) {
  MULTIPLY_WIDE_HALF("f16");
}

template <>
__device__ inline void multiply_async<bfloat16>(float (&sums)[8][4], const u32 (&a)[4],
                                                FilterTile<64> b, int accumulate) {
  MULTIPLY_WIDE_HALF("bf16");
}

#undef SUMS
#undef MULTIPLY_WIDE_HALF
