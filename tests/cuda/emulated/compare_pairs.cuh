// Stands in for kernels/compare_pairs.cuh.
#pragma once

#include "types.cuh"

template <class Element, class Compare>
u32 compare_halves(u32 pair, u32 bounds, Compare compare) {
  u32 halves = 0;
  for (int i = 0; i < 32; i += 16) {
    const float value = Element::to_float(static_cast<u16>(pair >> i));
    const float bound = Element::to_float(static_cast<u16>(bounds >> i));
    halves |= (compare(value, bound) ? Element::kOne : 0u) << i;
  }
  return halves;
}

template <class Element>
u32 at_least(u32 pair, u32 bounds) {
  return compare_halves<Element>(pair, bounds, [](float a, float b) { return a >= b; });
}

template <class Element>
u32 at_most(u32 pair, u32 bounds) {
  return compare_halves<Element>(pair, bounds, [](float a, float b) { return a <= b; });
}
