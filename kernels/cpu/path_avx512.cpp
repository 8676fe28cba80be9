// AVX-512 F, BW, DQ, VL without a population count of vectors: Skylake-X, Cascade Lake.
#if defined(__x86_64__)
#include "x86.h"

#define BINOP_PATH avx512
#define BINOP_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2,popcnt"
// clang-format off: the target first, then its vectors, then what is built on them
#include "target_begin.h"
#include "vector_avx512.h"
#include "lookup.h"
#include "path_of.h"
// clang-format on

static bool runs() {
  return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && has_half_conversions();
}

extern const Path kAvx512;
constexpr Path kAvx512 = BINOP_PATH::path_of<BINOP_PATH::Lookup<BINOP_PATH::WideBytes, 4, 2>>(
    "avx512", runs, BINOP_PATH::peak<BINOP_PATH::NibbleShuffle<BINOP_PATH::WideBytes>>);

#include "target_end.h"
#endif
