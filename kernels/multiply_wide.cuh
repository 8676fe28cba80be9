// sums[64 x N] += popc(a[64 rows x 256 bits] & b[N columns x 256 bits]), by the four warps of a
// warpgroup; asynchronous (hopper.cuh orders it). Lane l of warp w holds, in registers 4j to 4j+3,
// columns 8j + 2(l % 4) and + 1 of rows 16w + l / 4 and + 8; the fragments of a are those of
// multiply_bits (tensor_core.cuh).
#pragma once

#include "hopper.cuh"

// A filter tile in shared memory: 16 bytes (128 bits of depth) of every column, then the next 16.
// `low` and kHigh are what the product wants to know of it; a step of 256 bits further is
// low + kStep.
template <int Columns>
struct FilterTile {
  static constexpr u32 kStep = 2 * Columns;
  static constexpr u32 kHigh = 8;  // (distance to the next 8 columns, 128 bytes) / 16

  u32 low;  // address / 16, and (distance to the next 16 bytes of depth) / 16 in the high half

  static __device__ FilterTile at(u32 address) { return {(address >> 4) | Columns << 16}; }
};

// The 64 rows of a product in shared memory, 16 bytes (128 bits of depth) of each side by side.
// `low` as above, but the address may be that of any row.
struct RowTile {
  u32 low;

  static __device__ RowTile at(u32 address, int next_chunk) {
    return {address >> 4 | static_cast<u32>(next_chunk) >> 4 << 16};
  }
};

template <int Columns>
struct ProductSums {
  int values[Columns / 2];
};

#define SUMS_16                    \
  "%0, %1, %2, %3, %4, %5, %6, %7" \
  ", %8, %9, %10, %11, %12, %13, %14, %15"
#define SUMS_24 \
  SUMS_16       \
  ", %16, %17, %18, %19, %20, %21, %22, %23"
#define SUMS_32                              \
  SUMS_16                                    \
  ", %16, %17, %18, %19, %20, %21, %22, %23" \
  ", %24, %25, %26, %27, %28, %29, %30, %31"
#define SUMS_40 \
  SUMS_32       \
  ", %32, %33, %34, %35, %36, %37, %38, %39"
#define SUMS_48                              \
  SUMS_32                                    \
  ", %32, %33, %34, %35, %36, %37, %38, %39" \
  ", %40, %41, %42, %43, %44, %45, %46, %47"
#define SUMS_56 \
  SUMS_48       \
  ", %48, %49, %50, %51, %52, %53, %54, %55"
#define SUMS_64                              \
  SUMS_48                                    \
  ", %48, %49, %50, %51, %52, %53, %54, %55" \
  ", %56, %57, %58, %59, %60, %61, %62, %63"
#define SUMS_72 \
  SUMS_64       \
  ", %64, %65, %66, %67, %68, %69, %70, %71"
#define SUMS_80                              \
  SUMS_64                                    \
  ", %64, %65, %66, %67, %68, %69, %70, %71" \
  ", %72, %73, %74, %75, %76, %77, %78, %79"
#define SUMS_88 \
  SUMS_80       \
  ", %80, %81, %82, %83, %84, %85, %86, %87"
#define SUMS_96                              \
  SUMS_80                                    \
  ", %80, %81, %82, %83, %84, %85, %86, %87" \
  ", %88, %89, %90, %91, %92, %93, %94, %95"
#define SUMS_104 \
  SUMS_96        \
  ", %96, %97, %98, %99, %100, %101, %102, %103"
#define SUMS_112                                 \
  SUMS_96                                        \
  ", %96, %97, %98, %99, %100, %101, %102, %103" \
  ", %104, %105, %106, %107, %108, %109, %110, %111"
#define SUMS_120 \
  SUMS_112       \
  ", %112, %113, %114, %115, %116, %117, %118, %119"
#define SUMS_128                                     \
  SUMS_112                                           \
  ", %112, %113, %114, %115, %116, %117, %118, %119" \
  ", %120, %121, %122, %123, %124, %125, %126, %127"

#define BOUND_8(s, i)                                                                         \
  "+r"(s[i]), "+r"(s[i + 1]), "+r"(s[i + 2]), "+r"(s[i + 3]), "+r"(s[i + 4]), "+r"(s[i + 5]), \
      "+r"(s[i + 6]), "+r"(s[i + 7])
#define BOUND_16(s) BOUND_8(s, 0), BOUND_8(s, 8)
#define BOUND_24(s) BOUND_16(s), BOUND_8(s, 16)
#define BOUND_32(s) BOUND_16(s), BOUND_8(s, 16), BOUND_8(s, 24)
#define BOUND_40(s) BOUND_32(s), BOUND_8(s, 32)
#define BOUND_48(s) BOUND_32(s), BOUND_8(s, 32), BOUND_8(s, 40)
#define BOUND_56(s) BOUND_48(s), BOUND_8(s, 48)
#define BOUND_64(s) BOUND_48(s), BOUND_8(s, 48), BOUND_8(s, 56)
#define BOUND_72(s) BOUND_64(s), BOUND_8(s, 64)
#define BOUND_80(s) BOUND_64(s), BOUND_8(s, 64), BOUND_8(s, 72)
#define BOUND_88(s) BOUND_80(s), BOUND_8(s, 80)
#define BOUND_96(s) BOUND_80(s), BOUND_8(s, 80), BOUND_8(s, 88)
#define BOUND_104(s) BOUND_96(s), BOUND_8(s, 96)
#define BOUND_112(s) BOUND_96(s), BOUND_8(s, 96), BOUND_8(s, 104)
#define BOUND_120(s) BOUND_112(s), BOUND_8(s, 112)
#define BOUND_128(s) BOUND_112(s), BOUND_8(s, 112), BOUND_8(s, 120)

