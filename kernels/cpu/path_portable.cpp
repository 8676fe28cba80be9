// Any processor.
#define BINOP_PATH portable

// clang-format off: the vectors first, then what is built on them
#include "vector_portable.h"
#include "popcount.h"
#include "path_of.h"
// clang-format on

static bool runs() { return true; }

// Eight vectors make a word of output bits.
extern const Path kPortable;
constexpr Path kPortable =
    BINOP_PATH::path_of<BINOP_PATH::Popcount<BINOP_PATH::Words, 1, 8>>("portable", runs);
