// sums[64 x N] += popc(a[64 rows x 256 bits] & b[N columns x 256 bits]), by the four warps of a
// warpgroup; asynchronous (hopper.cuh orders it). Lane l of warp w holds, in registers 4j to 4j+3,
// columns 8j + 2(l % 4) and + 1 of rows 16w + l / 4 and + 8; the fragments of a are those of
// multiply_bits (tensor_core.cuh).
#pragma once

#include "hopper.cuh"

// A filter tile in shared memory: 16 bytes (128 bits of depth) of every column, then the next 16.
// `first` is its address / 16; a step of 256 bits further is `first` + 2 * Columns.
template <int Columns>
struct FilterTile {
  static constexpr u32 kStep = 2 * Columns;
  static constexpr u32 kSixteenBytesFurther = Columns << 16;  // leading offset / 16
  static constexpr u32 kEightColumnsFurther = 8;              // stride offset / 16

  u32 first;

  static __device__ FilterTile at(u32 address) { return {(address >> 4) | kSixteenBytesFurther}; }
};

template <int Columns>
struct ProductSums {
  int values[Columns / 2];
};

#define SUMS_8(s, i)                                                                          \
  "+r"(s[i]), "+r"(s[i + 1]), "+r"(s[i + 2]), "+r"(s[i + 3]), "+r"(s[i + 4]), "+r"(s[i + 5]), \
      "+r"(s[i + 6]), "+r"(s[i + 7])
#define SUMS_16(s, i) SUMS_8(s, i), SUMS_8(s, i + 8)
#define SUMS_32(s, i) SUMS_16(s, i), SUMS_16(s, i + 16)
#define SUMS_64(s, i) SUMS_32(s, i), SUMS_32(s, i + 32)

__device__ inline void multiply_async(ProductSums<32>& s, const u32 (&a)[4], FilterTile<32> b,
                                      int accumulate) {
  asm volatile(
      "{\n\t.reg .pred p;\n\t.reg .b64 b;\n\tmov.b64 b, {%20, %21};\n\t"
      "setp.ne.b32 p, %22, 0;\n\t"
      "wgmma.mma_async.sync.aligned.m64n32k256.s32.b1.b1.and.popc {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
      "}, {%16, %17, %18, %19}, b, p;\n\t}"
      : SUMS_16(s.values, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.first),
        "r"(FilterTile<32>::kEightColumnsFurther), "r"(accumulate));
}

__device__ inline void multiply_async(ProductSums<64>& s, const u32 (&a)[4], FilterTile<64> b,
                                      int accumulate) {
  asm volatile(
      "{\n\t.reg .pred p;\n\t.reg .b64 b;\n\tmov.b64 b, {%36, %37};\n\t"
      "setp.ne.b32 p, %38, 0;\n\t"
      "wgmma.mma_async.sync.aligned.m64n64k256.s32.b1.b1.and.popc {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, {%32, %33, %34, %35}, b, p;\n\t}"
      : SUMS_32(s.values, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.first),
        "r"(FilterTile<64>::kEightColumnsFurther), "r"(accumulate));
}

__device__ inline void multiply_async(ProductSums<96>& s, const u32 (&a)[4], FilterTile<96> b,
                                      int accumulate) {
  asm volatile(
      "{\n\t.reg .pred p;\n\t.reg .b64 b;\n\tmov.b64 b, {%52, %53};\n\t"
      "setp.ne.b32 p, %54, 0;\n\t"
      "wgmma.mma_async.sync.aligned.m64n96k256.s32.b1.b1.and.popc {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
      "}, {%48, %49, %50, %51}, b, p;\n\t}"
      : SUMS_32(s.values, 0), SUMS_16(s.values, 32)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.first),
        "r"(FilterTile<96>::kEightColumnsFurther), "r"(accumulate));
}

__device__ inline void multiply_async(ProductSums<128>& s, const u32 (&a)[4], FilterTile<128> b,
                                      int accumulate) {
  asm volatile(
      "{\n\t.reg .pred p;\n\t.reg .b64 b;\n\tmov.b64 b, {%68, %69};\n\t"
      "setp.ne.b32 p, %70, 0;\n\t"
      "wgmma.mma_async.sync.aligned.m64n128k256.s32.b1.b1.and.popc {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, {%64, %65, %66, %67}, b, p;\n\t}"
      : SUMS_64(s.values, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.first),
        "r"(FilterTile<128>::kEightColumnsFurther), "r"(accumulate));
}

__device__ inline void multiply_async(ProductSums<160>& s, const u32 (&a)[4], FilterTile<160> b,
                                      int accumulate) {
  asm volatile(
      "{\n\t.reg .pred p;\n\t.reg .b64 b;\n\tmov.b64 b, {%84, %85};\n\t"
      "setp.ne.b32 p, %86, 0;\n\t"
      "wgmma.mma_async.sync.aligned.m64n160k256.s32.b1.b1.and.popc {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
      "}, {%80, %81, %82, %83}, b, p;\n\t}"
      : SUMS_64(s.values, 0), SUMS_16(s.values, 64)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.first),
        "r"(FilterTile<160>::kEightColumnsFurther), "r"(accumulate));
}

__device__ inline void multiply_async(ProductSums<192>& s, const u32 (&a)[4], FilterTile<192> b,
                                      int accumulate) {
  asm volatile(
      "{\n\t.reg .pred p;\n\t.reg .b64 b;\n\tmov.b64 b, {%100, %101};\n\t"
      "setp.ne.b32 p, %102, 0;\n\t"
      "wgmma.mma_async.sync.aligned.m64n192k256.s32.b1.b1.and.popc {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
      "}, {%96, %97, %98, %99}, b, p;\n\t}"
      : SUMS_64(s.values, 0), SUMS_32(s.values, 64)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.first),
        "r"(FilterTile<192>::kEightColumnsFurther), "r"(accumulate));
}

__device__ inline void multiply_async(ProductSums<224>& s, const u32 (&a)[4], FilterTile<224> b,
                                      int accumulate) {
  asm volatile(
      "{\n\t.reg .pred p;\n\t.reg .b64 b;\n\tmov.b64 b, {%116, %117};\n\t"
      "setp.ne.b32 p, %118, 0;\n\t"
      "wgmma.mma_async.sync.aligned.m64n224k256.s32.b1.b1.and.popc {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
      "}, {%112, %113, %114, %115}, b, p;\n\t}"
      : SUMS_64(s.values, 0), SUMS_32(s.values, 64), SUMS_16(s.values, 96)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.first),
        "r"(FilterTile<224>::kEightColumnsFurther), "r"(accumulate));
}

__device__ inline void multiply_async(ProductSums<256>& s, const u32 (&a)[4], FilterTile<256> b,
                                      int accumulate) {
  asm volatile(
      "{\n\t.reg .pred p;\n\t.reg .b64 b;\n\tmov.b64 b, {%132, %133};\n\t"
      "setp.ne.b32 p, %134, 0;\n\t"
      "wgmma.mma_async.sync.aligned.m64n256k256.s32.b1.b1.and.popc {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, "
      "%127"
      "}, {%128, %129, %130, %131}, b, p;\n\t}"
      : SUMS_64(s.values, 0), SUMS_64(s.values, 64)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.first),
        "r"(FilterTile<256>::kEightColumnsFurther), "r"(accumulate));
}

#undef SUMS_8
#undef SUMS_16
#undef SUMS_32
#undef SUMS_64