// The text of a product; FIRST to SEVENTH are the numbers of the operands after the sums.
#define PRODUCT(COLUMNS, COUNT) \
  "wgmma.mma_async.sync.aligned.m64n" #COLUMNS "k256.s32.b1.b1.and.popc {" SUMS_##COUNT "}, "

#define DEFINE_PRODUCTS(COLUMNS, COUNT, FIRST, SECOND, THIRD, FOURTH, FIFTH, SIXTH, SEVENTH)  \
  __device__ inline void multiply_async(ProductSums<COLUMNS>& sums, const u32(&a)[4],         \
                                        FilterTile<COLUMNS> b, int accumulate) {              \
    asm volatile("{\n\t.reg .pred p;\n\t.reg .b64 b;\n\tmov.b64 b, {%" FIFTH ", %" SIXTH      \
                 "};\n\tsetp.ne.b32 p, %" SEVENTH                                             \
                 ", 0;\n\t" PRODUCT(COLUMNS, COUNT) "{%" FIRST ", %" SECOND ", %" THIRD       \
                                                    ", %" FOURTH "}, b, p;\n\t}"              \
                 : BOUND_##COUNT(sums.values)                                                 \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.low),                    \
                   "r"(FilterTile<COLUMNS>::kHigh), "r"(accumulate));                         \
  }                                                                                           \
  __device__ inline void multiply_async(ProductSums<COLUMNS>& sums, RowTile a,                \
                                        FilterTile<COLUMNS> b, int accumulate) {              \
    asm volatile("{\n\t.reg .pred p;\n\t.reg .b64 a, b;\n\tmov.b64 a, {%" FIRST ", %" THIRD   \
                 "};\n\tmov.b64 b, {%" SECOND ", %" THIRD "};\n\tsetp.ne.b32 p, %" FOURTH     \
                 ", 0;\n\t" PRODUCT(COLUMNS, COUNT) "a, b, p;\n\t}"                           \
                 : BOUND_##COUNT(sums.values)                                                 \
                 : "r"(a.low), "r"(b.low), "r"(FilterTile<COLUMNS>::kHigh), "r"(accumulate)); \
  }

DEFINE_PRODUCTS(32, 16, "16", "17", "18", "19", "20", "21", "22")
DEFINE_PRODUCTS(48, 24, "24", "25", "26", "27", "28", "29", "30")
DEFINE_PRODUCTS(64, 32, "32", "33", "34", "35", "36", "37", "38")
DEFINE_PRODUCTS(80, 40, "40", "41", "42", "43", "44", "45", "46")
DEFINE_PRODUCTS(96, 48, "48", "49", "50", "51", "52", "53", "54")
DEFINE_PRODUCTS(112, 56, "56", "57", "58", "59", "60", "61", "62")
DEFINE_PRODUCTS(128, 64, "64", "65", "66", "67", "68", "69", "70")
DEFINE_PRODUCTS(144, 72, "72", "73", "74", "75", "76", "77", "78")
DEFINE_PRODUCTS(160, 80, "80", "81", "82", "83", "84", "85", "86")
DEFINE_PRODUCTS(176, 88, "88", "89", "90", "91", "92", "93", "94")
DEFINE_PRODUCTS(192, 96, "96", "97", "98", "99", "100", "101", "102")
DEFINE_PRODUCTS(208, 104, "104", "105", "106", "107", "108", "109", "110")
DEFINE_PRODUCTS(224, 112, "112", "113", "114", "115", "116", "117", "118")
DEFINE_PRODUCTS(240, 120, "120", "121", "122", "123", "124", "125", "126")
DEFINE_PRODUCTS(256, 128, "128", "129", "130", "131", "132", "133", "134")

#undef SUMS_16
#undef SUMS_24
#undef SUMS_32
#undef SUMS_40
#undef SUMS_48
#undef SUMS_56
#undef SUMS_64
#undef SUMS_72
#undef SUMS_80
#undef SUMS_88
#undef SUMS_96
#undef SUMS_104
#undef SUMS_112
#undef SUMS_120
#undef SUMS_128
#undef BOUND_8
#undef BOUND_16
#undef BOUND_24
#undef BOUND_32
#undef BOUND_40
#undef BOUND_48
#undef BOUND_56
#undef BOUND_64
#undef BOUND_72
#undef BOUND_80
#undef BOUND_88
#undef BOUND_96
#undef BOUND_104
#undef BOUND_112
#undef BOUND_120
#undef BOUND_128
#undef PRODUCT
#undef DEFINE_PRODUCTS
