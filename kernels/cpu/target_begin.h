// What follows, up to target_end.h, is compiled for BINOP_TARGET: one file per instruction set
// needs no compiler flags of its own. Headers of the system stay outside.
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define BINOP_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define BINOP_TARGET_BEGIN(features) \
  BINOP_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#else
#define BINOP_TARGET_BEGIN(features) \
  BINOP_PRAGMA(GCC push_options)     \
  BINOP_PRAGMA(GCC target(features))
#endif
BINOP_TARGET_BEGIN(BINOP_TARGET)

#if !defined(__clang__)
#pragma GCC diagnostic push
// GCC 12 warns of the undefined operands inside its own AVX-512 intrinsics.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
