// What compilers' own checks of the processor do not all know.
#pragma once

#include <cpuid.h>

inline bool has_half_conversions() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
