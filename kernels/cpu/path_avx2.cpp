// AVX2, FMA, F16C: x86 since 2013.
#if defined(__x86_64__)
#include "x86.h"

#define BINOP_PATH avx2
#define BINOP_TARGET "avx2,fma,f16c,bmi,bmi2,popcnt"
// clang-format off: the target first, then its vectors, then what is built on them
#include "target_begin.h"
#include "vector_avx2.h"
#include "lookup.h"
#include "path_of.h"
// clang-format on

static bool runs() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_half_conversions();
}

extern const Path kAvx2;
constexpr Path kAvx2 = BINOP_PATH::path_of<BINOP_PATH::Lookup<BINOP_PATH::Bytes, 4, 2>>(
    "avx2", runs, BINOP_PATH::peak<BINOP_PATH::NibbleShuffle<BINOP_PATH::Bytes>>);

#include "target_end.h"
#endif
