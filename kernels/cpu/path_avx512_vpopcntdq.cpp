// AVX-512 with VPOPCNTDQ: Ice Lake, Zen 4 and newer.
#if defined(__x86_64__)
#include "x86.h"

#define BINOP_PATH avx512_vpopcntdq
#define BINOP_TARGET \
  "avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,avx2,fma,f16c,bmi,bmi2,popcnt"
#define BINOP_VPOPCNTDQ
// clang-format off: the target first, then its vectors, then what is built on them
#include "target_begin.h"
#include "vector_avx512.h"
#include "popcount.h"
#include "path_of.h"
// clang-format on

static bool runs() {
  return __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         has_half_conversions();
}

// 16 sums, 2 vectors of weights, and registers to spare; two vectors make a word of output bits.
extern const Path kAvx512Vpopcntdq;
constexpr Path kAvx512Vpopcntdq =
    BINOP_PATH::path_of<BINOP_PATH::Popcount<BINOP_PATH::WideWords, 8, 2>>("avx512_vpopcntdq",
                                                                           runs);

#include "target_end.h"
#endif
