// NEON: every aarch64.
#if defined(__aarch64__)
#define BINOP_PATH neon
// clang-format off: the vectors first, then what is built on them
#include <arm_neon.h>
#include "vector_neon.h"
#include "popcount.h"
#include "path_of.h"
// clang-format on

static bool runs() { return true; }

// 16 sums, 2 activations, and a vector of weights at a time.
extern const Path kNeon;
constexpr Path kNeon =
    BINOP_PATH::path_of<BINOP_PATH::Popcount<BINOP_PATH::Words, 2, 8>>("neon", runs);
#endif
